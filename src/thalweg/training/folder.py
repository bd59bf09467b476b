"""A run's folder: one process at a time, and only the run that it was made for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thalweg.core.errors import StorageError
from thalweg.training.checkpoint import write

try:
    import fcntl
except ImportError:  # Windows has no flock: there, nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]

IDENTITY = "run.json"


@contextmanager
def claimed(folder: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Makes the folder, or takes up one that was made for the same `identity`, and locks it.

    Raises StorageError, before anything is written, where it holds something else, saying the first difference.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp(), "a")
    >>> with claimed(folder, {"problem": "digits", "seed": 0}):
    ...     (folder / IDENTITY).is_file()
    True
    """
    identity = json.loads(json.dumps(identity))
    _refuse_foreign(folder, identity)
    with locked(folder):
        _refuse_foreign(folder, identity)
        if not (folder / IDENTITY).is_file():
            write(folder / IDENTITY, json.dumps(identity, indent=1).encode())
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps a second process out of it; the system lifts the lock when the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {(error.strerror or str(error)).lower()}") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StorageError(f"another process is at work in {folder}: wait for it, or give another --out") from error


def _refuse_foreign(folder: Path, identity: Mapping[str, Any]) -> None:
    path = folder / IDENTITY
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file: give a folder as --out")
    if not path.is_file():
        if folder.is_dir() and any(not found.name.startswith(".") for found in folder.iterdir()):
            raise StorageError(f"{folder} holds something else than a fit: give a new or an empty folder as --out")
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in identity if theirs.get(name) != identity[name]]
    except (ValueError, AttributeError, OSError) as error:
        raise StorageError(f"{path} is damaged: give another --out, or remove {folder}") from error
    if not different:
        return
    name = different[0]
    was, now = (f"{side.get(name)!r}" for side in (theirs, identity))
    what = f"{name} = {was}, this one has {now}"
    if name == "fingerprint":
        what = f"'{theirs.get('problem')}' with other data or another model"
    raise StorageError(f"{folder} holds a fit of {what}: give another --out")
