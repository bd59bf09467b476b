"""The steps of Moré and Thuente's line search (section 8.6)."""

from __future__ import annotations

import math

from thalweg.second_order.interpolation import Steps, Trial, cubic, middle, quadratic, secant

NEARER = 0.66  # how much narrower the interval must be after two steps; how far a step goes towards its other end
LEAST, MOST = 1.1, 4.0  # how far beyond the last step the next one goes, in lengths of what it added
GROWTH = 2.0  # of MOST, each time: a first step that is short by many orders is found out in a few


def more_thuente_steps(start: Trial, alpha: float, c1: float, eps: float) -> Steps:
    """The steps of Moré and Thuente (1994), as in MINPACK-2's dcsrch, to sufficient decrease and a small slope.

    x is the best step so far, y the other end of the interval that has a minimiser in it, once there is one. Until a
    step has decreased f enough, f(alpha) - f(0) - c1 alpha f'(0) takes the place of f. It ends where the interval is as
    narrow as rounding.

    >>> steps = more_thuente_steps(Trial(0.0, 1.0, -2.0), 3.0, 1e-4, 1e-16)
    >>> next(steps), steps.send(Trial(3.0, 4.0, 4.0))
    (3.0, 1.0)
    """
    x = y = start
    bracketed, decreased, shrink, reach = False, False, 1.0, MOST
    width = before = math.inf
    while True:
        trial = yield alpha
        if trial.value == math.inf:
            y, bracketed, shrink = trial, True, shrink / 2
            alpha = x.alpha + shrink * (trial.alpha - x.alpha)
        else:
            enough = trial.value <= start.value + c1 * trial.alpha * start.slope
            decreased = decreased or (enough and trial.slope >= 0)
            tilt = c1 * start.slope if not decreased and not enough and trial.value <= x.value else 0.0
            alpha, x, y, bracketed = _next(x, y, trial, tilt, bracketed, reach)
            reach *= GROWTH
        if not bracketed:
            continue
        before, width, last = width, abs(y.alpha - x.alpha), before
        if NEARER * last <= width < math.inf and y.value < math.inf:
            alpha = middle(x.alpha, y.alpha)
        low, high = min(x.alpha, y.alpha), max(x.alpha, y.alpha)
        if width <= 2 * eps * high or _contradicted(x, y, eps):
            return
        if not low < alpha < high:  # the interpolation has left the range of numbers
            alpha = middle(low, high)


def _contradicted(x: Trial, y: Trial, eps: float) -> bool:
    """Whether the slopes say that f falls from x to y and beyond, and it does not, by no more than rounding."""
    way = y.alpha - x.alpha
    return x.slope * way < 0 and y.slope * way < 0 and y.value - x.value <= 4 * eps * abs(x.value)


def _next(
    x: Trial, y: Trial, trial: Trial, tilt: float, bracketed: bool, reach: float
) -> tuple[float, Trial, Trial, bool]:
    """The next step, the interval's new ends, and whether a minimiser is bracketed."""
    p, q, t = (a._replace(value=a.value - tilt * a.alpha, slope=a.slope - tilt) for a in (x, y, trial))
    if t.value > p.value:
        return _between(p, t), x, trial, True
    if t.slope * p.slope < 0:
        by_cubic, by_secant = cubic(p, t), secant(p, t)
        return max(by_secant, by_cubic, key=lambda alpha: abs(alpha - t.alpha)), trial, x, True
    return (_inside(p, q, t) if bracketed else _beyond(p, t, reach)), trial, y, bracketed


def _between(x: Trial, t: Trial) -> float:
    """A higher value: the cubic's minimiser where it is nearer to x than the parabola's, else the mean of both."""
    by_cubic, by_quadratic = cubic(x, t), quadratic(x, t)
    if abs(by_cubic - x.alpha) <= abs(by_quadratic - x.alpha):
        return by_cubic
    return by_cubic + (by_quadratic - by_cubic) / 2 if by_cubic == by_cubic else by_quadratic


def _inside(x: Trial, y: Trial, t: Trial) -> float:
    """A lower value, the slope has its sign still, the minimum is between t and y."""
    if abs(t.slope) >= abs(x.slope):
        by_cubic = cubic(t, y) if y.value < math.inf else math.nan
        return by_cubic if by_cubic == by_cubic else middle(t.alpha, y.alpha)
    by_cubic, by_secant, ahead = cubic(x, t), secant(x, t), t.alpha - x.alpha
    nearer = (by_cubic - t.alpha) * ahead > 0 and abs(by_cubic - t.alpha) < abs(by_secant - t.alpha)
    alpha, limit = by_cubic if nearer else by_secant, t.alpha + NEARER * (y.alpha - t.alpha)
    return min(alpha, limit) if ahead > 0 else max(alpha, limit)


def _beyond(x: Trial, t: Trial, reach: float) -> float:
    """A lower value, and no end of the descent so far: from 1.1 to 4 times as far again."""
    ahead = t.alpha - x.alpha
    nearest, farthest = t.alpha + LEAST * ahead, t.alpha + reach * ahead
    if abs(t.slope) >= abs(x.slope):
        return farthest
    by_cubic, by_secant = cubic(x, t), secant(x, t)
    alpha = max(by_cubic, by_secant) if by_cubic > t.alpha else farthest
    return min(max(alpha, nearest), farthest)
