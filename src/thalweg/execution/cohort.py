"""Parameters that step together: one rule, device and dtype, and the same numbers (clock) remembered.

What is remembered lies in `state[p]`, one dictionary a parameter as in torch.optim, under the keys that a layout gives.
The numbers live here while steps are taken, and are written there when somebody looks.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.rule import Memory, Rule
from thalweg.execution import eager, fused, sparse
from thalweg.execution.kernels import DTYPES
from thalweg.execution.memory import is_dense, split
from thalweg.execution.native import numba_is_there
from thalweg.execution.state import Layout, as_state
from thalweg.execution.tables import Table

_grad = operator.attrgetter("grad")
EXECUTIONS = ("kernel", "fused", "compile", "eager")


class Cohort:
    """See above; `advance` takes one step of all its parameters, in place.

    `execution` is one of EXECUTIONS, or "rows" for sparse gradients; None chooses: the kernel on a CPU, torch's fused
    one on a GPU, else eager. `how` says which it is.
    """

    def __init__(
        self,
        rule: Rule,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        scalars: Memory,
        layout: Layout,
        execution: str | None,
        grad_layout: torch.layout = torch.strided,
    ) -> None:
        self.rule, self.params, self.states = rule, list(params), list(states)
        self.scalars, self.layout, self.grad_layout = scalars, layout, grad_layout
        self.plain = "f" not in rule.sees and all(
            type(p) in (Tensor, torch.nn.Parameter) and not p.is_complex() for p in params
        )
        self.forms = [(p.dtype, p.shape, p.stride()) for p in params]
        self.memory = self._memory()
        self.table: Table | None = None
        self._run, self.how = self._chosen(execution)
        if not self.plain:
            self.table = None  # its tensors are views that are made for each step

    def ready(self) -> list[Tensor] | None:
        """The gradients to step with now; None where they, or the parameters, are not what this cohort was made for."""
        grads: list[Any] = list(map(_grad, self.params))
        if self.table is not None:
            return grads if self.table.ready(grads) else None
        if self.rule.per == "vector":
            grads = [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)]
        fits = all(g is not None and g.layout == self.grad_layout for g in grads)
        return grads if fits and [(p.dtype, p.shape, p.stride()) for p in self.params] == self.forms else None

    def advance(self, grads: Sequence[Tensor], knobs: Mapping[str, Any], f: Any = None) -> None:
        """One step of all the parameters; `f` is for a rule that sees it."""
        if self.table is not None:
            self.scalars = self.table.advance(grads, self.scalars, knobs)
            return
        with torch.no_grad():
            new = self._advance(grads, knobs, f)
        for name, value in new.items():
            held = self.scalars[name]
            # A captured graph replays with the tensors that it saw: they are written, not replaced.
            self.scalars[name] = held.copy_(value) if isinstance(held, Tensor) else value

    def _advance(self, grads: Sequence[Tensor], knobs: Mapping[str, Any], f: Any) -> Memory:
        if self.grad_layout != torch.strided and self.how != "rows":
            grads = [g.to_dense() for g in grads]
        if self.plain:
            return self._run(grads, self.scalars, knobs)
        self.memory = self._memory()
        run, _ = self._chosen(self.how.split(":")[0], f)
        grads = [real(g) for g in grads]
        if self.table is not None:
            ready = self.table.ready(grads)
            assert ready, "a table fits the tensors that it was made of"
            self.table = None
        return run(grads, self.scalars, knobs)

    def advance_differentiably(self, grads: Sequence[Tensor], knobs: Mapping[str, Any]) -> None:
        """One step with a graph through it; what is remembered is replaced, theta is added to in place."""
        if self.rule.per == "vector":
            raise AlgorithmError(f"{self.rule.name} looks at the whole vector: differentiate through the rule itself")
        scalars = self.scalars
        names = [name for name, start in self.rule.remembers.items() if not start.scalar]
        for p, g, state in zip(self.params, grads, self.states, strict=True):
            keys = {name: self.layout.get(name) or name for name in names}
            seen = {"g": as_pairs(g), "theta": as_pairs(p)}
            held = {name: as_pairs(state.get(key)) for name, key in keys.items()}
            delta, new = self.rule.step(seen, {**held, **self.scalars}, knobs)
            p.add_(torch.view_as_complex(delta) if p.is_complex() else delta)
            for name, key in keys.items():
                complex_one = p.is_complex() and isinstance(new[name], Tensor)
                state[key] = torch.view_as_complex(new[name]) if complex_one else new[name]
            scalars = {name: new[name] for name in self.scalars}
        self.scalars = scalars
        self.memory = self._memory()

    def answers(self, knobs: Mapping[str, Any]) -> Iterable[tuple[Tensor, Tensor]]:
        """The parameters, each with what the rule answers with in its place."""
        if self.rule.answers is None:
            return
        params = [real(p) for p in self.params]
        if self.rule.per == "vector":
            rule = lifted(self.rule, [p.shape for p in params])
            held, _ = eager.together(self.memory, params)
            whole = rule.answer(torch.cat([p.reshape(-1) for p in params]), {**held, **self.scalars}, knobs)
            found = [piece.view(p.shape) for p, piece in zip(params, split(whole, params), strict=True)]
        else:
            found = []
            for k, p in enumerate(params):
                held = {name: values[k] for name, values in self.memory.items()}
                found.append(self.rule.answer(p.to(eager.computed_in(p.dtype)), {**held, **self.scalars}, knobs))
        for p, mine, answer in zip(self.params, params, found, strict=True):
            yield p, torch.view_as_complex(answer) if p.is_complex() and not mine.is_complex() else answer

    def flush(self) -> None:
        """Writes the numbers into the states."""
        for name, value in self.scalars.items():
            key = self.layout.get(name, name)
            if key is None:
                continue
            for state in self.states:
                held = state.get(key)
                if isinstance(held, Tensor) and not isinstance(value, Tensor):
                    held.fill_(value)
                else:
                    state[key] = as_state(value)

    def _memory(self) -> dict[str, list[Any]]:
        """The tensors that are remembered, in the form that runs: real, and of DTensors the part that is here."""
        names = lifted(self.rule, [p.shape for p in self.params]).remembers if self.rule.per == "vector" else None
        memory: dict[str, list[Any]] = {}
        for name, start in (names or self.rule.remembers).items():
            if start.scalar:
                continue
            owner, _, k = name.partition(".")
            states = self.states if not k else [self.states[int(k)]]
            key = self.layout.get(owner, owner)
            assert key is not None
            memory[name] = [state.get(key) if self.plain else real(state.get(key)) for state in states]
        return memory

    def _chosen(self, execution: str | None, f: Any = None) -> tuple[Callable[..., Memory], str]:
        # The parameters themselves where nothing stands between: `p.data = ...` shows in them, not in a view of them.
        params = self.params if self.plain else [real(p) for p in self.params]
        why: AlgorithmError | None = None
        for name in self._candidates(execution):
            try:
                return self._prepared(name, params, f), name if why is None else f"{name}: {why}"
            except AlgorithmError as error:
                if execution is not None:
                    raise
                why = error
        raise AssertionError("eager takes every rule")

    def _candidates(self, execution: str | None) -> Iterable[str]:
        if execution is not None:
            return (execution,)
        on_cpu = self.params[0].device.type == "cpu"
        return ("kernel", "eager") if on_cpu and numba_is_there() else ("fused", "eager")

    def _prepared(self, name: str, params: list[Tensor], f: Any) -> Callable[..., Memory]:
        rule, memory = self.rule, self.memory
        if name == "kernel":
            self._check_for_kernel(params)
            self.table = Table(rule, params, memory)
            return self.table.advance
        if name == "fused":
            kernel = fused.kernel(rule)
            if not all(p.dtype in DTYPES for p in params):
                raise AlgorithmError("torch's fused kernels would keep the memory of half precision in half precision")
            return functools.partial(kernel, params, memory)
        if name == "rows":
            return functools.partial(sparse.advance, rule, params, memory)
        if name == "compile":
            rule = _compiled_by_torch(rule)
        return functools.partial(eager.advance, rule, params, memory, f=f)

    def _check_for_kernel(self, params: list[Tensor]) -> None:
        if not numba_is_there():
            raise AlgorithmError("a kernel needs Numba, which is not installed: python -m pip install numba")
        if self.rule.per != "element":
            raise AlgorithmError(f"{self.rule.name} is not elementwise: it looks at a whole {self.rule.per} at once")
        for p in params:
            if p.device.type != "cpu" or p.dtype not in DTYPES:
                raise AlgorithmError(f"a kernel needs float32 or float64 on the CPU, not {p.dtype} on {p.device}")
            if not is_dense(p):
                raise AlgorithmError(f"a kernel needs parameters without gaps, not {tuple(p.shape)} with {p.stride()}")
        if any(m.dtype != params[0].dtype for values in self.memory.values() for m in values):
            raise AlgorithmError(f"a kernel needs a memory of {params[0].dtype}, as the parameters")
        if any(isinstance(value, Tensor) for value in self.scalars.values()):
            raise AlgorithmError("a kernel takes no tensors for numbers (capturable)")


@functools.cache
def _compiled_by_torch(rule: Rule) -> Rule:
    """The rule through torch.compile; numbers that change from step to step are handed over as tensors."""
    body = torch.compile(rule.fn, dynamic=True)

    def run(*args: Any, **knobs: Any) -> Any:
        like = next(a for a in args if isinstance(a, Tensor))
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        as_tensor = functools.partial(torch.as_tensor, dtype=dtype, device=like.device)
        given = [a if isinstance(a, Tensor) or a is None else as_tensor(a) for a in args]
        result = body(*given, **{name: as_tensor(value) for name, value in knobs.items()})
        if not rule.remembers:
            return result
        numbers = [not isinstance(a, Tensor) for a in args[len(rule.sees) :]]
        delta, *kept = result
        return (delta, *(m.item() if number else m for m, number in zip(kept, numbers, strict=True)))

    return replace(rule, fn=run)


def real(tensor: Any) -> Any:
    """A tensor as the executions take it: complex numbers as pairs, of a DTensor the part that is here."""
    if not isinstance(tensor, Tensor):
        return tensor
    return as_pairs(local(tensor.detach()))


def local(tensor: Tensor) -> Tensor:
    """Of a DTensor the part that is here."""
    return tensor.to_local() if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def as_pairs(tensor: Any) -> Any:
    """Complex numbers as pairs of real ones, with whatever graph they have."""
    return torch.view_as_real(tensor) if isinstance(tensor, Tensor) and tensor.is_complex() else tensor


def is_dtensor(tensor: Tensor) -> Any:
    """Whether a tensor is spread over processes."""
    module = sys.modules.get("torch.distributed.tensor")  # nobody has one where it was never imported
    return module is not None and isinstance(tensor, module.DTensor)
