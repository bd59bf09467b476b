"""How far a model of f is believed: the radius of a trust region, and the loop that finds it (after section 8.6.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.core.rule import Start
from thalweg.core.status import Status
from thalweg.second_order.linear import length
from thalweg.second_order.rounding import at_rest, last_step, unseen
from thalweg.second_order.trust_region import Matrix, Step, product_with

ACCEPT_ABOVE = 1e-4  # of the ratio of what f did to what the model said
SHRINK_BELOW, GROW_ABOVE = 0.25, 0.75
SHRINK, GROW = 0.25, 2.0
LARGEST = 1e100  # where f is still as the model says at this radius, it has no minimum

Propose = Callable[[float, float], Step]
Resize = Callable[[float, float, Step], float]

unset = Start("unset", lambda theta, knobs: 0.0, scalar=True)


def agreement(value: float, trial: float, predicted: float) -> float:
    """What f did over what the model predicted: minus infinity where f is no number there.

    >>> agreement(2.0, 1.0, 0.5), agreement(2.0, math.nan, 0.5)
    (2.0, -inf)
    """
    return (value - trial) / predicted if trial < math.inf else -math.inf


def resized(radius: float, ratio: float, step: Step) -> float:
    """The next radius after a step whose agreement was `ratio`, by SciPy's constants.

    >>> step = Step(torch.tensor([0.8]), 1.0, on_boundary=True)
    >>> [round(resized(0.8, ratio, step), 3) for ratio in (0.1, 0.5, 0.9)]
    [0.2, 0.8, 1.6]
    """
    if ratio < SHRINK_BELOW:
        return SHRINK * min(length(step.p), radius)
    return min(GROW * radius, LARGEST) if ratio > GROW_ABOVE and step.on_boundary else radius


def natural_radius(H: Matrix, g: Tensor, theta: Tensor) -> float:
    """The length of the Cauchy step, |g| over the curvature along g; that of theta, or 1, where there is none.

    A multiple of f does not change it, and it is scaled as theta is.

    >>> natural_radius(torch.diag(torch.tensor([2.0, 4.0])), torch.tensor([0.0, 6.0]), torch.zeros(2))
    1.5
    """
    size = length(g)
    along = abs(float(g / size @ product_with(H)(g / size))) if size else 0.0
    return size / along if 0 < along < math.inf else length(theta) or 1.0


def forcing(size: float, before: float, most: float) -> float:
    """How much of |g|, now `size`, an inexact solution may leave: the square of what was left of the |g| before.

    Eisenstat and Walker's second choice (1996), at most `most`: a multiple of f does not change it, and convergence is
    faster than linear.

    >>> forcing(1.0, 0.0, 0.5), forcing(1.0, 4.0, 0.5)
    (0.5, 0.0625)
    """
    return min(most, (size / before) * (size / before)) if before else most


def trusted(
    f: Any, theta: Tensor, g: Tensor, radius: float, rtol: float, solve: Propose, resize: Resize = resized
) -> tuple[Tensor, float, Status]:
    """The first step that f agrees with, from ever smaller radii; the radius for the next; and the status.

    `solve(radius, rtol)` proposes a step. Where its promise is hidden by rounding, radius and accuracy are raised first
    (they may be left from elsewhere); then it is CONVERGED, or RADIUS_COLLAPSED where f, at a larger radius, failed to
    keep a promise that rounding does not explain. The radius is then 0: it is to be begun anew.

    >>> f, theta = (lambda x: x.cosh().sum()), torch.tensor([3.0])
    >>> trusted(f, theta, theta.sinh(), 8.0, 0.1, lambda r, rtol: Step(-r * torch.ones(1), r, True))
    (tensor([-2.]), 4.0, <Status.GOING_ON: -1>)
    """
    value, eps, promised = float(f(theta)), torch.finfo(theta.dtype).eps, 0.0
    hidden = unseen(value, theta)
    while True:
        step = solve(radius, rtol)
        if step.status != Status.GOING_ON:
            return torch.zeros_like(theta), radius, step.status
        if step.predicted <= hidden and not promised:
            if step.on_boundary and radius < LARGEST:
                radius = 4 * radius
                continue
            if rtol > eps:
                rtol = eps
                continue
        if step.predicted <= hidden or torch.equal(theta + step.p, theta):
            if promised and not at_rest(promised, value, theta):
                return torch.zeros_like(theta), 0.0, Status.RADIUS_COLLAPSED
            return last_step(f, theta, step.p, value, g), 0.0, Status.CONVERGED
        promised = promised or step.predicted
        trial = float(f(theta + step.p))
        if trial == -math.inf:
            return torch.zeros_like(theta), radius, Status.UNBOUNDED
        ratio = agreement(value, trial, step.predicted)
        radius = resize(radius, ratio, step)
        if ratio > ACCEPT_ABOVE:
            return step.p, radius, Status.GOING_ON if radius < LARGEST else Status.UNBOUNDED
