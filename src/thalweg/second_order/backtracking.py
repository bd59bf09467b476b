"""The steps of a backtracking line search (section 8.6)."""

from __future__ import annotations

import math

from thalweg.second_order.interpolation import Steps, Trial, quadratic, ratio

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
    p, q = (ratio(t.value - start.value - t.alpha * start.slope, t.alpha * t.alpha) for t in (a, b))
    third = ratio(p - q, a.alpha - b.alpha)
    second = p - third * a.alpha
    inside = second * second - 3 * third * start.slope  # a power would raise where this is beyond the range of numbers
    root = second + (math.sqrt(inside) if inside >= 0 else math.nan)
    return ratio(-start.slope, root) if root > 0 else math.nan
