"""The steps of a backtracking line search (section 8.6)."""

from __future__ import annotations

import math

from thalweg.second_order.interpolation import Steps, Trial, quadratic

LEAST, MOST = 0.1, 0.5  # of the last step


def backtracking_steps(start: Trial, alpha: float) -> Steps:
    """Ever shorter steps: minimisers of a parabola, then of cubics, through the values so far.

    After Dennis and Schnabel (1983), Algorithm A6.3.1. Where there is no value to interpolate, each cut is half of the
    one before.

    >>> steps = backtracking_steps(Trial(0.0, 1.0, -2.0), 3.0)
    >>> next(steps), steps.send(Trial(3.0, 4.0, 4.0))
    (3.0, 1.0)
    """
    last, share = start, 1.0
    while True:
        trial = yield alpha
        if trial.value == math.inf:
            last, share = start, share / 2
            alpha = share * alpha
            continue
        minimiser = quadratic(start, trial) if last is start else _cubic(start, last, trial)
        last, alpha = (
            trial,
            alpha * min(max(minimiser / alpha, LEAST), MOST) if minimiser == minimiser else MOST * alpha,
        )


def _cubic(start: Trial, a: Trial, b: Trial) -> float:
    """The minimiser of the cubic with the start's value and slope and the values of a and b; NaN where it has none."""
    p, q = ((t.value - start.value - t.alpha * start.slope) / t.alpha**2 for t in (a, b))
    third = (p - q) / (a.alpha - b.alpha)
    second = p - third * a.alpha
    inside = second**2 - 3 * third * start.slope
    if not inside >= 0 or not second + math.sqrt(inside) > 0:
        return math.nan
    return -start.slope / (second + math.sqrt(inside))
