"""Newton's method in a trust region (after section 8.6.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import hessian, hessian_at
from thalweg.core.rule import rule
from thalweg.core.status import Status, going
from thalweg.second_order import trust_region
from thalweg.second_order.linear import length
from thalweg.second_order.radius import forcing, natural_radius, trusted, unset

ROUGHEST = 0.1  # of |g|: what an inexact solution of the subproblem may leave of it


@rule(per="vector", batched=False)
def trust_ncg(g, theta, f, region=unset, before=unset, status=going, *, radius=1.0):
    """Newton's method in a trust region, by truncated conjugate gradients (Steihaug 1983); products only.

    Nocedal and Wright's Algorithms 4.1 and 7.2. The first radius is `radius` times the length of the Cauchy step. A
    step is one that f agrees with: where it does not, the radius shrinks and the step is found again. The status is
    RADIUS_COLLAPSED where f agrees with none, CONVERGED where rounding hides what the model promises, UNBOUNDED where f
    falls to minus infinity, NOT_FINITE where f, g or H are no numbers.

    >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 0.0])
    >>> trust_ncg(torch.tensor([4.0, 0.0]), theta, f, 0.0, 0.0, -1)[0]
    tensor([-2., 0.])
    """
    return _step(trust_region.steihaug, hessian_at, g, theta, f, region, before, radius)


@rule(per="vector", batched=False)
def trust_krylov(g, theta, f, region=unset, before=unset, status=going, *, radius=1.0):
    """Newton's method in a trust region, by Lanczos (Gould et al. 1999), which finds the hard case; products only.

    It keeps up to 100 vectors as long as theta. Else it is trust_ncg.

    >>> f, theta = (lambda x: x[0] ** 2 - x[1] ** 2), torch.tensor([0.5, 0.0])
    >>> trust_krylov(torch.tensor([1.0, 0.0]), theta, f, 1.0, 0.0, -1)[0].abs()
    tensor([0.2500, 0.9682])
    """
    return _step(trust_region.lanczos, hessian_at, g, theta, f, region, before, radius)


@rule(per="vector", batched=False)
def trust_exact(g, theta, f, region=unset, before=unset, status=going, *, radius=1.0):
    """Newton's method in a trust region whose subproblem is solved exactly (Moré and Sorensen 1983).

    It needs the whole Hessian, n products a step, and its eigenvectors: the fewest evaluations, for up to some hundred
    variables. Else it is trust_ncg.

    >>> f, theta = (lambda x: x[0] ** 2 - x[1] ** 2), torch.tensor([0.5, 0.0])
    >>> trust_exact(torch.tensor([1.0, 0.0]), theta, f, 1.0, 0.0, -1)[0].abs()
    tensor([0.2500, 0.9682])
    """
    return _step(trust_region.exact, hessian, g, theta, f, region, before, radius)


@rule(per="vector", batched=False)
def dogleg(g, theta, f, region=unset, before=unset, status=going, *, radius=1.0):
    """Newton's method in a trust region, by the dogleg (Powell 1970): nearly exact, and no eigenvectors.

    Where the Hessian is not positive definite, a multiple of the identity is added to it. Else it is trust_exact.

    >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 0.0])
    >>> dogleg(torch.tensor([4.0, 0.0]), theta, f, 0.0, 0.0, -1)[0]
    tensor([-2., -0.])
    """
    return _step(trust_region.dogleg, hessian, g, theta, f, region, before, radius)


def _step(
    solve: trust_region.Solve, curvature: Callable[..., Any],
    g: Tensor, theta: Tensor, f: Any, region: float, before: float, radius: float,
) -> tuple[Tensor, float, float, int]:  # fmt: skip
    """The rules above, by a solver of the subproblem and the Hessian that it needs."""
    value, size = float(f(theta)), length(g)
    if not (math.isfinite(value) and math.isfinite(size)):
        return torch.zeros_like(theta), region, before, int(Status.NOT_FINITE)
    H = curvature(f, theta)
    first = region or radius * natural_radius(H, g, theta)
    rtol = forcing(size, before, ROUGHEST)
    p, region, status = trusted(f, theta, g, first, rtol, lambda r, tol: solve(H, g, r, tol))
    return p, region, size, int(status)
