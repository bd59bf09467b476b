"""Where a model keeps its parameters (section 8.4): every one once, tied, parametrised or plain."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from thalweg.core.errors import NetworkError
from thalweg.initialise.layers import Contents, Draw, contents

HOOKED = ("weight_g", "weight_v", "weight_orig")  # what the old weight_norm and spectral_norm make of a weight


@dataclass
class Place:
    """A parameter: the layer that has it, its name in it, what goes into it; `names` are all it has in the model."""

    module: nn.Module
    attribute: str
    names: list[str]
    made: Contents

    @property
    def name(self) -> str:
        """What it is called in a report."""
        return " = ".join(self.names)

    @property
    def drawn(self) -> list[Draw]:
        """The weights that a scheme is asked for."""
        return [] if isinstance(self.made, str) else [part for part in self.made if isinstance(part, Draw)]

    @property
    def parametrised(self) -> ParametrizationList | None:
        """What computes it, where it is computed (torch.nn.utils.parametrize)."""
        return _computed(self.module).get(self.attribute)

    @torch.no_grad()
    def value(self) -> Tensor:
        """What it is now; where it is computed, nothing that computing it changes is left changed."""
        found: Tensor
        if self.parametrised is not None:
            found = copy.deepcopy(self.parametrised)()
        else:
            found = getattr(self.module, self.attribute)
        return found.detach()

    @torch.no_grad()
    def put(self, value: Tensor) -> bool:
        """Makes it that, in place; False, and nothing is changed, where its parametrisation cannot give this value."""
        if self.parametrised is None:
            getattr(self.module, self.attribute).copy_(value)
            return True
        inverted = copy.deepcopy(self.parametrised)
        with torch.random.fork_rng(devices=[]):
            try:
                inverted.right_inverse(value)
            except (NotImplementedError, RuntimeError, ValueError):
                return False
            if not torch.allclose(copy.deepcopy(inverted)(), value, rtol=1e-4, atol=1e-6):
                return False
        new = inverted.state_dict()
        for name, tensor in self.parametrised.state_dict().items():
            tensor.copy_(new[name])
        return True


def places(model: nn.Module) -> list[Place]:
    """Every parameter of a model once, in the model's order.

    One that several layers share is what it is in the layer that sums up the most inputs with it. Raises NetworkError
    for a model whose layers wait for their first batch.

    >>> [place.name for place in places(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))]
    ['0.weight', '0.bias']
    """
    found: dict[int, Place] = {}
    for place, parameter in _all(model):
        old = found.get(id(parameter))
        if old is None:
            found[id(parameter)] = place
        elif _inputs(place) > _inputs(old):
            found[id(parameter)] = Place(place.module, place.attribute, old.names + place.names, place.made)
        else:
            old.names += place.names
    return list(found.values())


def _all(model: nn.Module) -> Iterator[tuple[Place, Tensor]]:
    for path, module in model.named_modules():
        if isinstance(module, ParametrizationList):
            continue
        named = {name: p for name, p in module._parameters.items() if p is not None}
        lazy = next((name for name, p in named.items() if nn.parameter.is_lazy(p)), None)
        if lazy is not None:
            raise NetworkError(f"{_path(path, lazy)} has no shape before the first batch: give data, or call the model")
        shapes = {name: tuple(p.shape) for name, p in named.items()}
        lists = _computed(module)
        for name, computed in lists.items():
            shapes[name] = tuple(copy.deepcopy(computed)().shape)
        for name, made in _contents(module, shapes):
            own = [named[name]] if name in named else list(lists[name].parameters())
            yield Place(module, name, [_path(path, name)], _refused(own) or made), own[0]


def _computed(module: nn.Module) -> dict[str, ParametrizationList]:
    """What computes parameters of a module; a dictionary of torch's own, which has no `get`."""
    lists: Mapping[str, ParametrizationList] = getattr(module, "parametrizations", {})
    return dict(lists.items())


def _contents(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Contents]]:
    if any(name in shapes for name in HOOKED):
        for name in shapes:
            yield name, "computed by an old hook: use torch.nn.utils.parametrizations.weight_norm or spectral_norm"
    elif shapes:
        yield from contents(module, shapes)


def _refused(own: list[Tensor]) -> str:
    if not any(p.requires_grad for p in own):
        return "frozen"
    if any(p.is_meta for p in own):
        return "on the meta device: it has no values yet"
    if any(p.is_complex() for p in own):
        return "complex: no scheme is for complex weights"
    return ""


def _inputs(place: Place) -> float:
    return max((part.weight.fan_in for part in place.drawn), default=0.0)


def _path(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
