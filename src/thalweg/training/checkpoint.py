"""States on disk that a crash, a full disk or a flipped bit cannot turn into wrong numbers.

A state is one safetensors file: the tensors, and as its metadata a JSON manifest of the other values and the
SHA-256 of it all. One file, so that one rename makes it whole: it is written beside its place, synced, renamed
there, and the folder synced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from thalweg.core.errors import StorageError

KEPT = 2  # checkpoints: the newest, and the one before it in case the newest is damaged
MANIFEST = "thalweg"


class Checkpoint(NamedTuple):
    """What was read back, and what had to be said on the way."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    notes: list[str]


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; raises StorageError for a full disk and the like, the old file untouched."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {(error.strerror or str(error)).lower()}; nothing that was there is lost: "
            "make room, then type the same command to go on"
        ) from error


def packed(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file, the same bytes for the same tensors."""
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One entry only: safetensors writes several in an order that changes from process to process.
    return safetensors.torch.save(whole, None if manifest is None else {MANIFEST: json.dumps(manifest)})


def save_state(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Writes tensors, and values for JSON, as one file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "state.safetensors")
    >>> save_state(path, {"theta": torch.ones(2)}, {"t": 3})
    >>> load_state(path)
    ({'theta': tensor([1., 1.])}, {'t': 3})
    """
    written = json.dumps(values)
    write(path, packed(tensors, {"sha256": _digest(tensors, written), "values": written}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_state` wrote; raises StorageError where it is missing, cut off, or differs in a single bit."""
    try:
        content = path.read_bytes()
        tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(content).items()}  # aligned anew
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        manifest = json.loads(header["__metadata__"][MANIFEST])
        written, digest = manifest["values"], manifest["sha256"]
    except OSError as error:
        raise StorageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged: it is no whole checkpoint") from error
    if _digest(tensors, written) != digest:
        raise StorageError(f"{path} is damaged: its SHA-256 is not the one it was saved with")
    return tensors, json.loads(written)


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Adds a checkpoint to a folder, then drops those older than the one before it."""
    folder.mkdir(exist_ok=True)
    older = _checkpoints(folder)
    number = int(older[-1].stem) + 1 if older else 1
    save_state(folder / f"{number:08d}.safetensors", tensors, values)
    for path in older[: 1 - KEPT]:
        path.unlink()


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where none was ever saved.

    A damaged one is set aside under another name and said in the notes. Raises StorageError where all are damaged.
    """
    notes = []
    found = _checkpoints(folder)
    for path in reversed(found):
        try:
            tensors, values = load_state(path)
        except StorageError as error:
            path.replace(path.with_suffix(".damaged"))
            notes.append(f"{error}; the checkpoint before it is used")
        else:
            return Checkpoint(tensors, values, notes)
    if found:
        raise StorageError(f"every checkpoint in {folder} is damaged: remove {folder.parent} to train from the start")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.safetensors") if path.stem.isdecimal())


def _digest(tensors: Mapping[str, Tensor], written: str) -> str:
    digest = hashlib.sha256(written.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
