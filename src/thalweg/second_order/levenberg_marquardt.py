"""Levenberg-Marquardt (after section 8.6.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.core.jacobian import jacobian, residuals
from thalweg.core.rule import rule, zeros
from thalweg.core.status import Status, going
from thalweg.second_order.box import box, held, inside, outside
from thalweg.second_order.box_least_squares import box_least_squares
from thalweg.second_order.radius import trusted, unset
from thalweg.second_order.rounding import ROUNDING
from thalweg.second_order.secular import secular
from thalweg.second_order.trust_region import Step

SHRINK, GROW = 0.1, 3.0  # the radius changes by no more in one step


@rule(per="vector", batched=False)
def levenberg_marquardt(
    g, theta, f, D=zeros, region=unset, status=going, *, radius=1.0, lower=-math.inf, upper=math.inf
):
    """Levenberg-Marquardt in a trust region (Moré 1978): the least |r + Jp| over the p with |Dp| at most its radius.

    f is half the sum of the squares of the residuals r, with the Jacobian J. D holds the largest length that each
    column of J has had, so that the units of the parameters make no difference. The subproblem is solved in the
    singular values of J / D, never in JᵀJ, whose condition is the square of J's. The first radius is `radius` times the
    length of the first Gauss-Newton step. Within the bounds `lower` and `upper`, numbers or (n,), the step is the
    minimum of the damped model over the box, and theta plus the step is inside exactly, also where theta was not.

    It ends CONVERGED where rounding hides what the model promises, RADIUS_COLLAPSED where no step keeps its promise,
    NOT_FINITE where f or J is no number at theta; where f is none after a step, the region shrinks. Raises
    CurvatureError for an f without residuals.

    >>> from thalweg.core.objective import LeastSquares
    >>> f, theta = LeastSquares(lambda x: torch.stack([x[0] - 1, 10 * (x[1] - 2)])), torch.zeros(2)
    >>> seen = {"g": torch.tensor([-1.0, -200.0]), "theta": theta, "f": f}
    >>> levenberg_marquardt.step(seen, levenberg_marquardt.start(theta), {})[0]
    tensor([1., 2.])
    """
    low, high = box(theta, lower, upper)
    still = torch.zeros_like(theta)
    if outside(theta, low, high):
        return inside(theta, still, low, high), D, region, int(Status.GOING_ON)
    r, J, value = residuals(f, theta).double(), jacobian(f, theta).double(), float(f(theta))
    if not (math.isfinite(value) and bool(J.isfinite().all())):
        return still, D, region, int(Status.NOT_FINITE)
    D = torch.maximum(D, J.norm(dim=0).to(D))
    scale = torch.where(D > 0, D, 1.0).double()
    eps = torch.finfo(theta.dtype).eps
    model = _model(r, J, scale, (low - theta).double(), (high - theta).double(), eps)
    if float(model.c.norm()) <= ROUNDING * eps * float((J.abs() @ theta.abs().double()).norm()):
        return still, D, 0.0, int(Status.CONVERGED)  # the rounding of theta makes residuals as large as what is left

    def solve(radius: float, rtol: float) -> Step:
        q, on_boundary = model.least(radius)
        return Step(inside(theta, (q / scale).to(theta), low, high), model.decrease(q), on_boundary)

    def resize(radius: float, ratio: float, step: Step) -> float:
        return resized(radius, ratio, float((scale * step.p).norm()))

    first = region or radius * float((model.c / model.s).norm())
    p, region, ends = trusted(f, theta, g, first, 0.0, solve, resize)
    return p, D, region, int(ends)


def resized(radius: float, ratio: float, size: float) -> float:
    """The radius after a step of length `size`, f's decrease having been `ratio` times what was promised.

    Nielsen's (1999) factor of the damping, turned over, so that it changes smoothly; where f rose, to about the minimum
    of the parabola through what is known.

    >>> [round(resized(1.0, ratio, 1.0), 2) for ratio in (-100.0, -1.0, 0.0, 0.5, 1.0)]
    [0.1, 0.25, 0.5, 1.0, 3.0]
    """
    if ratio <= 0:
        return max(SHRINK, 0.5 / (1 - ratio)) * min(size, radius)
    factor = 1 / max(1 / GROW, 1 - (2 * min(ratio, 1.0) - 1) ** 3)
    return max(radius, factor * size) if factor > 1 else factor * min(size, radius)


class _Model(NamedTuple):
    """|r + Jp| in q = Dp by the singular values of J / D, without the columns of variables that are held at a bound."""

    s: Tensor  # (k,), descending
    V: Tensor  # (k, n)
    c: Tensor  # (k,), r in the singular vectors
    lower: Tensor  # (n,), of q
    upper: Tensor

    def least(self, radius: float) -> tuple[Tensor, bool]:
        """The least over |q| <= radius, within the bounds; and whether the radius matters."""
        q, damping = -self.c / self.s, 0.0
        on_boundary = float(q.norm()) > radius
        if on_boundary:
            scaled = radius * self.s.flip(0)
            sphere, multiplier = secular(scaled**2, self.c.flip(0) * scaled)
            q, damping = radius * sphere.flip(0), math.sqrt(multiplier) / radius
        q = self.V.T @ q
        if outside(q, self.lower, self.upper):
            damping = max(damping, torch.finfo(q.dtype).eps * len(q) * float(self.s[0]))  # for full rank
            A = torch.cat([self.s[:, None] * self.V, damping * torch.eye(len(q), dtype=q.dtype, device=q.device)])
            q = box_least_squares(A, torch.cat([-self.c, torch.zeros_like(q)]), self.lower, self.upper)
        return q, on_boundary

    def decrease(self, q: Tensor) -> float:
        """By how much the model of f falls."""
        change = self.s * (self.V @ q)
        return float(-(self.c @ change) - change @ change / 2)


def _model(r: Tensor, J: Tensor, scale: Tensor, lower: Tensor, upper: Tensor, eps: float) -> _Model:
    free = ~held(torch.zeros_like(lower), J.T @ r, lower, upper)
    U, s, V = torch.linalg.svd(J / scale * free, full_matrices=False)
    seen = s > max(J.shape) * eps * s[:1]  # what J says beyond the rounding of its dtype
    return _Model(s[seen], V[seen], (U.T @ r)[seen], scale * lower, scale * upper)
