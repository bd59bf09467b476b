"""Levenberg-Marquardt (after section 8.6.1)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import jacobian, residuals
from thalweg.core.rule import Start, rule, zeros
from thalweg.core.status import Status, going
from thalweg.second_order.box import box, box_least_squares, held, inside
from thalweg.second_order.rounding import at_rest, last_step, unseen
from thalweg.second_order.secular import secular

ACCEPT_ABOVE = 1e-4  # of the ratio of what f did to what the model said

unset = Start("unset", lambda theta, knobs: 0.0, scalar=True)


@rule(per="vector", batched=False)
def levenberg_marquardt(
    g, theta, f, D=zeros, region=unset, status=going, *, radius=1.0, lower=-math.inf, upper=math.inf
):
    """Levenberg-Marquardt in a trust region (Moré 1978): the least |r + Jp| over the p with |Dp| at most the radius.

    f is half the sum of the squares of the residuals r, with the Jacobian J. D holds the largest length that each column
    of J has had, so that the units of the parameters make no difference. The subproblem is solved in the singular values
    of J / D, never in JᵀJ, whose condition number is the square of J's. The first radius is `radius` times the length
    of the first Gauss-Newton step; below a quarter of the decrease that the model promises, a step's length is divided by
    four and, if f rose, tried again. Within bounds `lower` and `upper`, numbers or (n,), the step is the minimum over the
    box of the model with the same damping, found by an active set method.

    Where f is no number after a step, the region shrinks. It ends CONVERGED where the model promises less than
    rounding, RADIUS_COLLAPSED where no step keeps what it promises, NOT_FINITE where f or J is no number at theta or
    near it. Raises CurvatureError for an f without residuals.

    >>> from thalweg.core.objective import LeastSquares
    >>> f, theta = LeastSquares(lambda x: torch.stack([x[0] - 1, 10 * (x[1] - 2)])), torch.zeros(2)
    >>> seen = {"g": torch.tensor([-1.0, -200.0]), "theta": theta, "f": f}
    >>> levenberg_marquardt.step(seen, levenberg_marquardt.start(theta), {})[0]
    tensor([1., 2.])
    """
    low, high = box(theta, lower, upper)
    if bool(((theta < low) | (theta > high)).any()):
        return inside(theta, torch.zeros_like(theta), low, high), D, region, int(Status.GOING_ON)
    value, still = float(f(theta)), torch.zeros_like(theta)
    r, J = residuals(f, theta).double(), jacobian(f, theta).double()
    if not (math.isfinite(value) and bool(J.isfinite().all())):
        return still, D, region, int(Status.NOT_FINITE)
    free = ~held(theta, J.T @ r, low, high)
    D = torch.maximum(D, J.norm(dim=0).to(D))
    model = _model(r, J, torch.where(D > 0, D, 1.0).double(), free, (low - theta).double(), (high - theta).double())
    region = region or radius * float(model.gauss_newton.norm())
    hidden = unseen(value, theta) + (10 * torch.finfo(theta.dtype).eps * float((J.abs() @ theta.abs().double()).norm())) ** 2 / 2
    promised, numbers = 0.0, False
    while True:
        q, on_boundary = model.least(region)
        p, predicted, size = inside(theta, (q / model.D).to(theta), low, high), model.decrease(q), float(q.norm())
        if predicted <= hidden and on_boundary and not promised and region < 1e100:
            region = 4 * region  # too small for f to show anything: it is from another batch
            continue
        if predicted <= hidden or torch.equal(theta + p, theta):
            if promised and not at_rest(promised, value, theta):
                return still, D, 0.0, int(Status.RADIUS_COLLAPSED if numbers else Status.NOT_FINITE)
            return last_step(f, theta, p, value, g), D, 0.0, int(Status.CONVERGED)
        promised, trial = promised or predicted, float(f(theta + p))
        ratio = (value - trial) / predicted if trial < math.inf else -math.inf
        region, numbers = resized(region, ratio, size, on_boundary), numbers or ratio > -math.inf
        if ratio > ACCEPT_ABOVE:
            return p, D, region, int(Status.GOING_ON)


def resized(radius: float, ratio: float, size: float, on_boundary: bool) -> float:
    return radius

class _Model(NamedTuple):
    """|r + Jp| in q = Dp, by the singular values s and vectors of J / D, variables that are held left out of it."""

    D: Tensor  # (n,)
    s: Tensor  # (k,), descending
    V: Tensor  # (k, n)
    c: Tensor  # (k,), r in the singular vectors
    lower: Tensor  # (n,), of q
    upper: Tensor

    @property
    def gauss_newton(self) -> Tensor:
        """In the singular vectors, (k,)."""
        return -self.c / self.s

    def least(self, radius: float) -> tuple[Tensor, bool]:
        """The least over |q| <= radius, within the bounds; and whether the radius matters."""
        s, damping, on_boundary = self.gauss_newton, 0.0, False
        if float(s.norm()) > radius:
            scaled = radius * self.s.flip(0)
            on_sphere, multiplier = secular(scaled**2, self.c.flip(0) * scaled)
            s, damping, on_boundary = radius * on_sphere.flip(0), math.sqrt(multiplier) / radius, True
        q = self.V.T @ s
        if bool(((q < self.lower) | (q > self.upper)).any()):
            damping = max(damping, torch.finfo(q.dtype).eps * len(q) * float(self.s[0]))  # full rank
            A = torch.cat([self.s[:, None] * self.V, damping * torch.eye(len(q), dtype=q.dtype, device=q.device)])
            q = box_least_squares(A, torch.cat([-self.c, torch.zeros_like(q)]), self.lower, self.upper)
        return q, on_boundary

    def decrease(self, q: Tensor) -> float:
        """By how much the model of f falls."""
        change = self.s * (self.V @ q)
        return float(-(self.c @ change) - change @ change / 2)


def _model(r: Tensor, J: Tensor, D: Tensor, free: Tensor, lower: Tensor, upper: Tensor) -> _Model:
    U, s, V = torch.linalg.svd(J / D * free, full_matrices=False)
    seen = s > max(J.shape) * torch.finfo(s.dtype).eps * s[:1]
    return _Model(D, s[seen], V[seen], (U.T @ r)[seen], D * lower, D * upper)
