"""What is expensive and kept for a while: made anew when it is due, else as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Kept = tuple[Tensor | None, ...]


def refreshed(due: Any, make: Callable[[], Kept], old: Kept) -> Kept:
    """`make()` where `due`, else `old`.

    A `due` that is a bool, as it is where the clock is a number, saves the work. One that is a tensor (knobs in a
    batch) cannot: both are there, and one is chosen.

    >>> refreshed(True, lambda: (torch.ones(2), None), (torch.zeros(2), None))
    (tensor([1., 1.]), None)
    >>> refreshed(torch.tensor(False), lambda: (torch.ones(2), None), (torch.zeros(2), None))
    (tensor([0., 0.]), None)
    """
    if isinstance(due, Tensor):
        return tuple(
            torch.where(due, a, b) if a is not None and b is not None else None
            for a, b in zip(make(), old, strict=True)
        )
    return make() if due else old
