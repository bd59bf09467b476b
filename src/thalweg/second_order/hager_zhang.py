"""The steps of Hager and Zhang's line search (section 8.6)."""

from __future__ import annotations

from collections.abc import Generator

from thalweg.second_order.interpolation import Steps, Trial, middle, secant

THETA, GAMMA, RHO = 0.5, 0.66, 5.0  # where an interval is cut; how narrow a round must make it; how it is extended

Interval = tuple[Trial, Trial]  # the first end has a low value and falls, the second rises
Search = Generator[float, Trial, Interval]


def hager_zhang_steps(start: Trial, alpha: float, highest: float, eps: float) -> Steps:
    """The steps of Hager and Zhang (2005), section 4: to a zero of the slope, by secants on both sides.

    A value counts as low up to `highest`, which is a little above the start's: where the differences of f are rounding,
    the slopes still tell the way. It ends where the interval is as narrow as rounding.

    >>> steps = hager_zhang_steps(Trial(0.0, 1.0, -2.0), 3.0, 1.0, 1e-16)
    >>> next(steps), steps.send(Trial(3.0, 4.0, 4.0))
    (3.0, 1.0)
    """
    a, b = yield from _bracketed(start, alpha, highest, eps)
    while (width := b.alpha - a.alpha) > 2 * eps * b.alpha:
        a, b = yield from _by_secants(a, b, highest, eps)
        if b.alpha - a.alpha > GAMMA * width:
            a, b = yield from _updated(a, b, middle(a.alpha, b.alpha), highest, eps)


def _bracketed(start: Trial, alpha: float, highest: float, eps: float) -> Search:
    low = start
    while True:
        trial = yield alpha
        if trial.slope >= 0:
            return low, trial
        if not trial.value <= highest:
            return (yield from _cut(low, trial, highest, eps))
        low, alpha = trial, RHO * alpha


def _updated(a: Trial, b: Trial, alpha: float, highest: float, eps: float) -> Search:
    """The interval narrowed by one step in it; a step outside it is not taken."""
    if not a.alpha < alpha < b.alpha:
        return a, b
    trial = yield alpha
    if trial.slope >= 0:
        return a, trial
    if trial.value <= highest:
        return trial, b
    return (yield from _cut(a, trial, highest, eps))


def _cut(a: Trial, b: Trial, highest: float, eps: float) -> Search:
    """Between a low value and a high one, both falling, the slope is zero somewhere: down to where it changes its sign.

    Where b is not finite and nothing below it is known, each cut goes nearer to zero than the one before.
    """
    share = THETA
    while b.alpha - a.alpha > 2 * eps * b.alpha:
        trial = yield middle(a.alpha, b.alpha) if a.alpha else share * b.alpha
        if trial.slope >= 0:
            return a, trial
        if trial.value <= highest:
            a = trial
        else:
            b, share = trial, share / 2 if trial.value == float("inf") else THETA
    return a, b


def _by_secants(a: Trial, b: Trial, highest: float, eps: float) -> Search:
    """The step secant², of both ends, and once more of the end that it has moved."""
    alpha = secant(a, b)
    low, high = yield from _updated(a, b, alpha, highest, eps)
    if high.alpha == alpha:
        return (yield from _updated(low, high, secant(b, high), highest, eps))
    if low.alpha == alpha:
        return (yield from _updated(low, high, secant(a, low), highest, eps))
    return low, high
