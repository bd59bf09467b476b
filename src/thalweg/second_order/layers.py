"""How a network uses each of its parameters: its layers, seen as they are called (after section 8.6).

What K-FAC must know of a layer is what goes in and the gradient of what comes out. The calls of torch's functions are
watched while f is evaluated, so it does not matter which module makes them: functional calls, one weight in two layers,
a layer called twice and the projections inside torch's attention are all seen. So is any other use of a parameter.
"""

from __future__ import annotations

import bisect
import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from thalweg.core.derivatives import graph, twice_differentiable
from thalweg.core.errors import CurvatureError
from thalweg.second_order.fisher import Outputs, outputs_of

F = nn.functional

LINEAR, CONVOLUTION, EMBEDDING, SCALE, SHIFT = "linear", "convolution", "embedding", "scale", "shift"
VECTORS = (SCALE, SHIFT)
UNSEEN = "an operation out of sight"
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
NORMALISATIONS = (F.layer_norm, F.group_norm, F.batch_norm, F.instance_norm, F.rms_norm)


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
    gradients: Callable[[Tensor], Tensor]  # from several of the output to (k, examples, positions, groups, rows)


class Parameter(NamedTuple):
    """A trained parameter, as it was when f was evaluated."""

    name: str
    at: int  # where it starts in theta
    tensor: Tensor


class Seen(NamedTuple):
    """An evaluation of f, and how it used the parameters; what its outputs do not depend on is left out."""

    outputs: Outputs
    parameters: list[Parameter]
    uses: list[Use]
    others: dict[int, str]  # by the parameter's number: the operation for which there are no factors
    reached: set[int]  # the numbers of the parameters on which the outputs depend
    size: int  # how many numbers the outputs of all uses are


def seen(f: Any, theta: Tensor) -> Seen:
    """Evaluates f at `theta: (n,)` with its graph, and says how the outputs came from the parameters.

    Buffers and generators are as before. Raises CurvatureError for an f without a module, of a loss not known, or whose
    outputs cannot be told.

    >>> from thalweg import Batch, Network
    >>> network = Network(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), F.mse_loss)
    >>> [use] = seen(network.on(Batch(torch.ones(5, 3), torch.zeros(5, 2))), network.theta).uses
    >>> use.kind, use.at, use.rows, use.columns, use.bias, use.inputs().shape
    ('linear', 0, 2, 3, 6, torch.Size([5, 1, 1, 3]))
    """
    if not hasattr(f, "module"):
        raise CurvatureError("this algorithm looks at layers: f has to say its module, as that of a Network does")
    with twice_differentiable(theta, f), _buffers_kept(f.module), _watched(f.module) as watch:
        found = graph(f, theta)
    size = sum(p.tensor.numel() for p in watch.parameters)
    if size != len(theta):
        raise CurvatureError(f"theta has {len(theta)} components, the trained parameters of the module {size}")
    if found.outputs is None and len(watch.outputs) == 1 and isinstance(watch.outputs[0], Tensor):
        found = found._replace(outputs=watch.outputs[0])  # a closure that returns the loss alone
    outputs = outputs_of(f, found)
    edges = _reachable(outputs.z)
    reached = {k for k, p in enumerate(watch.parameters) if get_gradient_edge(p.tensor)[:2] in edges}
    uses = [use for use in watch.uses if use.edge[:2] in edges]
    others = {k: how for k, how, edge in reversed(watch.others) if edge[:2] in edges}
    starts = {use.at for use in uses} | {use.bias for use in uses}
    for k in reached - set(others):
        at, size = watch.parameters[k].at, watch.parameters[k].tensor.numel()
        if not any(start is not None and at <= start < at + size for start in starts):
            others[k] = UNSEEN
    return Seen(outputs, watch.parameters, uses, others, reached, watch.size)


class _Watch(TorchFunctionMode):
    """Notes the uses of a module's trained parameters while it is entered."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.uses: list[Use] = []
        self.others: list[tuple[int, str, GradientEdge]] = []
        self.outputs: list[Any] = []  # of the module
        self.size = 0
        self.attention: tuple[int, int] | None = None  # inside it: how many examples, how many rows a projection has
        self.look_up()

    def look_up(self) -> None:
        """Takes the parameters as they are now: a functional call puts others in their places."""
        self.parameters: list[Parameter] = []
        at = 0
        for name, p in self.module.named_parameters():
            if p.requires_grad:
                self.parameters.append(Parameter(name, at, p))
                at += p.numel()
        order = sorted(range(len(self.parameters)), key=lambda k: self.parameters[k].tensor.data_ptr())
        self._addresses = [self.parameters[k].tensor.data_ptr() for k in order]
        self._order = order
        self._storages = {_storage(p.tensor) for p in self.parameters}

    def where(self, x: Any) -> tuple[int, int] | None:
        """The number of the parameter that x is, or is a part of, and where in theta x starts."""
        if not isinstance(x, Tensor) or not x.requires_grad or _storage(x) not in self._storages:
            return None
        k = self._order[bisect.bisect_right(self._addresses, x.data_ptr()) - 1]
        parameter = self.parameters[k]
        beyond = (x.data_ptr() - parameter.tensor.data_ptr()) // x.element_size()
        return (k, parameter.at + beyond) if beyond < parameter.tensor.numel() else None

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and self.attention is None:
            return self._inside(func, args, kwargs)
        result = func(*args, **kwargs)
        made = [r for r in _tensors(result) if r.requires_grad and r.grad_fn is not None]
        if made and _storage(made[0]) not in self._storages:  # else it is a view of a parameter, not yet a use
            given = [(x, self.where(x)) for x in _tensors((args, list(kwargs.values())))]
            if any(place is not None for _, place in given):
                uses = _read(self, func, args, kwargs, get_gradient_edge(made[0]))
                self.uses += uses
                self.size += made[0].numel()
                known = {use.at for use in uses} | {use.bias for use in uses}
                how = getattr(func, "__name__", str(func))
                for _, place in given:
                    if place is not None and place[1] not in known:
                        self.others += [(place[0], how, get_gradient_edge(r)) for r in made]
        return result

    def _inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        """torch's attention, looked into: a copy of its function that does not hand itself over to those who watch."""
        names = {**func.__globals__, "has_torch_function": lambda tensors: False}
        inner = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
        given = inspect.signature(func).bind(*args, **kwargs).arguments
        query = given["query"]
        self.attention = query.shape[1] if query.dim() == 3 else 1, given["embed_dim_to_check"]
        try:
            with self:
                return inner(*args, **kwargs)
        finally:
            self.attention = None


# What a call says


def _read(watch: _Watch, func: Any, args: Any, kwargs: Any, edge: GradientEdge) -> list[Use]:
    """The uses that a call is: none of a function that is not known, or not in this way."""
    if func is F.linear:
        return _linear(watch, edge, *args, **kwargs)
    if func in CONVOLUTIONS:
        return _convolution(watch, edge, *args, **kwargs)
    if func is F.embedding or func in NORMALISATIONS:
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        return _embedding(watch, edge, given) if func is F.embedding else _normalisation(watch, edge, func, given)
    return []


def _use(
    watch: _Watch, kind: str, weight: Tensor, bias: Tensor | None, edge: GradientEdge, groups: int, columns: int,
    inputs: Callable[[], Tensor] | None, gradients: Callable[[Tensor], Tensor],
) -> list[Use]:  # fmt: skip
    """One use, or none of what is not trained or lies otherwise than in theta; of a trained bias alone a shift."""
    places = []
    for x in (weight, bias):
        place = None if x is None else watch.where(x)
        straight = place is None or x.is_contiguous() or x is watch.parameters[place[0]].tensor  # type: ignore[union-attr]
        places.append(place[1] if place is not None and straight else None)
    at, shift = places
    rows = len(weight) // groups
    if at is not None:
        return [Use(kind, at, rows, columns, groups, shift, edge, inputs, gradients)]
    if shift is None:
        return []
    return [shift_of(Use(kind, -1, rows, columns, groups, shift, edge, inputs, gradients))]


def shift_of(use: Use) -> Use:
    """The bias of a use by itself."""
    assert use.bias is not None
    flat = use.groups * use.rows
    return Use(SHIFT, use.bias, flat, 1, 1, None, use.edge, None, lambda g: use.gradients(g).flatten(3).unsqueeze(3))


def _linear(watch: _Watch, edge: GradientEdge, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Use]:
    examples, each = watch.attention or (None, len(weight))
    x = input.detach()
    if each == len(weight) or len(weight) % each:
        parts = [(weight, bias, slice(None))]
    else:  # queries, keys and values together: each is a projection of its own
        cut = [slice(first, first + each) for first in range(0, len(weight), each)]
        parts = [(weight[part], None if bias is None else bias[part], part) for part in cut]
    uses: list[Use] = []
    for w, b, part in parts:

        def gradients(g: Tensor, part: slice = part) -> Tensor:
            return _folded(g[..., part], examples).unsqueeze(3)

        uses += _use(
            watch, LINEAR, w, b, edge, 1, weight.shape[1],
            lambda: _folded(x[None], examples)[0].unsqueeze(2), gradients,
        )  # fmt: skip
    return uses


def _folded(x: Tensor, examples: int | None = None) -> Tensor:
    """(k, examples, ..., width) as (k, examples, positions, width); `examples` given, they are the last but one."""
    k, width = len(x), x.shape[-1]
    if examples is not None:
        return x.reshape(k, -1, examples, width).transpose(1, 2)
    return x.reshape(k, x.shape[1] if x.dim() > 2 else 1, -1, width)


def _convolution(
    watch: _Watch, edge: GradientEdge, input: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> list[Use]:  # fmt: skip
    kernel, k = weight.shape[2:], weight.dim() - 2
    x = input.detach()
    x = x if x.dim() == weight.dim() else x[None]

    def gradients(g: Tensor) -> Tensor:
        return g.reshape(len(g), len(x), groups, len(weight) // groups, -1).permute(0, 1, 4, 2, 3)

    return _use(
        watch, CONVOLUTION, weight, bias, edge, groups, weight[0].numel(),
        lambda: _patches(x, kernel, _each(stride, k), _each(padding, k), _each(dilation, k), groups),
        gradients,
    )  # fmt: skip


def _each(value: Any, dims: int) -> Any:
    """A number for each dimension."""
    if isinstance(value, str):
        return value
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


def _patches(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """What each position of a convolution's output looks at: (examples, positions, groups, channels * kernel)."""
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
    x = x.reshape(len(x), groups, -1, positions, size)
    return x.permute(0, 3, 1, 2, 4).flatten(3)


def _embedding(watch: _Watch, edge: GradientEdge, given: inspect.BoundArguments) -> list[Use]:
    tokens, weight, padding = (given.arguments[name] for name in ("input", "weight", "padding_idx"))
    if given.arguments["scale_grad_by_freq"]:
        return []
    if padding is not None:
        tokens = torch.where(tokens == padding % len(weight), -1, tokens)
    return _use(
        watch, EMBEDDING, weight, None, edge, 1, weight.shape[1],
        lambda: tokens.reshape(len(tokens) if tokens.dim() else 1, -1),
        lambda g: _folded(g).unsqueeze(3),
    )  # fmt: skip


def _normalisation(watch: _Watch, edge: GradientEdge, func: Any, given: inspect.BoundArguments) -> list[Use]:
    weight, bias, x = given.arguments["weight"], given.arguments.get("bias"), given.arguments["input"].detach()
    trailing = len(given.arguments["normalized_shape"]) if "normalized_shape" in given.arguments else 0

    def arranged(g: Tensor) -> Tensor:
        if trailing:
            return _folded(g.flatten(-trailing)).unsqueeze(3)
        return g.reshape(len(g), *x.shape[:2], -1).transpose(2, 3).unsqueeze(3)

    def normalised() -> Tensor:
        plain = {**given.arguments, "input": x, "weight": None, "bias": None}
        if plain.get("training") or plain.get("use_input_stats"):  # with the batch's statistics, which are not noted
            plain |= {"running_mean": None, "running_var": None}
        return arranged(func(**plain)[None])

    uses = (
        _use(watch, SCALE, weight.flatten(), None, edge, 1, 1, None, lambda g: normalised() * arranged(g))
        if weight is not None
        else []
    )
    return uses + ([] if bias is None else _use(watch, SHIFT, bias, None, edge, 1, 1, None, arranged))


# The graph


def _reachable(outputs: Tensor) -> set[tuple[Any, int]]:
    """Every edge of the graph behind the outputs."""
    todo = [] if outputs.grad_fn is None else [(outputs.grad_fn, outputs.output_nr)]
    edges = set(todo)
    while todo:
        node, _ = todo.pop()
        new = {(after, k) for after, k in node.next_functions if after is not None} - edges
        edges |= new
        todo += new
    return edges


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [x for v in value for x in _tensors(v)] if isinstance(value, (tuple, list)) else []


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


@contextlib.contextmanager
def _watched(module: nn.Module) -> Iterator[_Watch]:
    watch = _Watch(module)
    hooks = (
        module.register_forward_pre_hook(lambda module, inputs: watch.look_up()),
        module.register_forward_hook(lambda module, inputs, output: watch.outputs.append(output)),
    )
    try:
        with watch:
            yield watch
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Running statistics that the evaluation moves on (a closure's does) are put back."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)
