"""BFGS (section 8.6.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.core.rule import Rule, Start, rule
from thalweg.core.status import going
from thalweg.second_order.descent import descended
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.linear import length

unknown = Start("unknown", lambda theta, knobs: None)
LEAST = 0.1  # of what it was: the curvature that is remembered shrinks no more in one step


def bfgs_with(search: Search) -> Rule:
    """BFGS with another line search.

    >>> from thalweg.second_order.line_search import armijo
    >>> bfgs_with(armijo).remembers
    {'H': unknown, 'status': going}
    """

    @rule(per="vector", batched=False)
    def bfgs(g, theta, f, H=unknown, status=going, *, lr=1.0, c1=1e-4, c2=0.9):
        """BFGS (section 8.6.3; Nocedal and Wright 2006, Algorithm 6.1); H is an estimate of the inverse Hessian.

        d = -Hg is searched from lr on. H (n, n) begins after the first step, as the multiple of the identity that suits
        it; the first step is down the steepest descent. Where the search ends at a slope that is still falling, there
        is less curvature than H says: H is first enlarged (see `overstated`; this is not in the book). It takes n²
        numbers and operations a step: for more than a few thousand variables there is `lbfgs`.

        Where the line search fails H is forgotten and the steepest descent searched; where that fails too, the status
        is why: LINE_SEARCH_FAILED, CONVERGED where rounding hides what f does, UNBOUNDED, NOT_FINITE.

        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 1.0])
        >>> memory = bfgs.start(theta)
        >>> for _ in range(8):
        ...     g = torch.stack([2 * (theta[0] - 1), 200 * theta[1]])
        ...     delta, memory = bfgs.step({"g": g, "theta": theta, "f": f}, memory, bfgs.knobs)
        ...     theta = theta + delta
        >>> torch.testing.assert_close(theta, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0.0)
        """
        step = descended(search, f, theta, g, None if H is None else -(H @ g), lr=lr, c1=c1, c2=c2)
        if step.steepest:
            H = None
        elif step.alpha:
            H = H / overstated(step.alpha, float(step.g @ step.d) / float(g @ step.d))
        return step.delta, updated(H, step.delta, step.g - g), int(step.status)

    return bfgs


def updated(H: Tensor | None, s: Tensor, y: Tensor) -> Tensor | None:
    """The H (n, n) that takes the change y of the gradient to the step s, and is else as it was (equation 6.17 there).

    Where it is None it is first the multiple of the identity that suits s and y best (6.20). Where the curvature along
    s is not positive, to rounding, it stays as it is.

    >>> updated(None, torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]))
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    far = length(s)
    if not far:
        return H
    s, y = s / far, y / far  # the same H comes of both; the squares stay in the range of float32
    sy, yy = float(s @ y), float(y @ y)
    if not sy > torch.finfo(s.dtype).eps * math.sqrt(yy):
        return H
    if H is None:
        H = sy / yy * torch.eye(len(s), dtype=s.dtype, device=s.device)
    # Factor by factor: summed up first, the terms cancel, and a badly conditioned H is soon not positive definite.
    right = H - torch.outer(H @ y / sy, s)  # H (I - ys' / s'y)
    H = right + torch.outer(s, (s - y @ right) / sy)
    return (H + H.T) / 2


def overstated(alpha: float, ratio: float) -> float:
    """The curvature along a step, over what H said it was, where that is less than 1, from the ratio of both slopes.

    It is Oren and Luenberger's factor for steps up to 1, never above 1 (after Al-Baali 1998): what H says of all other
    directions is taken to be overstated alike. An exact line search has the ratio 0, and leaves H as it is. It is worth
    a fifth of the evaluations on the problems of Moré, Garbow and Hillstrom, most where a valley is followed in steps
    of 1 that could be longer.

    >>> overstated(1.0, 0.75), overstated(0.25, 0.75), overstated(4.0, 0.0)
    (0.25, 1.0, 1.0)
    """
    return min(1.0, max((1 - ratio) / min(alpha, 1.0), LEAST))


bfgs = bfgs_with(wolfe)
