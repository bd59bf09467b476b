"""An elementwise rule as one kernel: a single pass over memory on a CPU, for every rule, derived from the rule itself.

Kernels are kept in `$XDG_CACHE_HOME/thalweg/kernels` (or `~/.cache/thalweg/kernels`), a folder for each program text,
version of Numba and version of Thalweg; the folder may be deleted at any time. Where it cannot be written, kernels are
compiled anew in each process, and the logger of this module says so once a kernel.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Memory, Rule
from thalweg.execution.generate import kernel_source, scalar_memory, vector_memory
from thalweg.execution.syntax import runs_inner_once

logger = logging.getLogger(__name__)

# Multiply-add in one rounding is all that is loosened: NaN, infinities and the order of operations stay.
FASTMATH = {"contract"}

KERNEL = "one kernel"


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
        source = kernel_source(rule, like.dtype, onto_theta=True)
    except AlgorithmError:
        return compiled(rule, like)
    extra = int("theta" not in rule.sees)
    call = _on_tensors(rule, _kernel(source, _signature(rule, like, extra)), like)

    def advance(seen: Mapping[str, Any], memory: Memory, knobs: Mapping[str, Any]) -> Memory:
        args = [*(seen[name] for name in rule.sees), *(memory[name] for name in rule.remembers)]
        kept = call(args, [("theta", seen["theta"])] * extra, knobs)
        return dict(zip(rule.remembers, kept, strict=True))

    return replace(rule, advance=advance)


def _check(like: Tensor) -> None:
    if like.device.type != "cpu" or like.dim() != 1 or not like.is_contiguous() or like.dtype not in _REALS:
        raise AlgorithmError(
            "a kernel needs a contiguous float32 or float64 vector on the CPU, "
            f"not {tuple(like.shape)} {like.dtype} on {like.device}"
        )
    if importlib.util.find_spec("numba") is None:
        raise AlgorithmError("a kernel needs Numba, which is not installed: python -m pip install numba")


def _compiled(rule: Rule, like: Tensor, scratch: Tensor | None) -> Rule:
    _check(like)
    try:
        source = kernel_source(rule, like.dtype)
    except AlgorithmError:
        if rule.wraps is None or not runs_inner_once(rule):  # a second run would find the memory consumed
            raise
        combinator, inner = rule.wraps
        keeps_nothing = len(rule.remembers) == len(inner.remembers)
        outer = combinator(_compiled(inner, like, scratch if keeps_nothing else None))  # or it may keep Δθ itself
        return replace(outer, name=rule.name, knobs=rule.knobs, doc=rule.doc)
    call = _on_tensors(rule, _kernel(source, _signature(rule, like, 1)), like)

    def run(*args: Any, **knobs: Any) -> Any:
        delta = torch.empty_like(like) if scratch is None else scratch
        memory = call(args, [("delta", delta)], knobs)
        return (delta, *memory) if memory else delta

    return replace(rule, fn=run)


def _signature(rule: Rule, like: Tensor, extra: int) -> str:
    """The types of a kernel's arguments: its vectors, `extra` one to write to, its numbers."""
    arrays = len(rule.sees) + len(vector_memory(rule)) + extra
    numbers = len(scalar_memory(rule)) + len(rule.knobs)
    return ", ".join([f"{_REALS[like.dtype]}[::1]"] * arrays + ["float64"] * numbers)


_REALS = {torch.float32: "float32", torch.float64: "float64"}


def _on_tensors(rule: Rule, kernel: Callable[..., Any], like: Tensor) -> Callable[..., list[Any]]:
    """The kernel on tensors: of what a rule sees and remembers, and what is written to, it gives the new memory."""
    n, dtype, sees = len(like), like.dtype, len(rule.sees)
    names, vectors, scalars = [*rule.sees, *rule.remembers], vector_memory(rule), scalar_memory(rule)
    arrays = [(names.index(name), name) for name in (*rule.sees, *vectors)]
    numbers = [(names.index(name), name) for name in scalars]
    views: dict[str, tuple[Tensor, int, Any]] = {}

    def array(name: str, given: Tensor) -> Any:
        last, address, view = views.get(name, (None, 0, None))
        if given is last and given.data_ptr() == address:
            return view  # the same buffers come each step: looking at them again would take longer than small kernels
        if given.shape != (n,) or given.dtype != dtype or given.device.type != "cpu":
            was = f"{tuple(given.shape)} {given.dtype} on {given.device}"
            raise AlgorithmError(f"{rule.name}'s kernel takes {name} as ({n},) {dtype} on cpu, not {was}")
        if not given.is_contiguous():
            if name != "g":
                raise AlgorithmError(f"{rule.name}'s kernel writes {name} in place: pass it contiguous")
            return given.contiguous().numpy()
        view = given.detach().numpy()
        views[name] = given, given.data_ptr(), view
        return view

    def call(args: Sequence[Any], written: list[tuple[str, Tensor]], knobs: Mapping[str, Any]) -> list[Any]:
        if not knobs.keys() <= rule.knobs.keys():
            rule.check(knobs)
        new = kernel(
            *[array(name, args[k]) for k, name in arrays],
            *[array(name, given) for name, given in written],
            *[_number(rule, name, args[k]) for k, name in numbers],
            *[_number(rule, name, knobs.get(name, default)) for name, default in rule.knobs.items()],
        )
        memory = list(args[sees:])
        for (k, _), value in zip(numbers, new, strict=True):
            memory[k - sees] = int(value) if isinstance(args[k], int) and value.is_integer() else value
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


@cache
def _kernel(source: str, signature: str) -> Callable[..., Any]:
    """The kernel of a program text, from this process, from the folder, or compiled now."""
    numba = importlib.import_module("numba")  # half a second to import: only where a kernel is wanted
    key = "\n".join([version("thalweg"), numba.__version__, signature, source])
    name = f"thalweg_kernel_{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    folder = _folder() / name
    try:
        return _loaded(name, source, signature, _written(folder, source))
    except OSError as error:
        logger.warning("kernels are compiled anew in each process: cannot write to %s (%s)", folder, error)
        return _loaded(name, source, signature, None)


def _loaded(name: str, source: str, signature: str, file: Path | None) -> Callable[..., Any]:
    """Runs the program text, as from `file` where Numba keeps machine code beside it, and compiles its kernel."""
    numba = importlib.import_module("numba")
    module = sys.modules[name] = ModuleType(name)  # where Numba looks for it when it loads machine code
    exec(compile(source, str(file or f"<{name}>"), "exec"), module.__dict__)
    types = tuple(eval(name, {"float32": numba.float32, "float64": numba.float64}) for name in signature.split(", "))
    decorate = numba.njit(types, cache=file is not None, fastmath=FASTMATH, error_model="numpy")
    kernel: Callable[..., Any] = decorate(module.kernel)
    return kernel


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg" / "kernels"


def _written(folder: Path, source: str) -> Path:
    """The file of a program text, whole or not there, however many processes write it at once."""
    file = folder / "kernel.py"
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} is read-only")
    if not file.exists() or file.read_text() != source:
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        with os.fdopen(handle, "w") as writing:
            writing.write(source)
        os.utime(temporary, (0, 0))  # Numba's cache is valid for one modification time: the same, whoever writes
        os.replace(temporary, file)
    return file
