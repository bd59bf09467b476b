"""An elementwise rule as one kernel: a single pass over memory on a CPU, derived from the rule itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Memory, Rule
from thalweg.execution.generate import columns, kernel_source, scalar_memory
from thalweg.execution.native import Rows, numba_is_there
from thalweg.execution.syntax import runs_inner_once

KERNEL = "one kernel"
DTYPES = (torch.float32, torch.float64)


class Execution(NamedTuple):
    """A rule in the form that runs, and how that is: KERNEL, or "eager: " and why."""

    rule: Rule
    how: str


def executable(rule: Rule, like: Tensor) -> Execution:
    """The fastest exact form of a rule for vectors like `like: (n,)`: its kernel where it has one, else itself.

    The choice depends on the rule, on `like` and on whether Numba is installed, never on a measurement.

    >>> from thalweg import adam
    >>> executable(adam, torch.zeros(5)).how
    'one kernel'
    >>> executable(adam, torch.zeros(5, dtype=torch.float16)).how
    'eager: a kernel needs a contiguous float32 or float64 vector on the CPU, not (5,) torch.float16 on cpu'
    """
    try:
        return Execution(_advancing(rule, like), KERNEL)
    except AlgorithmError as error:
        return Execution(rule, f"eager: {error}")


def compiled(rule: Rule, like: Tensor) -> Rule:
    """The same rule run by one kernel, for vectors like `like: (n,)` of float32 or float64 on the CPU.

    It has what the rule sees, remembers and its knobs, with two differences in `step`: the memory passed in is
    *consumed* (vectors are updated in place and returned), and the step Δθ lies in a buffer that the next step
    overwrites: clone either to keep it. A knob is one number; a new value never compiles anew. A combinator written in
    the vocabulary is part of the kernel; another one (a norm, say) runs itself, around the kernel of its inner rule.

    Raises AlgorithmError where the rule has no kernel (it sees `f`, or says something outside the vocabulary, or its
    source is in no file, or it is a combinator's that does not run its inner rule exactly once), for another kind of
    `like`, and where Numba is not installed.

    >>> from thalweg import adam
    >>> theta = torch.zeros(3)
    >>> fast = compiled(adam, theta)
    >>> delta, memory = fast.step({"g": torch.ones(3)}, fast.start(theta), {"lr": 0.5})
    >>> delta, memory["t"]
    (tensor([-0.5000, -0.5000, -0.5000]), 1)
    """
    return _compiled(rule, like, torch.empty_like(like))


def _advancing(rule: Rule, like: Tensor) -> Rule:
    """The rule with an `advance` of one kernel that updates theta too; where it has none, as `compiled` has it."""
    _check(like)
    try:
        kernel = tensors_kernel(rule, like.dtype, onto_theta=True)
    except AlgorithmError:
        return compiled(rule, like)
    call = _on_vectors(rule, kernel, like, onto_theta=True)

    def advance(seen: Mapping[str, Any], memory: Memory, knobs: Mapping[str, Any]) -> Memory:
        return call({**seen, **memory}, knobs)

    return replace(rule, advance=advance)


def _check(like: Tensor) -> None:
    if like.device.type != "cpu" or like.dim() != 1 or not like.is_contiguous() or like.dtype not in DTYPES:
        raise AlgorithmError(
            "a kernel needs a contiguous float32 or float64 vector on the CPU, "
            f"not {tuple(like.shape)} {like.dtype} on {like.device}"
        )
    if not numba_is_there():
        raise AlgorithmError("a kernel needs Numba, which is not installed: python -m pip install numba")


def _compiled(rule: Rule, like: Tensor, scratch: Tensor | None) -> Rule:
    _check(like)
    try:
        kernel = tensors_kernel(rule, like.dtype, onto_theta=False)
    except AlgorithmError:
        if rule.wraps is None or not runs_inner_once(rule):  # a second run would find the memory consumed
            raise
        inner = rule.wraps[1]
        keeps_nothing = len(rule.remembers) == len(inner.remembers)
        return rule.around(_compiled(inner, like, scratch if keeps_nothing else None))  # or it may keep Δθ itself
    call = _on_vectors(rule, kernel, like, onto_theta=False)
    names = [*rule.sees, *rule.remembers]

    def run(*args: Any, **knobs: Any) -> Any:
        delta = torch.empty_like(like) if scratch is None else scratch
        memory = call(dict(zip(names, args, strict=True)) | {"delta": delta}, knobs)
        return (delta, *memory.values()) if memory else delta

    return replace(rule, fn=run)


def tensors_kernel(rule: Rule, dtype: torch.dtype, onto_theta: bool) -> Rows:
    """The kernel of a rule for any number of tensors; the columns of its table are those of `generate.columns`.

    Raises AlgorithmError where the rule has no kernel.
    """
    outputs = len(scalar_memory(rule))
    return Rows(kernel_source(rule, dtype, onto_theta), outputs + len(rule.knobs), outputs)


def _on_vectors(rule: Rule, kernel: Rows, like: Tensor, onto_theta: bool) -> Callable[..., Memory]:
    """The kernel on vectors like `like`: of all that a rule sees, remembers and writes to, it gives the new memory."""
    n, dtype, scalars = len(like), like.dtype, scalar_memory(rule)
    arrays = columns(rule, onto_theta)
    table = np.zeros((1, len(arrays)), np.int64)
    kernel.put(table, np.array([n], np.int64))
    known: dict[str, tuple[Tensor | None, int]] = dict.fromkeys(arrays, (None, 0))

    def put(k: int, name: str, given: Tensor) -> Tensor:
        address = given.data_ptr()
        last, where = known[name]
        if given is last and address == where:
            return given  # the same buffers come each step: looking at them again would take longer than small kernels
        if given.shape != (n,) or given.dtype != dtype or given.device.type != "cpu":
            was = f"{tuple(given.shape)} {given.dtype} on {given.device}"
            raise AlgorithmError(f"{rule.name}'s kernel takes {name} as ({n},) {dtype} on cpu, not {was}")
        if not given.is_contiguous():
            if name != "g":
                raise AlgorithmError(f"{rule.name}'s kernel writes {name} in place: pass it contiguous")
            given = given.contiguous()
        table[0, k] = given.data_ptr()
        known[name] = given, address
        return given

    def call(values: Mapping[str, Any], knobs: Mapping[str, Any]) -> Memory:
        if not knobs.keys() <= rule.knobs.keys():
            rule.check(knobs)
        kept = [put(k, name, values[name]) for k, name in enumerate(arrays)]  # alive while their addresses are used
        numbers = [_number(rule, name, values[name]) for name in scalars]
        numbers += [_number(rule, name, knobs.get(name, default)) for name, default in rule.knobs.items()]
        kernel.give(numbers)
        kernel.run(0, 1)
        del kept
        memory = {name: values[name] for name in rule.remembers}
        for name, value in zip(scalars, kernel.new(), strict=True):
            memory[name] = int(value) if isinstance(values[name], int) and value.is_integer() else value
        return memory

    return call


def _number(rule: Rule, name: str, value: Any) -> float:
    if type(value) is float:
        return value
    if getattr(value, "ndim", 0):
        raise AlgorithmError(
            f"{rule.name}'s kernel takes {name} as one number, not of shape {tuple(value.shape)}: "
            "run a population with the rule itself"
        )
    return float(value)
