"""What a line search proposes next, from what it knows of f on the line (section 8.6): plain numbers."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor

WIDE = 100.0  # the ratio from which on two steps differ by orders of magnitude


class Trial(NamedTuple):
    """f on the line, at one step."""

    alpha: float
    value: float  # infinity where the value or the gradient is not finite
    slope: float  # d'g; NaN where only the value was asked for
    g: Tensor = torch.empty(0)  # (n,), where it was asked for


Steps = Generator[float, Trial, None]  # steps go out, what f is there comes in; it ends where none is worth trying


def quadratic(a: Trial, b: Trial) -> float:
    """The minimiser of the parabola with a's value and slope and b's value.

    >>> quadratic(Trial(0.0, 1.0, -2.0), Trial(3.0, 4.0, 4.0))
    1.0
    """
    width = b.alpha - a.alpha
    return a.alpha + width * ratio(a.slope, 2 * (ratio(a.value - b.value, width) + a.slope))


def secant(a: Trial, b: Trial) -> float:
    """Where the line through both slopes is zero.

    >>> secant(Trial(0.0, 1.0, -2.0), Trial(3.0, 4.0, 4.0))
    1.0
    """
    return b.alpha + (a.alpha - b.alpha) * ratio(b.slope, b.slope - a.slope)


def cubic(a: Trial, b: Trial) -> float:
    """The minimiser of the cubic with both values and slopes; NaN where it has none.

    >>> cubic(Trial(0.0, 1.0, -2.0), Trial(3.0, 4.0, 4.0))
    1.0
    """
    theta = 3 * ratio(a.value - b.value, b.alpha - a.alpha) + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    if not 0 < scale < math.inf:
        return math.nan
    inside = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale)
    if not inside >= 0:
        return math.nan
    gamma = math.copysign(scale * math.sqrt(inside), b.alpha - a.alpha)
    return a.alpha + (b.alpha - a.alpha) * ratio(gamma - a.slope + theta, 2 * gamma - a.slope + b.slope)


def middle(a: float, b: float) -> float:
    """Between a and b: their geometric mean where they differ by orders of magnitude.

    >>> middle(1.0, 3.0), middle(1.0, 1e4), middle(0.0, 1e4)
    (2.0, 100.0, 5000.0)
    """
    low, high = min(a, b), max(a, b)
    return math.sqrt(low) * math.sqrt(high) if high > WIDE * low > 0 else (low + high) / 2


def ratio(p: float, q: float) -> float:
    """p / q, NaN where q is zero.

    >>> ratio(1.0, 2.0), ratio(1.0, 0.0)
    (0.5, nan)
    """
    return p / q if q else math.nan
