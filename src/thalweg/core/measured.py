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
    >>> print(Measured(0.0123, 0.011, 0.014, 64), Measured(49.4076, 49.40759, 49.40761, 9))
    0.0123 (0.0110 to 0.0140) 49.4
    """

    value: float
    low: float
    high: float
    n: int = 1

    def excludes(self, x: float) -> bool:
        """Whether x is outside the interval: the figure is known to differ from it."""
        return self.low > x or self.high < x

    def through(self, increasing: Callable[[float], float]) -> Measured:
        """The figure under an increasing function, and the ends of its interval with it.

        >>> Measured(4.0, 1.0, 9.0, 5).through(math.sqrt)
        Measured(value=2.0, low=1.0, high=3.0, n=5)
        """
        return Measured(increasing(self.value), increasing(self.low), increasing(self.high), self.n)

    def __str__(self) -> str:
        low, high = _three(self.low), _three(self.high)
        return f"{self.value:.3g}" if low == high else f"{_three(self.value)} ({low} to {high})"


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


def quantile(draws: Tensor, p: float) -> Measured:
    """A quantile of independent draws (n,), between the order statistics that enclose it with 95 %.

    >>> print(quantile(torch.arange(101.0), 0.5))
    50.0 (40.0 to 60.0)
    """
    n, ordered = len(draws), draws.double().cpu().sort().values
    if not n:
        return Measured(math.nan, 0.0, math.inf, 0)
    low, high = (int(stats.binom.ppf(q, n, p)) for q in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    ends = float(ordered[low - 1]) if low else 0.0, float(ordered[high]) if high < n else math.inf
    return Measured(float(ordered.quantile(p)), *ends, n)


def jackknife(statistic: Callable[[Tensor], float], draws: Tensor) -> Measured:
    """A smooth statistic of independent draws (n, ...), less its bias: each is left out once (Quenouille, Tukey).

    >>> print(jackknife(lambda x: float(x.mean()), torch.tensor([1.0, 2.0, 3.0])))
    2.00 (-0.484 to 4.48)
    """
    return mean(pseudo_values(statistic, draws))


def pseudo_values(statistic: Callable[[Tensor], float], draws: Tensor) -> Tensor:
    """Numbers (n,) whose mean is the jackknifed statistic, and which scatter as independent draws of it would.

    >>> [round(x, 6) for x in pseudo_values(lambda x: float(x.mean()), torch.tensor([1.0, 2.0, 4.0])).tolist()]
    [1.0, 2.0, 4.0]
    """
    n, whole = len(draws), statistic(draws)
    if n < 2:
        return torch.tensor([whole], dtype=torch.float64)
    without = torch.tensor([statistic(torch.cat([draws[:i], draws[i + 1 :]])) for i in range(n)], dtype=torch.float64)
    return n * whole - (n - 1) * without


def difference(a: Tensor, b: Tensor) -> Measured:
    """By how much the mean of draws a (n,) is above that of other draws b (m,), by Welch's t.

    >>> print(difference(torch.tensor([3.0, 4.0, 5.0]), torch.tensor([1.0, 2.0, 3.0])))
    2.00 (-0.267 to 4.27)
    """
    a, b = a.double().cpu(), b.double().cpu()
    value = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Measured(value, -math.inf, math.inf, len(a) + len(b))
    va, vb = float(a.var()) / len(a), float(b.var()) / len(b)
    if va + vb == 0:
        return Measured(value, value, value, len(a) + len(b))
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(va + vb)
    return Measured(value, value - half, value + half, len(a) + len(b))


def ratio(above: Tensor, below: Tensor) -> Measured:
    """The ratio of the means of paired draws (n,), of figures that are never negative, by Fieller's theorem (1954).

    Where the mean below may be 0 the interval has no upper end; where it is found to be 0 or less, neither has the
    value. A mean of ratios would be biased and may have no mean at all.

    >>> print(ratio(torch.tensor([4.1, 4.2, 3.9, 3.8]), torch.tensor([2.0, 2.2, 1.8, 2.0])))
    2.00 (1.82 to 2.22)
    >>> print(ratio(torch.tensor([1.0, 1.1, 0.9]), torch.tensor([-1.0, 0.0, 0.7])))
    inf (0.411 to inf)
    """
    above, below = above.double().cpu(), below.double().cpu()
    n, a, b = len(above), float(above.mean()), max(float(below.mean()), 0.0)
    value = max(a, 0.0) / b if b else math.inf
    if n < 2:
        return Measured(value, 0.0, math.inf, n)
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) ** 2 / n
    (aa, ab), (_, bb) = (t2 * torch.stack([above, below]).cov()).tolist()
    # Every r is inside for which (a - r b)^2 <= aa - 2 r ab + r^2 bb.
    low, high = fieller(b * b - bb, a * b - ab, a * a - aa)
    return Measured(value, low, high, n)


def fieller(square: float, linear: float, constant: float) -> tuple[float, float]:
    """The ends of {r >= 0: square r^2 - 2 linear r + constant <= 0}, of which 0 and infinity may be ones.

    >>> fieller(1.0, 3.0, 5.0), fieller(-1.0, 2.0, 5.0)
    ((1.0, 5.0), (1.0, inf))
    """
    root = math.sqrt(max(linear * linear - square * constant, 0.0))
    if square > 0 and linear + root > 0:
        return max((linear - root) / square, 0.0), (linear + root) / square
    if constant > 0:  # all but what is between the roots, of which one is positive
        return constant / (linear + root) if linear + root > 0 else math.inf, math.inf
    return 0.0, math.inf


def over(above: Measured, below: Measured) -> Measured:
    """The quotient of two figures that are never negative, where nothing is known of how their errors go together.

    It holds wherever theirs do.

    >>> print(over(Measured(6.0, 5.0, 7.0, 20), Measured(2.0, 1.0, 2.5, 10)))
    3.00 (2.00 to 7.00)
    """
    high = above.high / below.low if below.low > 0 else math.inf
    return Measured(above.value / below.value, max(above.low, 0.0) / below.high, high, min(above.n, below.n))


def quotient(above: Measured, below: Measured) -> Measured:
    """The quotient of two independent positive figures: their errors meet on a scale of logarithms (Zou, Donner 2008).

    >>> print(quotient(Measured(6.0, 5.0, 7.2, 20), exactly(2.0)))
    3.00 (2.50 to 3.60)
    """
    if not (above.low > 0 and below.low > 0 and above.value > 0 and below.value > 0):
        value = above.value / below.value if below.value > 0 else math.nan
        return Measured(value, 0.0, math.inf, min(above.n, below.n))
    value = above.value / below.value
    down = math.hypot(math.log(above.value / above.low), math.log(below.high / below.value))
    up = math.hypot(math.log(above.high / above.value), math.log(below.value / below.low))
    return Measured(value, value * math.exp(-down), value * math.exp(min(up, 700.0)), min(above.n, below.n))
