"""A problem from what the user types: a built-in's name, file.py:name, or a table and its target."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from thalweg.core.errors import ProblemError, ThalwegError
from thalweg.training.builtin import BUILTIN
from thalweg.training.columns import listed
from thalweg.training.problem import Problem
from thalweg.training.read import SUFFIXES, read_table
from thalweg.training.tables import from_table

PACKAGES = "site-packages"  # a virtual environment often lies in the user's own folder


def load(spec: str, target: str | None = None, seed: int = 0) -> Problem:
    """The problem that `spec` names: a built-in, `file.py:name`, or a CSV or Parquet file and its target column.

    In a Python file the name stands for a Problem or a function without arguments that returns one; the file's folder
    is on the import path meanwhile. `seed` splits a built-in's or a table's rows. The problem is checked; its `source`
    is what to type to have it again. Raises ProblemError, in a line that says what to do.

    >>> load("digits").name
    'digits'
    """
    path, colon, name = spec.rpartition(":")
    if spec in BUILTIN or (colon and path.endswith(".py")) or spec.endswith(".py"):
        if target is not None:
            raise ProblemError(f"{spec} has its own targets: --target is for a CSV or Parquet file")
        if spec in BUILTIN:
            return BUILTIN[spec].make(seed)
        return _from_python(Path(path if colon else spec), name, spec)
    if Path(spec).suffix.lower() in SUFFIXES or "/" in spec or Path(spec).exists():
        return _from_file(Path(spec), target, seed)
    near = get_close_matches(spec, BUILTIN, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ProblemError(
        f"no problem is called '{spec}': {hint}There are {', '.join(BUILTIN)}; "
        "or give file.py:name, or a CSV or Parquet file with --target"
    )


def _from_file(path: Path, target: str | None, seed: int) -> Problem:
    frame = read_table(path)
    if target is None:
        raise ProblemError(f"{path} needs --target, the column to predict: its columns are {listed(frame.columns)}")
    problem = from_table(frame, target, seed, name=path.stem)
    problem.check()
    return replace(problem, source=f"{shlex.quote(str(path))} --target {shlex.quote(target)}")


def _from_python(path: Path, name: str, spec: str) -> Problem:
    if not path.is_file():
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1)
        raise ProblemError(f"there is no file {path}" + (f": did you mean {path.with_name(near[0])}?" if near else ""))
    with _importable(path.resolve().parent):
        module = _theirs(lambda: _imported(path.resolve()), path, f"importing {path}")
        if spec.endswith(".py"):
            raise ProblemError(f"{path} holds several things: say which, as {path}:name ({listed(_defined(module))})")
        if not hasattr(module, name):
            near = get_close_matches(name, _defined(module), n=1)
            hint = f"did you mean {near[0]}? It" if near else "it"
            raise ProblemError(f"{path} has no '{name}': {hint} defines {listed(_defined(module))}")
        given = getattr(module, name)
        made = given
        if not isinstance(given, Problem) and callable(given):
            made = _theirs(given, path, spec)
        if not isinstance(made, Problem):
            how = "returned" if made is not given else "is"
            raise ProblemError(f"{spec} {how} a {type(made).__name__}: it must be a thalweg.Problem")
        _theirs(made.check, path, f"the model or data of {spec}")
    return replace(made, source=shlex.quote(spec))


def _imported(path: Path) -> ModuleType:
    name = f"thalweg_problem_{path.stem}"
    given = importlib.util.spec_from_file_location(name, path)
    assert given is not None and given.loader is not None
    module = importlib.util.module_from_spec(given)
    sys.modules[name] = module
    given.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _theirs(call: Callable[[], Any], path: Path, what: str) -> Any:
    """Runs the user's code; what it raises becomes a ProblemError with the lines of the user's own folder."""
    try:
        return call()
    except ThalwegError:
        raise
    except (Exception, SystemExit) as error:
        folder = str(path.resolve().parent)
        theirs = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(folder)]
        frames = [f for f in theirs if PACKAGES not in f.filename]
        if isinstance(error, SyntaxError) and error.filename:
            where = [f"{Path(error.filename).name}:{error.lineno}: {(error.text or '').strip()}"]
        else:
            where = [
                f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}"
                for f in frames
                if PACKAGES not in f.filename
            ]
        reason = str(error).strip().splitlines() or ["without a message"]
        lines = "".join(f"\n  {line}" for line in where)
        raise ProblemError(f"{what} raised {type(error).__name__}: {reason[0]}{lines}") from error


def _defined(module: ModuleType) -> list[str]:
    """What a file itself makes: the names that could be a problem."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [
        name
        for name, value in public.items()
        if isinstance(value, Problem) or (callable(value) and getattr(value, "__module__", "") == module.__name__)
    ]
