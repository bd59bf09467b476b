"""Machine code of a kernel: compiled by Numba once, kept on disk, and loaded from there without importing Numba.

Kernels are kept in `$XDG_CACHE_HOME/thalweg/kernels` (or `~/.cache/thalweg/kernels`), a file for each program text,
kind of processor and version of Numba; the folder may be deleted at any time. A damaged file is noticed by its hash and
made anew. Where the folder cannot be written, kernels are compiled anew in each process, and the logger of this module
says so once a kernel.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thalweg.core.errors import AlgorithmError

logger = logging.getLogger(__name__)

# Multiply-add in one rounding is all that is loosened: NaN, infinities and the order of operations stay.
FASTMATH = {"contract"}
# LLVM asks at run time whether the tensors of a loop overlap; beyond so many pairs (its own limit is 8, which an
# algorithm with four tensors passes) it gives up and works on one number at a time.
PAIRS = 128

_FROM_LIBM = ("pow", "powf", "exp", "expf", "log", "logf", "atan2", "atan2f", "sqrt", "sqrtf")


class Code(NamedTuple):
    """Machine code, and the name of the kernel in it."""

    symbol: str
    machine: bytes


class Rows:
    """A kernel on a table of addresses: for each tensor a row, and its size."""

    def __init__(self, source: str, numbers: int, outputs: int) -> None:
        self._function = _function(source)
        self._numbers: Any = (ctypes.c_double * numbers)()
        self._new = (ctypes.c_double * outputs)()
        self._at: Any = (ctypes.c_int64 * 4)(0, 0, ctypes.addressof(self._numbers), ctypes.addressof(self._new))
        self._slots = (ctypes.c_int64 * 2)()  # what Numba's calling convention writes: a result, an exception
        at = ctypes.addressof(self._slots)
        self._fixed = at, at + ctypes.sizeof(ctypes.c_int64), ctypes.addressof(self._at)

    def put(self, rows: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> None:
        """Takes a table `(tensors, columns)` and sizes `(tensors,)`, both int64, whose later changes it sees."""
        assert rows.flags.c_contiguous and sizes.flags.c_contiguous and rows.dtype == sizes.dtype == np.int64
        self._kept = rows, sizes
        self._at[:2] = rows.ctypes.data, sizes.ctypes.data

    def give(self, numbers: list[float]) -> None:
        """Takes the numbers of the next run: the scalar memory, then the knobs."""
        self._numbers[:] = numbers

    def run(self, first: int, last: int) -> None:
        """Runs rows from `first` up to `last`; other threads run meanwhile."""
        failed = self._function(*self._fixed, first, last)
        assert not failed, "a kernel raises nothing"

    def new(self) -> list[float]:
        """The scalar memory that the last run left."""
        return list(self._new)


def numba_is_there() -> bool:
    """Whether kernels can be compiled here; Numba itself is not imported yet."""
    return importlib.util.find_spec("numba") is not None


@cache
def _function(source: str) -> Callable[..., int]:
    """The kernel of a program text, from this process, from the folder, or compiled now."""
    file = folder() / f"{_key(source)}.kernel"
    code = _read(file)
    if code is None:
        code = _compiled(source)
        try:
            _write(file, code)
        except OSError as error:
            logger.warning("kernels are compiled anew in each process: cannot write to %s (%s)", file.parent, error)
    return ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 5)(_loaded(code))


def _key(source: str) -> str:
    llvm = _llvm()
    processor = f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    versions = [version(package) for package in ("thalweg", "numba", "llvmlite")]
    return hashlib.sha256("\n".join([*versions, processor, source]).encode()).hexdigest()[:32]


def _compiled(source: str) -> Code:
    numba, llvm = importlib.import_module("numba"), _llvm()
    llvm.set_option("thalweg", f"-runtime-memory-check-threshold={PAIRS}")
    module: dict[str, Any] = {}
    exec(compile(source, "<kernel>", "exec"), module)
    signature = numba.void(numba.int64, numba.int64, numba.int64)
    alone = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # the code is called by its address
    made = numba.njit(signature, fastmath=FASTMATH, error_model="numpy", **alone)(module["kernel"])
    parsed = llvm.parse_assembly(made.inspect_llvm(made.signatures[0]))
    (symbol,) = [f.name for f in parsed.functions if not f.is_declaration and "kernel" in f.name]
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, reloc="pic", jit=True
    )
    return Code(symbol, target.emit_object(parsed))


@cache
def _llvm() -> Any:
    llvm = importlib.import_module("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def _linker() -> tuple[Any, dict[str, int]]:
    """What links machine code into this process, and the addresses of what kernels call."""
    libm = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)  # it is linked to libm
    addresses = {name: ctypes.cast(getattr(libm, name), ctypes.c_void_p).value or 0 for name in _FROM_LIBM}
    return _llvm().create_lljit_compiler(), {**addresses, "NRT_MemInfo_call_dtor": 1}  # named by Numba, never called


_alive: list[Any] = []


def _loaded(code: Code) -> int:
    """The address of the kernel, in this process for good."""
    jit, addresses = _linker()
    library = _llvm().JITLibraryBuilder().add_object_img(code.machine).export_symbol(code.symbol)
    for name, where in addresses.items():
        library.import_symbol(name, where)
    try:
        tracker = library.link(jit, f"kernel {len(_alive)}")
    except RuntimeError as error:
        logger.warning("a kernel cannot be linked: its rule runs eagerly, unless the kernel was asked for (%s)", error)
        raise AlgorithmError(f"a kernel cannot be linked here ({error}): run the rule eagerly") from error
    _alive.append(tracker)
    address: int = tracker[code.symbol]
    return address


def folder() -> Path:
    """Where kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thalweg" / "kernels"


def _read(file: Path) -> Code | None:
    try:
        head, _, machine = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    try:
        says = json.loads(head)
        whole = says["sha256"] == hashlib.sha256(machine).hexdigest()
    except (ValueError, KeyError, TypeError):
        whole = False
    if whole:
        return Code(says["symbol"], machine)
    logger.warning("%s is damaged: its kernel is compiled anew", file)
    return None


def _write(file: Path, code: Code) -> None:
    """The file whole or not at all, however many processes write it at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = {"symbol": code.symbol, "sha256": hashlib.sha256(code.machine).hexdigest()}
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    with os.fdopen(handle, "wb") as writing:
        writing.write(json.dumps(head).encode() + b"\n" + code.machine)
    os.replace(temporary, file)
