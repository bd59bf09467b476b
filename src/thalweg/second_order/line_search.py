"""Line searches (section 8.6): how far to go along a direction, as plain functions of one signature.

    search(f, theta, d, value, g, alpha, *, c1, c2, most) -> Found

`value` and `g` are those of f at theta, `alpha` is the first step tried along d, `c1` and `c2` are what the conditions
on the decrease and on the slope ask for, `most` the evaluations at most. A search is a generator of steps and a
condition; one loop, which they share, evaluates, keeps the lowest point and ends. What is not a finite number counts as
plus infinity, and the step contracts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thalweg.core.derivatives import value_and_gradient
from thalweg.core.status import Status
from thalweg.second_order.backtracking import backtracking_steps
from thalweg.second_order.hager_zhang import hager_zhang_steps
from thalweg.second_order.interpolation import Steps, Trial
from thalweg.second_order.linear import length
from thalweg.second_order.more_thuente import more_thuente_steps
from thalweg.second_order.rounding import at_rest, unseen

BLIND = 1e-3  # of the first step: down to this slopes are followed where differences of f are rounding
SLACK = 1e-6  # in units of |f|: by how much Hager and Zhang let f rise where the slopes are right


class Found(NamedTuple):
    """Where a line search ended: the best point it has seen.

    `alpha` is 0.0, with `value` and `g` those of theta, where nothing lower was found.
    """

    alpha: float
    value: float  # of f at theta + alpha * d
    g: Tensor  # (n,), the gradient there
    status: Status  # GOING_ON where the search's conditions hold there, else why they do not


class Search(Protocol):
    """What every line search looks like."""

    def __call__(
        self, f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
        *, c1: float = ..., c2: float = ..., most: int = ...,
    ) -> Found:  # fmt: skip
        """From theta along d."""


def armijo(
    f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    *, c1: float = 1e-4, c2: float = 0.9, most: int = 40,
) -> Found:  # fmt: skip
    """The first of ever shorter steps that decreases f by c1 times what the slope promises (Armijo 1966); c2 is unused.

    The next step is the minimiser of a parabola, then of a cubic, through the values so far (Dennis and Schnabel 1983,
    Algorithm A6.3.1), but between a tenth and a half of the last. Only values are asked for until the end.

    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1.0])
    >>> armijo(f, theta, -2 * theta, 1.0, 2 * theta, 1.0).alpha
    0.5
    """

    def holds(start: Trial, trial: Trial) -> bool:
        return trial.value <= start.value + c1 * trial.alpha * start.slope and trial.value < start.value

    start = Trial(0.0, value, float(g @ d), g)
    return _searched(f, theta, d, start, backtracking_steps(start, alpha), holds, most, slopes=False)


def strong_wolfe(
    f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    *, c1: float = 1e-4, c2: float = 0.9, most: int = 40,
) -> Found:  # fmt: skip
    """A step of sufficient decrease at which the slope is at most c2 times the first one (Moré and Thuente 1994).

    Where f changes by no more than rounding, the slope alone decides.

    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1.0])
    >>> strong_wolfe(f, theta, -2 * theta, 1.0, 2 * theta, 2.0).alpha
    0.5
    """
    eps = torch.finfo(theta.dtype).eps

    def holds(start: Trial, trial: Trial) -> bool:
        promised = -trial.alpha * start.slope
        fallen = trial.value <= start.value - c1 * promised
        blurred = at_rest(max(promised, trial.value - start.value), value, theta)
        return (fallen or blurred) and abs(trial.slope) <= -c2 * start.slope

    start = Trial(0.0, value, float(g @ d), g)
    return _searched(f, theta, d, start, more_thuente_steps(start, alpha, c1, eps), holds, most)


def hager_zhang(
    f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    *, c1: float = 0.1, c2: float = 0.9, most: int = 40,
) -> Found:  # fmt: skip
    """A step that fulfils Wolfe's conditions, or the approximate ones, of slopes alone (Hager and Zhang 2005).

    Their delta is c1, their sigma c2, their epsilon 1e-6. The approximate conditions can be told where the differences
    of f are rounding, as they are from the root of the dtype's eps on: it is the search for float32.

    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1.0])
    >>> hager_zhang(f, theta, -2 * theta, 1.0, 2 * theta, 2.0).alpha
    0.5
    """
    eps = torch.finfo(theta.dtype).eps
    highest = value + max(SLACK * abs(value), unseen(value, theta))

    def holds(start: Trial, trial: Trial) -> bool:
        decreased = trial.value <= start.value + c1 * trial.alpha * start.slope
        approximately = trial.value <= highest and trial.slope <= (2 * c1 - 1) * start.slope
        return (decreased or approximately) and trial.slope >= c2 * start.slope

    start = Trial(0.0, value, float(g @ d), g)
    return _searched(f, theta, d, start, hager_zhang_steps(start, alpha, highest, eps), holds, most)


def wolfe(
    f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    *, c1: float = 1e-4, c2: float = 0.9, most: int = 40,
) -> Found:  # fmt: skip
    """`strong_wolfe` in float64, `hager_zhang` where differences of f are lost sooner.

    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1.0])
    >>> wolfe(f, theta, -2 * theta, 1.0, 2 * theta, 2.0).alpha
    0.5
    """
    search = strong_wolfe if theta.dtype == torch.float64 else hager_zhang
    return search(f, theta, d, value, g, alpha, c1=c1, c2=c2, most=most)


def fixed(
    f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    *, c1: float = 1e-4, c2: float = 0.9, most: int = 1,
) -> Found:  # fmt: skip
    """No search: the step that it is given, lower or not, in one evaluation; c1, c2 and most are unused.

    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1.0])
    >>> fixed(f, theta, -2 * theta, 1.0, 2 * theta, 1.0)
    Found(alpha=1.0, value=1.0, g=tensor([-2.]), status=<Status.GOING_ON: -1>)
    """
    trial = _sloped(f, theta, d, alpha)
    if not math.isfinite(trial.value):
        return Found(0.0, value, g, Status.NOT_FINITE)
    return Found(alpha, trial.value, trial.g, Status.GOING_ON)


def _searched(
    f: Any, theta: Tensor, d: Tensor, start: Trial, steps: Steps, holds: Callable[[Trial, Trial], bool], most: int,
    slopes: bool = True,
) -> Found:  # fmt: skip
    """Tries the steps until the condition holds, f turns out to have no bound, or none is left."""
    if not (math.isfinite(start.value) and math.isfinite(start.slope)):
        return Found(0.0, start.value, start.g, Status.NOT_FINITE)
    if not start.slope < 0:
        return Found(0.0, start.value, start.g, Status.LINE_SEARCH_FAILED if start.g.any() else Status.CONVERGED)
    eps = torch.finfo(theta.dtype).eps
    best, first, finite, status = start, 0.0, False, Status.LINE_SEARCH_FAILED
    for used, trial in enumerate(_trials(f, theta, d, steps, eps * abs(start.value) / -start.slope, slopes), 1):
        if holds(start, trial):
            there = trial if slopes else _sloped(f, theta, d, trial.alpha)
            if there.value < start.value or (there.value < math.inf and length(there.g) < length(start.g)):
                return Found(there.alpha, there.value, there.g, Status.GOING_ON)
            if there.value < math.inf:
                return Found(0.0, start.value, start.g, Status.CONVERGED)
        first, finite = first or trial.alpha, finite or trial.value < math.inf
        best = trial if -math.inf < trial.value < best.value else best
        if trial.value == -math.inf or (best is trial and trial.alpha > first / eps**2):
            status = Status.UNBOUNDED
            break
        if used == most:
            status = Status.EVALUATIONS
            break
    if best is not start:
        return Found(best.alpha, best.value, best.g if slopes else _sloped(f, theta, d, best.alpha).g, status)
    if status != Status.UNBOUNDED:
        hidden = -first * start.slope <= unseen(start.value, theta)
        status = Status.CONVERGED if hidden else Status.LINE_SEARCH_FAILED if finite else Status.NOT_FINITE
    return Found(0.0, start.value, start.g, status)


def _trials(f: Any, theta: Tensor, d: Tensor, steps: Steps, hidden: float, slopes: bool) -> Iterator[Trial]:
    """f at the steps; over less than `hidden` f falls by less than rounding.

    So short a step is tried once, where that is the first step or where a cruder guess is; slopes can still guide there
    for a while.
    """
    alpha = next(steps)
    shortest = min(hidden, BLIND * alpha if slopes else alpha)
    while True:
        trial = (_sloped if slopes else _valued)(f, theta, d, alpha)
        yield trial
        try:
            alpha = max(steps.send(trial), shortest)
        except StopIteration:
            return
        if trial.alpha <= shortest and alpha <= shortest:
            return


def _sloped(f: Any, theta: Tensor, d: Tensor, alpha: float) -> Trial:
    value, g = value_and_gradient(f, theta + alpha * d)
    trial = Trial(alpha, float(value), float(g @ d), g)
    finite = math.isfinite(trial.slope) and trial.value < math.inf
    return trial if finite or trial.value == -math.inf else trial._replace(value=math.inf, slope=math.nan)


def _valued(f: Any, theta: Tensor, d: Tensor, alpha: float) -> Trial:
    value = float(f(theta + alpha * d))
    return Trial(alpha, math.inf if value != value else value, math.nan)
