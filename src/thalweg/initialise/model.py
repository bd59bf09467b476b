"""A whole model, by the types of its layers (section 8.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.errors import AlgorithmError
from thalweg.initialise.data_driven import DataDriven
from thalweg.initialise.layers import Fill, filled
from thalweg.initialise.places import Place, places
from thalweg.initialise.schemes import scheme as named
from thalweg.initialise.weight import Scheme, Weight, name


class Begun(NamedTuple):
    """What became of a parameter: what was done, and the standard deviation of what is in it now."""

    name: str
    what: str
    std: float


@dataclass(frozen=True)
class Initialised:
    """What `initialise` did: one line a parameter, in the model's order."""

    scheme: str
    parameters: tuple[Begun, ...]

    def __str__(self) -> str:
        wide = max((len(p.name) for p in self.parameters), default=0)
        lines = (f"  {p.name:<{wide}}  std {p.std:<8.3g}  {p.what}" for p in self.parameters)
        return "\n".join([self.scheme, *lines])

    def left_alone(self) -> list[Begun]:
        """The parameters that are as they were, each with the reason."""
        return [p for p in self.parameters if p.what.startswith(LEFT)]


LEFT = "left alone: "


@torch.no_grad()
def initialise(
    model: nn.Module,
    scheme: str | Scheme | DataDriven = "he_normal",
    data: Any = None,
    *,
    generator: torch.Generator | int = 0,
) -> Initialised:
    """Gives a model new parameters in place, and says what it did to each.

    Weights of layers that are known (linear, convolution, embedding, recurrent, attention) are drawn by the scheme, a
    name of SCHEMES or a function: each gate, group and projection of its own. Biases become 0, an LSTM's forget gates
    1, the weights of normalisation 1. Frozen parameters and those of unknown layers are left alone, and the report says
    so. Weights that are tied are drawn once, as in the layer that sums up the most inputs.

    `data` is a batch, its inputs or a pair (inputs, targets): data-driven schemes look at it, and lazy layers take
    their shapes from it (and keep them). `generator` is a torch.Generator on the CPU, or a seed: the same one gives the
    same parameters on every device. Buffers, gradients and random numbers elsewhere stay as they are, and on an error
    so does every parameter. Raises AlgorithmError for an unknown scheme, or one that gives what does not fit;
    NetworkError for a model that it cannot work on.

    >>> print(initialise(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), "he_normal"))
    he_normal
      0.weight  std 0.176     he_normal, fan in 64 and out 32
      0.bias    std 0         0
      2.weight  std 0.26      he_normal, fan in 32 and out 10
      2.bias    std 0         0
    """
    chosen = named(scheme) if isinstance(scheme, str) else scheme
    called = scheme if isinstance(scheme, str) else name(chosen.adjust if isinstance(chosen, DataDriven) else chosen)
    random = generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator)
    inputs = data[0] if isinstance(data, tuple | list) else data
    if isinstance(chosen, DataDriven) and inputs is None:
        raise AlgorithmError(f"{called} looks at data: give a batch, initialise(model, '{called}', inputs)")
    with _or_as_it_was(model, random):
        if inputs is not None and any(nn.parameter.is_lazy(p) for p in model.parameters()):
            model(inputs)
        found = places(model)
        start = chosen.start if isinstance(chosen, DataDriven) else chosen
        done = {place.name: _begin(place, start, random) for place in found}
        if isinstance(chosen, DataDriven):
            for place, what in chosen.adjust(model, found, inputs).items():
                done[place] += f", {what}"
    return Initialised(called, tuple(Begun(place.name, done[place.name], _std(place)) for place in found))


def _begin(place: Place, scheme: Scheme, generator: torch.Generator) -> str:
    """Writes a parameter anew, where it can be; what was done, in words."""
    if isinstance(place.made, str):
        return f"{LEFT}{place.made}"
    value = place.value().clone()
    filled(value, place.made, lambda weight: _drawn(scheme, weight._replace(name=place.name), generator))
    if not place.put(value):
        computed = ", ".join(type(part).__name__ for part in place.parametrised or ())
        return f"{LEFT}{computed} cannot give what {name(scheme)} draws"
    constants = {f"{part.value:g}" for part in place.made if isinstance(part, Fill)}
    if not place.drawn:
        return " and ".join(sorted(constants))
    weight, times = place.drawn[0].weight, len(place.drawn)
    each = f"{times} times " if times > 1 else ""
    kind = "" if weight.kind == "dense" else f", {weight.kind}"
    return f"{each}{name(scheme)}, fan in {weight.fan_in:g} and out {weight.fan_out:g}{kind}"


def _drawn(scheme: Scheme, weight: Weight, generator: torch.Generator) -> Tensor:
    drawn = scheme(weight, generator)
    if tuple(drawn.shape) != tuple(weight.shape) or not torch.isfinite(drawn).all():
        what = f"shape {tuple(drawn.shape)}" if torch.isfinite(drawn).all() else "numbers that are not finite"
        raise AlgorithmError(
            f"{name(scheme)} gave {what} for {weight.name}: it must give finite numbers of shape {tuple(weight.shape)}"
        )
    return drawn


def _std(place: Place) -> float:
    if any(p.is_meta for p in place.module.parameters(recurse=False)):
        return float("nan")
    value = place.value()
    return float(value.abs().double().std(correction=0) if value.is_complex() else value.double().std(correction=0))


@contextmanager
def _or_as_it_was(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Buffers and random numbers are afterwards as they were; where something is raised, parameters are too."""
    parameters, buffers = _kept(model.named_parameters()), _kept(model.named_buffers())
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    drawn = generator.get_state()
    with torch.random.fork_rng(devices=devices):
        seed = int(torch.randint(2**62, (), generator=generator.clone_state()))
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        try:
            yield
        except BaseException:
            generator.set_state(drawn)
            _put_back({**parameters, **buffers}, [*model.named_parameters(), *model.named_buffers()])
            raise
        parts = {n: b for n, b in buffers.items() if "parametrizations." not in n}  # those are part of a weight
        _put_back(parts, model.named_buffers())


def _kept(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {n: tensor.detach().clone() for n, tensor in tensors if not nn.parameter.is_lazy(tensor)}


def _put_back(before: dict[str, Tensor], now: Iterable[tuple[str, Tensor]]) -> None:
    for n, tensor in now:
        if n in before:
            tensor.copy_(before[n])
