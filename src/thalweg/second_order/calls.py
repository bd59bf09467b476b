"""What a call of one of torch's functions says of a layer: what goes into its weight, what comes out (section 8.6)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

F = nn.functional

LINEAR, CONVOLUTION, EMBEDDING, SCALE, SHIFT = "linear", "convolution", "embedding", "scale", "shift"
VECTORS = (SCALE, SHIFT)
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
NORMALISATIONS = (F.layer_norm, F.group_norm, F.batch_norm, F.instance_norm, F.rms_norm)

Gradients = Callable[[Tensor], Tensor]


class Use(NamedTuple):
    """One call of a layer: where its weight is in theta, a matrix (rows, columns) for each of `groups`.

    At a position, the gradient of the weight is the outer product of what `gradients` and `inputs` give (of an
    embedding the other way round: what goes in are its rows). The scale and the shift of a normalisation are a column.
    """

    kind: str
    at: int
    rows: int
    columns: int
    groups: int
    bias: int | None  # where it is in theta, if it is trained
    edge: GradientEdge  # of the output
    inputs: Callable[[], Tensor] | None  # (examples, positions, groups, columns); tokens (examples, positions); or none
    gradients: Gradients  # from several of the output, (k, ...), to (k, examples, positions, groups, rows)


class Attention(NamedTuple):
    """Inside torch's attention: the examples are the last axis but one, and several projections may be one weight."""

    examples: int
    rows: int  # of a projection


class Call(NamedTuple):
    """A call that is read."""

    where: Callable[[Tensor], int | None]  # where in theta a trained parameter, or a part of it in its order, starts
    edge: GradientEdge
    attention: Attention | None

    def use(
        self, kind: str, weight: Tensor, bias: Tensor | None, inputs: Callable[[], Tensor] | None, gradients: Gradients,
        groups: int = 1,
    ) -> list[Use]:  # fmt: skip
        """The use of a weight and its bias; of the bias alone, or none, where the weight is not trained."""
        at, shift = self.where(weight), None if bias is None else self.where(bias)
        columns = 1 if kind in VECTORS else weight[0].numel()
        rows = len(weight) // groups
        use = Use(kind, -1 if at is None else at, rows, columns, groups, shift, self.edge, inputs, gradients)
        if at is None:
            return [] if shift is None else [shift_of(use)]
        return [use]


def shift_of(use: Use) -> Use:
    """The bias of a use by itself."""
    assert use.bias is not None
    rows = use.groups * use.rows
    return Use(SHIFT, use.bias, rows, 1, 1, None, use.edge, None, lambda g: use.gradients(g).flatten(3).unsqueeze(3))


def read(func: Any, args: Any, kwargs: Any, call: Call) -> list[Use]:
    """The uses that a call of a function is: none of one that is not known, or not in this way.

    >>> edge = torch.autograd.graph.get_gradient_edge(torch.ones(1, requires_grad=True))
    >>> weight = torch.ones(2, 3)
    >>> [use] = read(F.linear, (torch.ones(5, 3), weight), {}, Call(lambda x: 0 if x is weight else None, edge, None))
    >>> use.kind, use.inputs().shape, use.gradients(torch.ones(4, 5, 2)).shape
    ('linear', torch.Size([5, 1, 1, 3]), torch.Size([4, 5, 1, 1, 2]))
    """
    if func is F.linear:
        return _linear(call, *args, **kwargs)
    if func in CONVOLUTIONS:
        return _convolution(call, *args, **kwargs)
    if func is F.embedding or func in NORMALISATIONS:
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        return _embedding(call, given.arguments) if func is F.embedding else _normalisation(call, func, given.arguments)
    return []


def _linear(call: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Use]:
    examples, each = call.attention or (None, len(weight))
    x = input.detach()
    parts = [(weight, bias, slice(None))]
    if each < len(weight) and len(weight) % each == 0:  # queries, keys and values: each is a projection of its own
        cut = [slice(first, first + each) for first in range(0, len(weight), each)]
        parts = [(weight[part], None if bias is None else bias[part], part) for part in cut]

    def inputs() -> Tensor:
        return _folded(x[None], examples)[0].unsqueeze(2)

    def gradients(part: slice) -> Gradients:
        return lambda g: _folded(g[..., part], examples).unsqueeze(3)

    return [use for w, b, part in parts for use in call.use(LINEAR, w, b, inputs, gradients(part))]


def _folded(x: Tensor, examples: int | None = None) -> Tensor:
    """(k, examples, ..., width) as (k, examples, positions, width); `examples` given, they are the last but one."""
    k, width = len(x), x.shape[-1]
    if examples is not None:
        return x.reshape(k, -1, examples, width).transpose(1, 2)
    return x.reshape(k, x.shape[1] if x.dim() > 2 else 1, -1, width)


def _convolution(
    call: Call, input: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> list[Use]:  # fmt: skip
    kernel = weight.shape[2:]
    x = input.detach() if input.dim() == weight.dim() else input.detach()[None]
    s, p, d = (_of_each(value, len(kernel)) for value in (stride, padding, dilation))

    def gradients(g: Tensor) -> Tensor:
        return g.reshape(len(g), len(x), groups, len(weight) // groups, -1).permute(0, 1, 4, 2, 3)

    return call.use(CONVOLUTION, weight, bias, lambda: patches(x, kernel, s, p, d, groups), gradients, groups)


def _of_each(value: Any, dims: int) -> Any:
    """A number for each dimension."""
    if isinstance(value, str):
        return value
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


def patches(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """What each position of a convolution's output looks at: (examples, positions, groups, channels * kernel).

    >>> patches(torch.arange(4.0).view(1, 1, 4), (2,), (1,), (0,), (2,), 1)
    tensor([[[[0., 2.]],
    <BLANKLINE>
             [[1., 3.]]]])
    """
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        before = [span // 2 if padding == "same" else 0 for span in spans]
        after = [span - b if padding == "same" else 0 for span, b in zip(spans, before, strict=True)]
    else:
        before = after = list(padding)
    x = F.pad(x, [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair])
    for i, span in enumerate(spans):
        x = x.unfold(2 + i, span + 1, stride[i])[..., :: dilation[i]]
    dims = len(spans)
    positions, size = x.shape[2 : 2 + dims].numel(), x.shape[2 + dims :].numel()
    return x.reshape(len(x), groups, -1, positions, size).permute(0, 3, 1, 2, 4).flatten(3)


def _embedding(call: Call, given: dict[str, Any]) -> list[Use]:
    tokens, weight, padding = given["input"], given["weight"], given["padding_idx"]
    if given["scale_grad_by_freq"]:
        return []
    if padding is not None:  # these are not looked up for their gradient: they are -1 here
        tokens = torch.where(tokens == padding % len(weight), -1, tokens)
    tokens = tokens.reshape(len(tokens) if tokens.dim() else 1, -1)
    there = (tokens >= 0)[None, :, :, None, None]
    return call.use(EMBEDDING, weight, None, lambda: tokens, lambda g: _folded(g).unsqueeze(3) * there)


def _normalisation(call: Call, func: Any, given: dict[str, Any]) -> list[Use]:
    weight, bias, x = given["weight"], given.get("bias"), given["input"].detach()
    trailing = len(given.get("normalized_shape", ()))

    def arranged(g: Tensor) -> Tensor:
        """(k, ...) as (k, examples, positions, 1, channels)."""
        if trailing:
            return _folded(g.flatten(-trailing)).unsqueeze(3)
        return g.reshape(len(g), *x.shape[:2], -1).transpose(2, 3).unsqueeze(3)

    def normalised() -> Tensor:
        plain = {**given, "input": x, "weight": None} | ({"bias": None} if "bias" in given else {})
        if plain.get("training") or plain.get("use_input_stats"):  # with the batch's statistics, which are not noted
            plain |= {"running_mean": None, "running_var": None}
        return arranged(func(**plain)[None])

    uses = []
    if weight is not None:
        uses += call.use(SCALE, weight.flatten(), None, None, lambda g: normalised() * arranged(g))
    if bias is not None:
        uses += call.use(SHIFT, bias.flatten(), None, None, arranged)
    return uses
