"""Newton's method (section 8.6.1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import hessian
from thalweg.core.rule import Rule, rule
from thalweg.core.status import Status, going
from thalweg.second_order.descent import descended
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.rounding import last_step, unseen

FLATTEST = 1e-8  # of the largest eigenvalue: what the regularised Hessian's smallest is at least


def newton_with(search: Search) -> Rule:
    """Newton's method with another line search.

    >>> from thalweg.second_order.line_search import armijo
    >>> newton_with(armijo).remembers
    {'status': going}
    """

    @rule(per="vector", batched=False)
    def newton(g, theta, f, status=going, *, lr=1.0, c1=1e-4, c2=0.9):
        """Newton's method (Algorithm 8.8), regularised (equation 8.28), with a line search that begins at lr.

        The direction solves (H + alpha I) d = -g. alpha is 0 where H is positive definite: the step is then the same
        in any coordinates, theta = Az. Elsewhere it turns the lowest eigenvalue into its opposite, so that f falls
        along d. It needs the whole Hessian, n products a step. Where H is zero or not finite, or f is not lower along
        d, the steepest descent is tried. The status is CONVERGED where rounding hides what d promises,
        LINE_SEARCH_FAILED where nothing lower is found, NOT_FINITE where f or g are no numbers, UNBOUNDED where f
        falls for ever.

        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 1.0])
        >>> newton(torch.tensor([4.0, 200.0]), theta, f, -1)[0]
        tensor([-2., -1.])
        """
        delta, status = stepped(search, f, theta, g, direction(hessian(f, theta), g), lr, c1, c2)
        return delta, int(status)

    return newton


def stepped(
    search: Search, f: Any, theta: Tensor, g: Tensor, d: Tensor | None, lr: float, c1: float, c2: float
) -> tuple[Tensor, Status]:
    """A step along a Newton direction, searched for: the last one, whole, where rounding hides what d promises.

    >>> stepped(wolfe, lambda x: (x * x).sum(), torch.ones(1), torch.tensor([2.0]), -torch.ones(1), 1.0, 1e-4, 0.9)
    (tensor([-1.]), <Status.GOING_ON: -1>)
    """
    value = float(f(theta))
    if d is not None and 0 <= promise(g, d) <= unseen(value, theta):
        return last_step(f, theta, d, value, g), Status.CONVERGED
    step = descended(search, f, theta, g, d, lr=lr, c1=c1, c2=c2)
    return step.delta, step.status


def promise(g: Tensor, d: Tensor) -> float:
    """By how much f falls along a Newton direction, says the quadratic model.

    >>> promise(torch.tensor([2.0]), torch.tensor([-1.0]))
    1.0
    """
    return -float(g @ d) / 2


def direction(H: Tensor, g: Tensor) -> Tensor | None:
    """The d of (H + alpha I) d = -g; None where H is zero or not finite.

    >>> direction(torch.diag(torch.tensor([2.0, -1.0])), torch.tensor([4.0, 3.0]))
    tensor([-1., -3.])
    """
    scale = float(H.abs().max())
    if not 0 < scale < math.inf:
        return None
    A, c = H.double() / scale, g.double() / scale
    L, failed = torch.linalg.cholesky_ex(A)
    if not failed:
        return -torch.cholesky_solve(c[:, None], L)[:, 0].to(g)
    w, V = torch.linalg.eigh(A)
    alpha = torch.maximum(-2 * w[0], FLATTEST * w.abs().max() - w[0])
    d: Tensor = -V.mv(V.T.mv(c) / (w + alpha)).to(g)
    return d


newton = newton_with(wolfe)
