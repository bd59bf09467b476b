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
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from thalweg.core.derivatives import graph
from thalweg.core.errors import CurvatureError
from thalweg.second_order.calls import Attention, Call, Use, read
from thalweg.second_order.fisher import Outputs, evaluable, outputs_of

F = nn.functional

UNSEEN = "an operation out of sight"


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
    size: int  # how many numbers the outputs of all uses are


def seen(f: Any, theta: Tensor) -> Seen:
    """Evaluates f at `theta: (n,)` with its graph, and says how the outputs came from the parameters.

    Buffers and generators are as before. Raises CurvatureError for an f without a module, of a loss not known, or whose
    outputs cannot be told.

    >>> import torch
    >>> from thalweg.core.network import Batch, Network
    >>> network = Network(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), F.mse_loss)
    >>> [use] = seen(network.on(Batch(torch.ones(5, 3), torch.zeros(5, 2))), network.theta).uses
    >>> use.kind, use.at, use.rows, use.columns, use.bias, use.inputs().shape
    ('linear', 0, 2, 3, 6, torch.Size([5, 1, 1, 3]))
    """
    if not hasattr(f, "module"):
        raise CurvatureError("this algorithm looks at layers: f has to say its module, as that of a Network does")
    with evaluable(theta, f), _own_buffers(f.module), _watched(f.module) as watch:
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
    return Seen(outputs, watch.parameters, uses, others, watch.size)


class _Watch(TorchFunctionMode):
    """Notes the uses of a module's trained parameters while it is entered."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.uses: list[Use] = []
        self.others: list[tuple[int, str, GradientEdge]] = []
        self.outputs: list[Any] = []  # of the module
        self.size = 0
        self.attention: Attention | None = None  # inside it
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

    def number(self, x: Tensor) -> int | None:
        """Of the parameter that x is, or is a part of."""
        if not x.requires_grad or _storage(x) not in self._storages:
            return None
        k = self._order[bisect.bisect_right(self._addresses, x.data_ptr()) - 1]
        p = self.parameters[k].tensor
        return k if 0 <= x.data_ptr() - p.data_ptr() < p.numel() * p.element_size() else None

    def where(self, x: Tensor) -> int | None:
        """Where in theta a parameter starts, or a part of it that lies there as it does in memory."""
        k = self.number(x)
        if k is None or not (x is self.parameters[k].tensor or x.is_contiguous()):
            return None
        return self.parameters[k].at + (x.data_ptr() - self.parameters[k].tensor.data_ptr()) // x.element_size()

    def __torch_function__(self, func: Any, types_: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and self.attention is None:
            return self._inside(func, args, kwargs)
        result = func(*args, **kwargs)
        made = [r for r in _tensors(result) if r.requires_grad and r.grad_fn is not None]
        if made and _storage(made[0]) not in self._storages:  # else it is a view of a parameter, and not yet a use
            given = [(x, self.number(x)) for x in _tensors((args, list(kwargs.values())))]
            if any(k is not None for _, k in given):
                uses = read(func, args, kwargs, Call(self.where, get_gradient_edge(made[0]), self.attention))
                self.uses += uses
                self.size += made[0].numel()
                self._rest(getattr(func, "__name__", str(func)), made, given, uses)
        return result

    def _rest(self, how: str, made: list[Tensor], given: list[tuple[Tensor, int | None]], uses: list[Use]) -> None:
        known = {use.at for use in uses} | {use.bias for use in uses}
        for i, (x, k) in enumerate(given):
            if k is not None and (i == 0 or self.where(x) not in known):  # the first is what goes in
                self.others += [(k, how, get_gradient_edge(r)) for r in made]

    def _inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        """torch's attention, looked into: a copy of its function that does not hand itself over to those who watch."""
        names = {**func.__globals__, "has_torch_function": lambda tensors: False}
        inner = types.FunctionType(func.__code__, names, func.__name__, func.__defaults__, func.__closure__)
        given = inspect.signature(func).bind(*args, **kwargs).arguments
        query = given["query"]
        self.attention = Attention(query.shape[1] if query.dim() == 3 else 1, given["embed_dim_to_check"])
        try:
            with self:
                return inner(*args, **kwargs)
        finally:
            self.attention = None


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
def _own_buffers(module: nn.Module) -> Iterator[None]:
    """Copies of the buffers take their places: what moves running statistics on (a closure's evaluation) moves those.

    The buffers themselves are not even written back to: the graph may need the copies as they are.
    """
    copies: dict[int, Tensor] = {}
    before = [(part, name, b) for part in module.modules() for name, b in part._buffers.items() if b is not None]
    for part, name, buffer in before:
        part._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    try:
        yield
    finally:
        for part, name, buffer in before:
            part._buffers[name] = buffer
