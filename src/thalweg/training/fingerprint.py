"""Parts of a problem's fingerprint: the same in every process, different where the problem is another one."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch

from thalweg.core.network import Batch
from thalweg.learning.batches import Arrays, Examples


def data_digest(data: Examples | None) -> bytes:
    """A hash of data: of every byte in memory, or of a Dataset's length and a few of its examples."""
    if data is None:
        return b"none"
    digest = hashlib.sha256(str(len(data)).encode())
    some = Batch(data.inputs, data.targets) if isinstance(data, Arrays) else _few(data)
    for tensor in some[1:] if drawn_anew(data) else some:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def drawn_anew(data: Examples) -> bool:
    """Whether inputs differ each time they are asked for, by augmentation with other than torch's random numbers."""
    return not isinstance(data, Arrays) and not torch.equal(_few(data).inputs, _few(data).inputs)


def without_addresses(value: Any) -> str:
    """A function's name or a module's text, without its places in memory, which another process would not have."""
    return re.sub(r" at 0x[0-9a-f]+", "", getattr(value, "__name__", None) or str(value))


def _few(data: Examples) -> Batch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return data.take(torch.linspace(0, len(data) - 1, min(8, len(data))).long())
