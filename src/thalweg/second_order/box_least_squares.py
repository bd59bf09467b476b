"""Linear least squares within bounds (after section 8.6)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.second_order.box import held

ROUNDING = 1e-12  # of |b|: a smaller push against a bound is not seen


def box_least_squares(A: Tensor, b: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The least |Ap - b| over lower <= p <= upper, where lower <= 0 <= upper and A (m, n) has full column rank.

    An active set method, from p = 0 (Björck 1996, section 5.2): to the minimum over the variables that are free, or to
    the first bound on the way, where that variable is held; at a minimum the variable that pushes hardest away from its
    bound is let go. Every part of the way goes down, so that it ends at the one set of bounds that is right.

    >>> A, b = torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([2.0, 2.0])
    >>> box_least_squares(A, b, torch.zeros(2), torch.ones(2))
    tensor([1., 1.])
    """
    lengths = A.norm(dim=0)
    p = torch.zeros_like(lower)
    free = ~held(p, -(A.T @ b), lower, upper)
    for _ in range(10 * len(p) + 10):
        p, free, arrived = _towards(_least(A, b, p, free), p, free, lower, upper)
        if not arrived:
            continue
        push = A.T @ (b - A @ p) / lengths
        loose = torch.where(free | held(p, -push, lower, upper), 0.0, push.abs())
        if not float(loose.max()) > ROUNDING * float(b.norm()):
            break
        free = free | (torch.arange(len(p), device=p.device) == loose.argmax())
    return p


class _Place(NamedTuple):
    p: Tensor  # (n,)
    free: Tensor  # (n,), true or false
    arrived: bool


def _least(A: Tensor, b: Tensor, p: Tensor, free: Tensor) -> Tensor:
    """The minimum over the variables that are free, the others as in p."""
    found = torch.linalg.lstsq(A[:, free], (b - A[:, ~free] @ p[~free])[:, None], driver="gels").solution[:, 0]
    return torch.zeros_like(p).masked_scatter(free, found) + torch.where(free, 0.0, p)


def _towards(goal: Tensor, p: Tensor, free: Tensor, lower: Tensor, upper: Tensor) -> _Place:
    """From p to the goal, or as far on the way as the bounds allow."""
    ahead = goal - p
    bound = torch.where(ahead > 0, upper, lower)
    room = torch.where(free & (ahead != 0), (bound - p) / ahead, torch.inf)
    share = float(room.min())
    if share >= 1:
        return _Place(goal, free, True)
    hit = room <= share
    return _Place(torch.where(hit, bound, p + share * ahead), free & ~hit, False)
