"""Damping that adapts (after section 8.6): of the model by Levenberg and Marquardt, of its approximation by trying.

Martens and Grosse 2015, sections 6.5 and 6.6. `strength`, their λ, is added to the exact Fisher matrix of the quadratic
model that says how far to go; `gamma`, whose square is added to the approximation that says where to, is another one:
what the approximation leaves out takes more of it, or less.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.status import Status
from thalweg.second_order.fisher import Outputs, pushed
from thalweg.second_order.processes import Average, alone
from thalweg.second_order.quadratic import Stepped
from thalweg.second_order.radius import agreement
from thalweg.second_order.rounding import last_step, unseen

GOOD, BAD = 0.75, 0.25  # of what the model promised
TRIED, AT_FIRST = 20, 3  # other gammas are tried every so many steps, and in the first ones


class Damping(NamedTuple):
    """What is remembered of it: `initial` is the strength that it began with, 0 before."""

    strength: float
    initial: float
    gamma: float


def begun(damping: Damping, outputs: Outputs, g: Tensor, relative: float, decay: float, average: Average) -> Damping:
    """At first `relative` times the curvature along g, so that the scale of f, and of theta, changes nothing."""
    if damping.initial:
        return damping
    along = float(average(outputs.back(pushed(outputs, g)(g)).square().sum()) / (g @ g))
    strength = relative * along
    return Damping(strength, strength, math.sqrt(strength + decay))


def gammas(damping: Damping, decay: float, t: int, omega: float) -> list[float]:
    """The gammas to try: the present one; now and then its neighbours, between the strength now and that at first.

    Without the upper end a gamma that is too large may win by ever less, and run away.

    >>> gammas(Damping(0.25, 1.0, 0.5), 0.0, 7, 0.9), gammas(Damping(0.25, 1.0, 0.6), 0.0, 40, 0.9)
    ([0.5], [0.6, 0.5, 1.0])
    """
    least, most = (math.sqrt(strength + decay) for strength in (damping.strength, damping.initial))
    if t >= AT_FIRST and t % TRIED:
        return [damping.gamma]
    factor = omega ** (TRIED / 2)
    tried = (damping.gamma, damping.gamma * factor, damping.gamma / factor)
    return list(dict.fromkeys(min(max(gamma, least), max(most, least)) for gamma in tried))


def eased(strength: float, ratio: float, factor: float) -> float:
    """The next strength by Levenberg's and Marquardt's rule: less where f did as promised, more where it did not.

    >>> eased(1.0, 0.9, 0.5), eased(1.0, 0.5, 0.5), eased(1.0, -1.0, 0.5)
    (0.5, 1.0, 2.0)
    """
    return strength * (factor if ratio > GOOD else 1 / factor if ratio < BAD else 1.0)


class Objective(NamedTuple):
    """f and, with weight decay, its penalty; a mean over the processes."""

    f: Any
    decay: float
    average: Average

    def __call__(self, theta: Tensor) -> float:
        """The value at `theta: (n,)`."""
        value = self.average(self.f(theta))
        return float(value + self.decay / 2 * (theta @ theta) if self.decay else value)


def judged(
    objective: Objective, theta: Tensor, g: Tensor, value: float, step: Stepped, damping: Damping,
    *, due: bool, factor: float, least: float,
) -> tuple[Tensor, Damping, Status]:  # fmt: skip
    """The step, the damping after it and the status: CONVERGED where rounding hides what the model promises.

    Where it is `due`, f is evaluated after the step, and its strength eased; a step to where f is no number is refused.
    """
    delta, damping = step.delta, damping._replace(gamma=step.gamma)
    still = torch.zeros_like(theta)
    if not math.isfinite(step.promised):
        return still, damping, Status.NOT_FINITE
    if abs(step.promised) <= unseen(value, theta):
        own = objective.average is alone and not objective.decay  # else what others see of it is not known
        return last_step(objective.f, theta, delta, value, g) if own else still, damping, Status.CONVERGED
    if not due:
        return delta, damping, Status.GOING_ON
    after = objective(theta + delta)
    if not math.isfinite(after):
        delta = still
    if step.promised > 0:  # else it goes uphill by momentum, and knows it
        strength = eased(damping.strength, agreement(value, after, step.promised), factor)
        damping = damping._replace(strength=max(strength, least * damping.initial))
    return delta, damping, Status.GOING_ON
