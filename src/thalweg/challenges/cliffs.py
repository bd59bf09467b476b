"""Cliffs (section 8.2.4)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding, Severity
from thalweg.core.derivatives import gradient, value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import exactly

RISES, LEAPS = 10.0, 100.0  # times the loss before a step, times the length of its gradient: orders, not a wobble
THROWN = 1e3  # times the loss before: critical
HALVED = 60  # times at most, before a step is too short to be seen


class Power:
    """A problem with a cliff: w ** t, a linear recurrence unrolled over t steps; its gradient is t * w ** (t - 1).

    >>> from thalweg.core.derivatives import gradient
    >>> [round(float(gradient(Power(50), torch.tensor([w], dtype=torch.float64))), 3) for w in (0.9, 1.0, 1.1)]
    [0.286, 50.0, 5335.948]
    """

    def __init__(self, t: int = 50) -> None:
        self.t = t

    def __call__(self, w: Tensor) -> Tensor:
        """The value at `w: (1,)`."""
        return w.pow(self.t).sum()


class Profile(NamedTuple):
    """The loss along a step: at it whole, at a half of it, and so on down to where the loss falls as the slope says.

    `leap` is how many times as long as before the gradient is after the whole step. `trusted` is the longest part of
    the step, of those looked at, in which the loss falls by at least half of what its slope says; `wall` says that the
    loss is still lower at four times that, where any quadratic function is higher than at the start: that it is
    steep here and flat below, and not a valley too narrow for the step.
    """

    loss: float
    norm: float  # of the gradient
    along: float  # the cosine between the step and the negative gradient
    leap: float
    parts: tuple[float, ...]
    losses: tuple[float, ...]
    trusted: float
    wall: bool

    @property
    def rise(self) -> float:
        """How many times the loss before the step the one after it is."""
        after = self.losses[0]
        return after / self.loss if self.loss > 0 and math.isfinite(after) else math.inf if after > self.loss else 0.0

    @property
    def thrown(self) -> bool:
        """Whether the step leads up by orders."""
        return self.rise > RISES or not math.isfinite(self.losses[0]) or self.leap > LEAPS


def profile(f: Any, theta: Tensor, step: Tensor) -> Profile:
    """The loss f along a step from `theta: (n,)`: two gradients, and a value for each halving of a step that leads up.

    With SGD the step is -lr * g. f may be `network.on(batch)`. Raises DiagnosisError where f is not finite at theta,
    or the step is none.

    >>> w = torch.tensor([1.1], dtype=torch.float64)
    >>> found = profile(Power(50), w, -0.01 * gradient(Power(50), w))
    >>> found.rise > 1e80, found.wall, round(found.trusted * found.norm, 1)
    (True, True, 2.6)
    """
    with torch.no_grad():
        loss, g = value_and_gradient(f, theta)
        here, g = float(loss), g.clone()
        slope, norm, length = float(g @ step), float(g.norm()), float(step.norm())
        if not (math.isfinite(here) and math.isfinite(norm)):
            raise DiagnosisError(f"the loss is {here} and its gradient {norm} long: there is no way down to look along")
        if not 0 < length < math.inf:
            raise DiagnosisError(f"a step of length {length} was given: it must lead somewhere")
        leap = _over(float(gradient(f, theta + step).norm()), norm)
        parts, losses = [1.0], [float(f(theta + step))]
        # A step that leads down by half of what it promised, or that does not lead downhill at all, is not halved.
        while not here - losses[-1] >= -slope * parts[-1] / 2 and slope < 0 and len(parts) <= HALVED:
            parts.append(parts[-1] / 2)
            losses.append(float(f(theta + parts[-1] * step)))
    down = here - losses[-1]
    trusted = parts[-1] if down >= -slope * parts[-1] / 2 and down > 0 else 0.0
    wall = trusted > 0 and len(losses) > 3 and here - losses[-3] > down / 2
    return Profile(here, norm, _over(-slope, norm * length), leap, tuple(parts), tuple(losses), trusted, wall)


def _over(a: float, b: float) -> float:
    return a / b if b else math.nan


def findings(measured: Profile) -> list[Finding]:
    """A cliff, where the step leads up by orders and the way down begins as a wall."""
    if not (measured.thrown and measured.wall):
        return []
    clip = measured.trusted * measured.norm
    severity: Severity = "critical" if measured.rise > THROWN else "warning"
    if measured.along > 0.99:
        advice, remedy = (
            f"clip gradients to a length of {clip:.2g}: as far as the slope can be trusted",
            {"clip_norm": clip},
        )
    else:
        advice, remedy = f"lower lr to {measured.trusted:.2g} times what it is", {"lr_factor": measured.trusted}
    return [
        Finding(
            "cliff",
            f"the next step takes the loss from {measured.loss:.3g} to {measured.losses[0]:.3g}; "
            f"{measured.trusted:.2g} of it leads down a wall",
            severity,
            exactly(measured.rise),
            f"a step to {RISES:g} times the loss, or {LEAPS:g} times the gradient, off a slope that no quadratic has",
            "Pascanu et al. 2013",
            "8.2.4",
            advice,
            remedy=remedy,
        )
    ]
