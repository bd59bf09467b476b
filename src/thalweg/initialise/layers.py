"""What the parameters of each kind of layer are made of (section 8.4): weights to draw, and constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from thalweg.initialise.weight import Kind, Weight

FORGET = 1.0  # the bias of an LSTM's forget gate (Jozefowicz et al. 2015)


class Draw(NamedTuple):
    """A weight to draw, and where it goes: some rows of the parameter, perhaps with inputs before outputs."""

    weight: Weight
    rows: slice = slice(None)
    transposed: bool = False


class Fill(NamedTuple):
    """A constant in some entries of a parameter."""

    value: float
    rows: slice = slice(None)


Contents = tuple[Draw | Fill, ...] | str  # or the reason why it is left alone
Shapes = dict[str, tuple[int, ...]]


def contents(module: nn.Module, shapes: Shapes) -> Iterator[tuple[str, Contents]]:
    """What goes into each parameter of a layer's own, by its name in the layer; `shapes` are theirs.

    >>> [name for name, _ in contents(nn.Linear(3, 2), {"weight": (2, 3), "bias": (2,)})]
    ['weight', 'bias']
    """
    for kinds, known in _KNOWN:
        if isinstance(module, kinds):
            made = known(module, shapes)
            for name in shapes:
                yield name, made.get(name, f"a parameter of {type(module).__name__} that no scheme is for")
            return
    for name in shapes:
        yield name, f"no layer that is known, but a parameter of {type(module).__name__}"


def _linear(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    outputs, *inputs = shapes["weight"]  # of Bilinear: products of two inputs each
    n = math.prod(inputs)
    return {"weight": (Draw(Weight((outputs, *inputs), n, outputs)),), "bias": (Fill(0.0),)}


def _convolution(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    """Each group is a map of its own; with a stride an input reaches fewer outputs than the kernel has places."""
    assert isinstance(module, _ConvNd)
    groups, kernel = module.groups, shapes["weight"][2:]
    outputs, inputs = module.out_channels // groups, module.in_channels // groups
    transposed = isinstance(module, _ConvTransposeNd)
    size = math.prod(kernel)
    reached = math.prod(max(1.0, k / s) for k, s in zip(kernel, module.stride, strict=True))
    fan_in, fan_out = (inputs * reached, outputs * size) if transposed else (inputs * size, outputs * reached)
    weight = Weight((outputs, inputs, *kernel), fan_in, fan_out)
    rows = inputs if transposed else outputs
    parts = tuple(Draw(weight, slice(i * rows, (i + 1) * rows), transposed) for i in range(groups))
    return {"weight": parts, "bias": (Fill(0.0),)}


def _table(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    """One row is looked up at a time: a sum of one input; the row that stands for nothing is zero."""
    assert isinstance(module, nn.Embedding | nn.EmbeddingBag)
    number, size = shapes["weight"]
    drawn = Draw(Weight((size, number), 1, size, "table"), transposed=True)
    if module.padding_idx is None:
        return {"weight": (drawn,)}
    return {"weight": (drawn, Fill(0.0, slice(module.padding_idx, module.padding_idx + 1)))}


def _recurrent(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    """Gates are stacked, and each is a map of its own; an LSTM's forget gate, the second, starts open."""
    assert isinstance(module, nn.RNNBase | nn.RNNCellBase)
    gates = 4 if isinstance(module, nn.LSTM | nn.LSTMCell) else 3 if isinstance(module, nn.GRU | nn.GRUCell) else 1
    made: dict[str, Contents] = {}
    for name, shape in shapes.items():
        kind = name.split("_l")[0]
        if kind == "weight_hr":  # an LSTM's projection
            made[name] = _stacked(shape, 1, "dense")
        elif kind in ("weight_ih", "weight_hh"):
            made[name] = _stacked(shape, gates, "recurrent" if kind == "weight_hh" else "dense")
        elif kind == "bias_ih" and gates == 4:
            size = shape[0] // 4
            made[name] = (Fill(0.0), Fill(FORGET, slice(size, 2 * size)))
        elif kind.startswith("bias"):
            made[name] = (Fill(0.0),)
    return made


def _attention(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    """Queries, keys and values are three maps, stacked or not; the output's is a layer of its own."""
    made: dict[str, Contents] = {"in_proj_bias": (Fill(0.0),)}
    if "in_proj_weight" in shapes:
        made["in_proj_weight"] = _stacked(shapes["in_proj_weight"], 3, "dense")
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        if name in shapes:
            made[name] = _stacked(shapes[name], 1, "dense")
    return made


def _stacked(shape: tuple[int, ...], parts: int, kind: Kind) -> tuple[Draw, ...]:
    rows, inputs = shape[0] // parts, shape[1]
    weight = Weight((rows, inputs), inputs, rows, kind)
    return tuple(Draw(weight, slice(i * rows, (i + 1) * rows)) for i in range(parts))


def _norm(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    return {"weight": (Fill(1.0),), "bias": (Fill(0.0),)}


def _prelu(module: nn.Module, shapes: Shapes) -> dict[str, Contents]:
    return {"weight": (Fill(0.25),)}


_KNOWN: tuple[tuple[tuple[type[nn.Module], ...], Callable[[nn.Module, Shapes], dict[str, Contents]]], ...] = (
    ((nn.Linear, nn.Bilinear), _linear),
    ((_ConvNd,), _convolution),
    ((nn.Embedding, nn.EmbeddingBag), _table),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    ((nn.MultiheadAttention,), _attention),
    ((_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _norm),
    ((nn.PReLU,), _prelu),
)


def filled(target: Tensor, made: tuple[Draw | Fill, ...], draw: Callable[[Weight], Tensor]) -> None:
    """Writes what a parameter is made of into a tensor of its shape, in place.

    >>> import torch
    >>> target = torch.ones(4)
    >>> filled(target, (Fill(0.0), Fill(1.0, slice(1, 2))), torch.zeros)
    >>> target
    tensor([0., 1., 0., 0.])
    """
    for part in made:
        place = target[part.rows]
        if isinstance(part, Fill):
            place.fill_(part.value)
        else:
            drawn = draw(part.weight)
            place.copy_(drawn.transpose(0, 1) if part.transposed else drawn)
