"""Gauss-Newton (after section 8.6.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.jacobian import jacobian, residuals
from thalweg.core.rule import Rule, rule
from thalweg.core.status import Status, going
from thalweg.second_order.descent import descended
from thalweg.second_order.line_search import Search, wolfe


def gauss_newton_with(search: Search) -> Rule:
    """Gauss-Newton with another line search: `fixed` for whole steps that are not searched.

    >>> from thalweg.second_order.line_search import fixed
    >>> gauss_newton_with(fixed).sees
    ('g', 'theta', 'f')
    """

    @rule(per="vector", batched=False)
    def gauss_newton(g, theta, f, status=going, *, lr=1.0, c1=1e-4, c2=0.9):
        """Gauss-Newton (Nocedal and Wright 2006, section 10.3): a line search towards the least |r + Jp|.

        f is half the sum of the squares of the residuals r, with the Jacobian J. The linear problem is solved in the
        singular values of J, its columns scaled to one length, never in JᵀJ; what rounding hides is left out, so that
        p is the shortest in these units where J has not full rank. Where the search finds nothing that way it goes
        down the steepest descent.

        It is fast where the residuals are small or nearly linear, and has no defence against a J that is nearly
        singular: `levenberg_marquardt` has. The status is the line search's where it fails, CONVERGED where rounding
        hides what f does, NOT_FINITE where f or J is no number at theta. Raises CurvatureError for an f without
        residuals.

        >>> from thalweg.core.objective import LeastSquares
        >>> f, theta = LeastSquares(lambda x: torch.stack([x[0] - 1, 10 * (x[1] - 2)])), torch.zeros(2)
        >>> seen = {"g": torch.tensor([-1.0, -200.0]), "theta": theta, "f": f}
        >>> gauss_newton.step(seen, gauss_newton.start(theta), gauss_newton.knobs)[0]
        tensor([1., 2.])
        """
        r, J = residuals(f, theta), jacobian(f, theta)
        if not bool(r.isfinite().all() and J.isfinite().all()):
            return torch.zeros_like(theta), int(Status.NOT_FINITE)
        p = least_change(J, r)
        step = descended(search, f, theta, g, p if p.any() else None, lr=lr, c1=c1, c2=c2)
        return step.delta, int(step.status)

    return gauss_newton


def least_change(J: Tensor, r: Tensor) -> Tensor:
    """The p (n,) with the least |r + Jp|, for J: (m, n) and r: (m,); the shortest one, each column of J as a unit.

    What is below the rounding of J's own dtype is nothing; it is computed in float64.

    >>> least_change(torch.tensor([[1.0, 1.0], [0.0, 1e8]]), torch.tensor([1.0, -1e8]))
    tensor([-2.,  1.])
    """
    lengths = J.double().norm(dim=0)
    units = torch.where(lengths > 0, lengths, 1.0)
    U, s, V = torch.linalg.svd(J.double() / units, full_matrices=False)
    seen = s > max(J.shape) * torch.finfo(J.dtype).eps * s[:1]
    p: Tensor = (-(V[seen].T @ ((U.T @ r.double())[seen] / s[seen])) / units).to(J)
    return p


gauss_newton = gauss_newton_with(wolfe)
