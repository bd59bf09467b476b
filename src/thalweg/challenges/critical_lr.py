"""The critical learning rate (sections 4.3.1 and 8.3.1): how far along a step f is no lower than before."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured

FORWARDS = 9  # at most, of a line search


class Critical(NamedTuple):
    """The least lr along a step at which f is no lower than before, and how many values it took to find it."""

    lr: Measured
    forwards: int

    @property
    def sharpness(self) -> float:
        """2 / lr, the critical sharpness (Kalra et al. 2026): along a gradient of a quadratic, gᵀHg / gᵀg."""
        return 2 / self.lr.value


def critical(f: Any, theta: Tensor, step: Tensor, slope: float | None = None) -> Critical:
    """The critical lr of f along `step: (n,)`, the step that a rule takes with lr = 1, from values alone.

    A parabola through f, its slope and one more value has the second crossing; that is evaluated in turn until two lrs
    1 % apart hold it between them. On a quadratic that is twice as far as the minimum along the step, at once. Where no
    slope is given it takes a gradient. Raises DiagnosisError for a step along which f does not fall or never rises.

    >>> found = critical(lambda x: 50 * (x * x).sum(), torch.ones(1), -100 * torch.ones(1))
    >>> round(found.lr.value, 4), found.forwards < 10
    (0.02, True)
    """
    with torch.no_grad():
        start = float(f(theta))
    slope = float(value_and_gradient(f, theta)[1] @ step) if slope is None else slope
    if not slope < 0:
        raise DiagnosisError("f does not fall along the step: it has no critical lr (is the loss constant?)")
    forwards, low, high = 1, 0.0, math.inf
    lr = 0.01 * max(float(theta.norm()), 1.0) / float(step.norm())
    while forwards < FORWARDS and high > 1.02 * low:
        with torch.no_grad():
            risen = float(f(theta + lr * step)) - start
        forwards += 1
        low, high = (lr, high) if risen < 0 else (low, lr)
        curvature = 2 * (risen - lr * slope) / lr**2
        crossing = -2 * slope / curvature if curvature > 0 else math.inf
        lr = _between(crossing, low, high, lr)
    if high == math.inf:
        raise DiagnosisError(f"f falls along the step as far as {low:.1g} times it: no critical lr was found")
    return Critical(Measured(math.sqrt(low * high) if low else high / 2, low, high, forwards), forwards)


def _between(crossing: float, low: float, high: float, last: float) -> float:
    """The next lr to look at: beside the crossing of the parabola, on the side that is not known yet."""
    if high == math.inf:
        return min(max(1.005 * crossing, 2 * last), 100 * last)
    if low == 0:
        return max(min(0.995 * crossing, high / 2), high / 100)
    near = (0.995 if crossing >= high * 0.99 else 1.005) * crossing
    return near if low < near < high else math.sqrt(low * high)
