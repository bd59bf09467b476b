"""Bounds lower <= theta <= upper on a step, and linear least squares within them (after section 8.6)."""

from __future__ import annotations

import torch
from torch import Tensor

Bound = float | Tensor


def box(theta: Tensor, lower: Bound, upper: Bound) -> tuple[Tensor, Tensor]:
    """Bounds that are numbers or (n,), each as (n,) of theta's dtype."""
    low, high = (torch.as_tensor(b, dtype=theta.dtype, device=theta.device).expand_as(theta) for b in (lower, upper))
    return low, high


def inside(theta: Tensor, delta: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """delta, cut so that theta + delta is inside the bounds, in the dtype's own sum.

    >>> inside(torch.tensor([0.1, 0.0]), torch.tensor([1.0, -1.0]), torch.zeros(2), torch.tensor([0.7, 1.0]))
    tensor([0.6000, 0.0000])
    """
    ahead = theta + delta
    cut = torch.where((ahead < lower) | (ahead > upper), torch.clamp(ahead, lower, upper) - theta, delta)
    within = torch.nextafter(cut, torch.zeros_like(cut))  # the difference is rounded: it may lead beyond by a bit
    ahead = theta + cut
    return torch.where((ahead < lower) | (ahead > upper), within, cut) + 0.0  # no -0


def held(theta: Tensor, g: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Which variables are at a bound and would leave it along -g: (n,), true or false."""
    return ((theta <= lower) & (g > 0)) | ((theta >= upper) & (g < 0)) | (lower == upper)


def box_least_squares(A: Tensor, b: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The least |Ap - b| over lower <= p <= upper, where lower <= 0 <= upper and A has full column rank.

    An active set method, from p = 0: to the minimum over the variables that are free, or to the first bound on the way,
    where that variable is held; at the minimum the one whose bound pushes hardest is let go (after Bjorck 1996,
    section 5.2.4). Every part of the way goes down, and there are finitely many sets.

    >>> A, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 0.5])
    >>> box_least_squares(A, b, torch.zeros(2), torch.ones(2))
    tensor([1.0000, 0.5000])
    """
    p, columns = torch.zeros_like(lower), A.norm(dim=0)
    free = ~held(p, -(A.T @ b), lower, upper)
    for _ in range(10 * len(p) + 10):
        if bool(free.any()):
            goal = p.clone()
            goal[free] = torch.linalg.lstsq(A[:, free], (b - A[:, ~free] @ p[~free])[:, None], driver="gels").solution[
                :, 0
            ]
            p, reached, free = _towards(goal, p, free, lower, upper)
            if not reached:
                continue
        push = (A.T @ (b - A @ p)) / columns
        loose = torch.where(free | held(p, -push, lower, upper), 0.0, push.abs())
        if not float(loose.max()) > 1e-12 * float(b.norm()):
            break
        free = free | (torch.arange(len(p), device=p.device) == loose.argmax())
    return p


def _towards(goal: Tensor, p: Tensor, free: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, bool, Tensor]:
    """On the way from p to the goal as far as the bounds allow: where, whether it is there, and what stays free."""
    ahead = goal - p
    bound = torch.where(ahead > 0, upper, lower)
    room = torch.where(free & (ahead != 0), (bound - p) / ahead, torch.inf)
    nearest = float(room.min())
    if nearest >= 1:
        return goal, True, free
    hit = room <= nearest
    return torch.where(hit, bound, p + nearest * ahead), False, free & ~hit
