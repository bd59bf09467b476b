"""Scales that are right for every width (after section 8.4): the maximal update parametrisation, μP.

Yang et al. 2022, table 3, relative to a base model of the same kind: what is good at its width is good at all. It takes
a scheme whose variance goes with 1 / fan_in (LeCun, He, the standard one), and a learning rate of its own for each
parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.errors import NetworkError
from thalweg.initialise.places import Place, places
from thalweg.initialise.weight import Scheme, Weight, name

Role = Literal["input", "hidden", "output", "vector", "fixed"]


class Width(NamedTuple):
    """How a parameter grows with the width, and the factors of its first scale and of its lr, for SGD and for Adam."""

    name: str
    role: Role
    std: float
    sgd: float
    adam: float


def widths(model: nn.Module, base: nn.Module) -> list[Width]:
    """The role and the factors of each parameter of a model, beside a narrower (or wider) base model.

    With r the ratio of the widths: an "input" weight (only its outputs grow) or a "vector" (a bias) has SGD's lr
    times r; a "hidden" weight Adam's lr over r; an "output" weight (only its inputs grow) is √r smaller than the scheme
    has it, with both lrs over r. What does not grow is "fixed". Adam's column is for every rule whose steps do not
    depend on the gradient's size. Raises NetworkError where the two models do not have the same parameters.

    >>> build = lambda n: nn.Sequential(nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 10))
    >>> for w in widths(build(256), build(64)):
    ...     print(w.name, w.role, w.std, w.sgd, w.adam)
    0.weight input 1.0 4.0 1.0
    0.bias vector 1.0 4.0 1.0
    2.weight hidden 1.0 1.0 0.25
    2.bias vector 1.0 4.0 1.0
    4.weight output 0.5 0.25 0.25
    4.bias fixed 1.0 1.0 1.0
    """
    ours, theirs = places(model), {place.name: place for place in places(base)}
    if [place.name for place in ours] != list(theirs):
        missing = next(iter({place.name for place in ours} ^ set(theirs)), "their order")
        raise NetworkError(f"the base model differs by {missing}: give the same model of another width")
    return [_width(place, theirs[place.name]) for place in ours]


def mup(scheme: Scheme, model: nn.Module, base: nn.Module) -> Scheme:
    """A scheme with the scales of μP for a model, beside a base model in which they are the scheme's own.

    >>> from thalweg.initialise.variance import lecun_normal
    >>> mup(lecun_normal, nn.Linear(8, 2), nn.Linear(2, 2)).__name__
    'μP of lecun_normal'
    """
    factors = {width.name: width.std for width in widths(model, base)}

    def draw(weight: Weight, generator: torch.Generator) -> Tensor:
        return factors[weight.name] * scheme(weight, generator)

    draw.__name__ = f"μP of {name(scheme)}"
    return draw


def groups(
    model: nn.Module, found: Iterable[Width], lr: float, family: Literal["sgd", "adam"] = "adam"
) -> list[dict[str, Any]]:
    """The parameters in groups of one lr each, as optimizers take them.

    >>> build = lambda n: nn.Sequential(nn.Linear(64, n), nn.ReLU(), nn.Linear(n, 10))
    >>> model = build(256)
    >>> [(len(g["params"]), g["lr"]) for g in groups(model, widths(model, build(64)), lr=0.01)]
    [(3, 0.01), (1, 0.0025)]
    """
    by_name = {place.name: place for place in places(model)}
    made: dict[float, dict[str, Any]] = {}
    for width in found:
        factor = width.sgd if family == "sgd" else width.adam
        place = by_name[width.name]
        own = place.parametrised.parameters() if place.parametrised else [getattr(place.module, place.attribute)]
        made.setdefault(factor, {"params": [], "lr": lr * factor})["params"] += [p for p in own if p.requires_grad]
    return [group for group in made.values() if group["params"]]


def _width(place: Place, base: Place) -> Width:
    if not place.drawn:
        ratio = math.prod(place.value().shape) / math.prod(base.value().shape)
        return Width(place.name, "vector", 1.0, ratio, 1.0) if ratio != 1 else Width(place.name, "fixed", 1.0, 1.0, 1.0)
    ours, theirs = place.drawn[0].weight, base.drawn[0].weight
    into, out = ours.fan_in / theirs.fan_in, ours.fan_out / theirs.fan_out
    if into == 1:
        return Width(place.name, "input" if out != 1 else "fixed", 1.0, out, 1.0)
    if out == 1:
        return Width(place.name, "output", 1 / math.sqrt(into), 1 / into, 1 / into)
    return Width(place.name, "hidden", 1.0, 1.0, 1 / into)
