"""Probes of products with a curvature matrix: are they symmetric, and do differences say the same?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from thalweg.core.noise import signs, uniform

Apply = Callable[[Tensor], Tensor]

AGREE = 10  # differences contradict a product this many times as far from them as they are from each other


class Precision(NamedTuple):
    """Where to take differences, relative to the length of theta, and the least error that they are to tell of."""

    near: float
    far: float
    least: float


# In float64 the steps are so short that the kinks of ReLUs hardly ever lie between; in float32 they cannot be, and what
# kinks do to differences is then as large as most errors.
FINE, COARSE = Precision(1e-6, 1e-8, 1e-3), Precision(1e-2, 3e-3, 1 / 3)


def asymmetry(apply: Apply, theta: Tensor) -> float:
    """|uᵀHv - vᵀHu| over the length of u times that of Hv, for random u and v.

    >>> import torch
    >>> turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> asymmetry(lambda u: 2 * u, torch.zeros(2)), asymmetry(lambda u: turn @ u, torch.zeros(2)) > 0.1
    (0.0, True)
    """
    u, v = signs(theta, 0), signs(theta, 1) * (0.5 + uniform(theta, 1))  # of few numbers, signs alone may be parallel
    hu, hv = apply(u), apply(v)
    scale = float(u.norm() * hv.norm().maximum(hu.norm()))
    return abs(float(u @ hv - v @ hu)) / scale if scale else 0.0


def contradiction(apply: Apply, by_differences: Callable[[float], Apply], theta: Tensor, at: Precision) -> float:
    """How far a product is from two differences that agree with each other; 0 where they do not, or it is near them.

    `by_differences` gives, of a relative step, products to compare with. Differences that disagree (a kink lay between,
    rounding, a badly scaled f) prove nothing.

    >>> import torch
    >>> contradiction(lambda u: 1.25 * u, lambda step: lambda u: u, torch.zeros(9), FINE)
    0.2
    """
    u = signs(theta, 0)
    hu, first = apply(u), by_differences(at.near)(u)
    scale = float(first.norm().maximum(hu.norm()))
    if float((hu - first).norm()) <= at.least * scale:
        return 0.0
    second = by_differences(at.far)(u)
    off = float((hu - first).norm().minimum((hu - second).norm()))
    return round(off / scale, 4) if off > AGREE * float((first - second).norm()) else 0.0
