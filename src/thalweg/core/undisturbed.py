"""A module is looked at and left as it was (section 8.2): what measures must not train."""

from __future__ import annotations

import contextlib
import math
import random
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from thalweg.core.errors import DiagnosisError, NetworkError

_DICTIONARIES = {dict, OrderedDict, defaultdict}
_CONTAINERS = {*_DICTIONARIES, list, set}


@contextlib.contextmanager
def undisturbed(
    module: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, parameters: bool = False
) -> Iterator[None]:
    """Whatever is done inside, the module is afterwards as it was, bit for bit and in the same memory.

    Buffers and other attributes of each part, training flags, requires_grad, .grad (which is None inside), hooks, and
    the generators of torch, NumPy and Python; the values of the parameters only with `parameters`, for they are
    large and reading does not change them; the optimizer's state and settings where it is given. Compiled parts run
    eagerly inside, so that hooks are called. It holds when an exception leaves the block too.
    Raises NetworkError where parameters have no shape yet.

    >>> module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> with undisturbed(module):
    ...     _ = module.train()(torch.randn(8, 2)).sum().backward()
    >>> module[1].running_mean, module[0].weight.grad
    (tensor([0., 0.]), None)
    """
    undo: list[Callable[[], Any]] = []
    seen: set[int] = set()
    parts = list(module.modules())
    for part in parts:
        _keep(part.__dict__, undo, seen)
    for parameter in module.parameters():
        _keep_parameter(parameter, undo, values=parameters)
    if optimizer is not None:
        _keep(optimizer.__dict__, undo, seen)
    undo += _generators(module)
    try:
        for parameter in module.parameters():
            parameter.grad = None
        with _eager(parts):
            yield
    finally:
        for back in reversed(undo):
            back()


def _keep(value: Any, undo: list[Callable[[], Any]], seen: set[int]) -> None:
    """Notes how to put back a tensor's values, what is in a container, and what is in that."""
    kind = type(value)  # isinstance of a tensor would cost more than all else here
    kept = issubclass(kind, Tensor) and not issubclass(kind, nn.Parameter)
    if not (kept or kind in _CONTAINERS or issubclass(kind, tuple)) or id(value) in seen:
        return
    seen.add(id(value))
    if kept:
        undo.append(_values(value))
        return
    if kind in _CONTAINERS:
        content = value.copy()
        undo.append(value.clear if not content else lambda: _refill(value, content))  # most are empty: hooks, say
    for inside in value.values() if kind in _DICTIONARIES else value:
        _keep(inside, undo, seen)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)


def _values(tensor: Tensor) -> Callable[[], None]:
    if is_lazy(tensor):
        raise NetworkError("the module has tensors without a shape yet: call it on a batch once, then measure")
    copy = tensor.detach().clone()

    def back() -> None:
        # Through .data: graphs that the caller holds have saved this tensor, and see no new version of it.
        if tensor.shape == copy.shape:
            tensor.data.copy_(copy)
        else:
            tensor.data = copy

    return back


def _keep_parameter(parameter: nn.Parameter, undo: list[Callable[[], Any]], *, values: bool) -> None:
    if is_lazy(parameter):
        raise NetworkError("the module has parameters without a shape yet: call it on a batch once, then measure")
    grad, requires_grad, memory = parameter.grad, parameter.requires_grad, parameter.data
    hooks = [dict(_hooks(parameter, kind)) for kind in _HOOKS]

    def back() -> None:
        for kind, before in zip(_HOOKS, hooks, strict=True):
            for added in set(_hooks(parameter, kind)) - set(before):
                del _hooks(parameter, kind)[added]
        if parameter.data_ptr() != memory.data_ptr():
            parameter.data = memory
        parameter.requires_grad_(requires_grad)
        parameter.grad = grad

    if values:
        undo.append(_values(parameter))
    undo.append(back)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _hooks(parameter: Tensor, kind: str) -> dict[int, Any]:
    return getattr(parameter, kind, None) or {}


def _generators(module: nn.Module) -> list[Callable[[], Any]]:
    """How to put back every generator that the module may draw from."""
    tensors = [*module.parameters(), *module.buffers()]
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    undo: list[Callable[[], Any]] = [
        lambda: torch.set_rng_state(cpu),
        lambda: random.setstate(python),
        lambda: np.random.set_state(numpy),
    ]
    for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
        state = torch.cuda.get_rng_state(device)
        undo.append(lambda state=state, device=device: torch.cuda.set_rng_state(state, device))  # type: ignore[misc]
    return undo


def _compiled(part: nn.Module) -> bool:
    return "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None


def _eager(parts: list[nn.Module]) -> contextlib.AbstractContextManager[Any]:
    """Compiled parts do not call hooks that came later; asked for only where there are some, for it loads dynamo."""
    return torch.compiler.set_stance("force_eager") if any(map(_compiled, parts)) else contextlib.nullcontext()


def looked_into(module: nn.Module) -> nn.Module:
    """The plain module inside one that was compiled or wrapped to run in parallel; a plain one is itself.

    Raises NetworkError for what is no module or has no floating-point parameters, and DiagnosisError for one that
    cannot be measured as it is: scripted, quantised, sharded, without values, or with values that are not finite.

    >>> inside = nn.Linear(2, 1)
    >>> looked_into(nn.DataParallel(inside)) is inside
    True
    """
    if not isinstance(module, nn.Module):
        raise NetworkError(f"a {type(module).__name__} was given: a torch.nn.Module was expected")
    while True:
        if "_orig_mod" in module._modules:
            inside = module._modules["_orig_mod"]
        elif isinstance(module, DataParallel | DistributedDataParallel):
            inside = module.module
        else:
            break
        assert inside is not None
        module = inside
    for name, part in module.named_modules():
        _check_part(name or type(module).__name__, part)
    if not any(p.is_floating_point() or p.is_complex() for p in module.parameters()):
        raise NetworkError(f"{type(module).__name__} has no floating-point parameters: there is no gradient to measure")
    for name, parameter in module.named_parameters():
        _check_parameter(name, parameter)
    return module


def _check_part(name: str, part: nn.Module) -> None:
    what = ""
    if isinstance(part, torch.jit.ScriptModule):
        what = "is scripted"
    elif ".quantized" in type(part).__module__ and type(part).__module__.startswith("torch."):
        what = "is quantised and has no gradient"
    elif type(part).__name__ == "FullyShardedDataParallel":
        what = "is sharded over processes (FSDP)"
    if what:
        raise DiagnosisError(f"{name} {what}: measure the module that it was made of")


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    if is_lazy(parameter):
        raise NetworkError(f"{name} has no shape yet: call the module on a batch once, then measure")
    if parameter.is_meta:
        raise DiagnosisError(f"{name} is on the meta device and has no values: load the weights, then measure")
    if type(parameter.data).__name__ == "DTensor":
        raise DiagnosisError(f"{name} is sharded over processes (DTensor): measure the module before it is sharded")
    values = parameter.detach()
    total = complex(values.sum())
    if math.isfinite(total.real) and math.isfinite(total.imag):
        return
    count = int((~values.isfinite()).sum())  # a sum may be infinite where no value is
    if count:
        raise DiagnosisError(
            f"{name} has {count} of {values.numel()} values that are NaN or infinite: "
            "training has diverged already; go back to a checkpoint from before, then measure"
        )
