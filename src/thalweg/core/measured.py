"""A measured figure with its error bar: what a diagnosis is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

CONFIDENCE = 0.95


class Measured(NamedTuple):
    """A figure, its 95 % interval, and how many draws it is of; the interval of an exact figure is a point.

    >>> Measured(2.0, 1.5, 2.5, 10).excludes(1.0), Measured(2.0, 0.5, 3.5, 10).excludes(1.0)
    (True, False)
    >>> print(Measured(0.0123, 0.011, 0.014, 64))
    0.0123 (0.0110 to 0.0140)
    """

    value: float
    low: float
    high: float
    n: int = 1

    def excludes(self, x: float) -> bool:
        """Whether x is outside the interval: the figure is known to differ from it."""
        return self.low > x or self.high < x

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:.3g}"
        return f"{_three(self.value)} ({_three(self.low)} to {_three(self.high)})"


def _three(x: float) -> str:
    return f"{x:#.3g}".rstrip(".") if math.isfinite(x) else f"{x:g}"


def exactly(value: float) -> Measured:
    """A figure without an error."""
    return Measured(value, value, value)


def mean(draws: Tensor) -> Measured:
    """The mean of independent draws (n,), by Student's t; of one draw nothing is known of its error.

    >>> print(mean(torch.tensor([1.0, 2.0, 3.0])))
    2.00 (-0.484 to 4.48)
    """
    draws = draws.double().cpu()
    n, value = len(draws), float(draws.mean())
    if n < 2:
        return Measured(value, -math.inf, math.inf, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * float(draws.std()) / math.sqrt(n)
    return Measured(value, value - half, value + half, n)


def proportion(count: int, n: int) -> Measured:
    """How many of n, by Wilson's interval.

    >>> print(proportion(0, 20))
    0.00 (0.00 to 0.161)
    """
    if not n:
        return Measured(math.nan, 0.0, 1.0, 0)
    interval = stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Measured(count / n, float(interval.low), float(interval.high), n)


def jackknife(statistic: Callable[[Tensor], float], draws: Tensor) -> Measured:
    """A smooth statistic of independent draws (n, ...), less its bias: each is left out once (Quenouille, Tukey).

    >>> print(jackknife(lambda x: float(x.mean()), torch.tensor([1.0, 2.0, 3.0])))
    2.00 (-0.484 to 4.48)
    """
    n, value = len(draws), statistic(draws)
    if n < 2:
        return Measured(value, -math.inf, math.inf, n)
    without = torch.tensor([statistic(torch.cat([draws[:i], draws[i + 1 :]])) for i in range(n)], dtype=torch.float64)
    value = n * value - (n - 1) * float(without.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * math.sqrt((n - 1) * float(without.var(correction=0)))
    return Measured(value, value - half, value + half, n)
