"""Scales that are found on a batch of data (section 8.4): the activations say how large weights should be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from thalweg.core.errors import NetworkError
from thalweg.initialise.orthogonal import orthogonal
from thalweg.initialise.places import Place
from thalweg.initialise.variance import lecun_normal
from thalweg.initialise.weight import Scheme

TOLERANCE, PASSES = 0.01, 10  # of a layer's variance from 1; the paper has 0.1
OCTAVES, HALVINGS = 8, 30  # a gain is looked for between 2**-8 and 2**8

Saw = Callable[[Place, Tensor], Tensor | None]
Adjust = Callable[[nn.Module, list[Place], Tensor], dict[str, str]]


class DataDriven(NamedTuple):
    """A scheme that ends with a look at data: `start` draws the weights, `adjust` changes their scales.

    `adjust(model, places, inputs)` works in place, and says what it did by the names of places.
    """

    start: Scheme
    adjust: Adjust


def unit_variance(model: nn.Module, places: list[Place], inputs: Tensor) -> dict[str, str]:
    """LSUV: orthogonal weights, then each layer scaled so that its outputs on a batch have variance 1 (Mishkin 2016).

    A layer's outputs are as large as its weights, so that one pass over the model scales every layer in turn, each
    seeing what the scaled ones before it give; further passes (10 at most) are for layers that are used twice. Raises
    NetworkError for a layer that answers the same to every example.
    """
    factors: dict[str, float] = {}
    done: set[str] = set()
    off: list[float] = []

    def saw(place: Place, output: Tensor) -> Tensor | None:
        if place.name in done:
            return None
        done.add(place.name)
        variance = float(output.double().var())
        if not (math.isfinite(variance) and variance > 0):
            raise NetworkError(
                f"{place.name} answers with a variance of {variance:g} on the batch: no scale makes that 1; give more "
                "examples, or another scheme"
            )
        off.append(abs(variance - 1))
        if off[-1] <= TOLERANCE or not place.put(place.value() / math.sqrt(variance)):
            return None
        factors[place.name] = factors.get(place.name, 1.0) / math.sqrt(variance)
        return output / math.sqrt(variance)

    for _ in range(PASSES):
        with _watched(places, saw):
            model(inputs)
        if max(off, default=0.0) <= TOLERANCE:
            break
        off.clear()
        done.clear()
    return {name: f"times {factor:.3g} for outputs of variance 1" for name, factor in factors.items()}


def one_gain(model: nn.Module, places: list[Place], inputs: Tensor) -> dict[str, str]:
    """One gain for all hidden layers with which the signal on a batch comes out of the last one with mean square 1.

    Found by bisection from weights of variance 1 / m; in a deep net of tanh it is 1.593, the gain of tanh. Raises
    NetworkError where there are fewer than two hidden layers, or the signal does not depend on the gain (normalised
    layers).
    """
    squares: dict[str, float] = {}

    def saw(place: Place, output: Tensor) -> None:
        squares.setdefault(place.name, float(output.double().square().mean()))

    with _watched(places, saw):
        model(inputs)
    by_name = {place.name: place for place in places}
    hidden = [by_name[name] for name in list(squares)[:-1] if by_name[name].put(by_name[name].value())]
    if len(hidden) < 2:
        raise NetworkError(f"a gain is for deep models: this one has {len(hidden)} hidden layers; use lsuv")
    starts = [place.value().clone() for place in hidden]

    def size(gain: float) -> float:
        for place, start in zip(hidden, starts, strict=True):
            place.put(gain * start)
        squares.clear()
        with _watched(places, saw):
            model(inputs)
        square = squares[hidden[-1].name]
        return math.inf if math.isnan(square) else square

    low, high = -float(OCTAVES), float(OCTAVES)
    if not size(2**low) < 1 < size(2**high):
        raise NetworkError(
            f"the signal in {hidden[-1].name} has a mean square of {size(2**low):.3g} with a gain of {2**low:g} and "
            f"{size(2**high):.3g} with {2**high:g}: it is not the gain that decides; use he_normal or orthogonal"
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(2**middle) < 1 else (low, middle)
    size(2**high)
    return {place.name: f"times {2**high:.4g} for a signal of mean square 1" for place in hidden}


lsuv = DataDriven(orthogonal, unit_variance)
gain_search = DataDriven(lecun_normal, one_gain)


@contextmanager
def _watched(places: list[Place], saw: Saw) -> Iterator[None]:
    """Within it, `saw(place, output)` is told what each layer answers, and may answer in its place."""

    def hook(place: Place) -> Callable[..., Tensor | None]:
        return lambda module, args, output: saw(place, output)

    handles = [
        place.module.register_forward_hook(hook(place))
        for place in places
        if place.drawn and isinstance(place.module, nn.Linear | nn.Bilinear | _ConvNd)
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
