"""The subproblems of trust regions and of cubic regularisation, where the Hessian is diagonal (after section 8.6.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MOST = 200  # iterations of Newton's method: five or so are usual

Length = Callable[[float], tuple[float, float]]


def at_most_one(multiplier: float) -> tuple[float, float]:
    """The unit trust region: one over the length allowed, and its derivative."""
    return 1.0, 0.0


def cubic(sigma: float) -> Length:
    """The minimum of gᵀs + sᵀHs/2 + sigma |s|³/3 has the length multiplier / sigma: one over it, and its derivative."""

    def length(multiplier: float) -> tuple[float, float]:
        if multiplier == 0:
            return math.inf, -math.inf
        return sigma / multiplier, -sigma / multiplier / multiplier

    return length


def secular(w: Tensor, c: Tensor, length: Length = at_most_one) -> tuple[Tensor, float]:
    """The step s (k,) and its multiplier >= 0 for which (w + multiplier) s = -c, w + multiplier >= 0, |s| as told.

    `w: (k,)` are the eigenvalues, ascending, `c: (k,)` is the gradient in their eigenvectors, both in float64. The step
    has the length that `length` gives for the multiplier, or less where the multiplier is 0. In the hard case, where c
    has nothing along the lowest eigenvectors and the step falls short, the rest goes along the first of them (Moré and
    Sorensen 1983). Newton's method on one over |s|, which is nearly linear in the multiplier, finds it.

    >>> secular(torch.tensor([1.0, 2.0]).double(), torch.tensor([0.5, 0.0]).double())
    (tensor([-0.5000,  0.0000], dtype=torch.float64), 0.0)
    >>> secular(torch.tensor([-1.0, 1.0]).double(), torch.tensor([0.0, 1.0]).double())
    (tensor([ 0.8660, -0.5000], dtype=torch.float64), 1.0)
    """
    lowest = min(0.0, float(w[0]))
    d = w - lowest

    def step(t: float) -> Tensor:  # the multiplier is t - lowest: t may be far smaller than either
        return torch.where(c == 0, 0.0, -c / (d + t))

    s, (inverse, _) = step(0.0), length(abs(lowest))
    if not float(s.norm()) * inverse > 1:
        if lowest < -len(w) * torch.finfo(w.dtype).eps * float(w.abs().max()):
            missing = 1 / inverse / inverse - float(s @ s)
            s = s + math.sqrt(max(missing, 0.0)) * torch.eye(len(w), dtype=w.dtype)[0]
        return s, abs(lowest)
    alone = float(c[d == 0].norm()) * inverse  # the root, did c have nothing else: nearly so in the nearly hard case
    low, high, t = 0.0, math.inf, alone if 0 < alone < math.inf else float(c.norm())
    for _ in range(MOST):
        s, (inverse, fall) = step(t), length(t - lowest)
        size = float(s.norm())
        u = s / size
        excess, slope = 1 / size - inverse, float((u * u / (d + t)).sum()) / size - fall
        low, high = (t, high) if excess < 0 else (low, t)
        following = t - excess / slope  # from below it never overshoots: the function is concave
        if abs(following - t) <= 4 * torch.finfo(w.dtype).eps * t:
            break
        if not low < following < high:
            following = t * size * inverse  # as if s were c over t
        if not low < following < high:
            following = (low + high) / 2
        t = following
    return step(t), t - lowest
