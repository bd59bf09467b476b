"""The ladder of second derivatives: differentiate twice; where that is found wrong, take differences; else refuse.

Wrong is what is not symmetric (torch's weight_norm), and what differences in float64 contradict (spectral_norm in
training: symmetric, and some percent off; a way back that takes for a constant what is none). Where f cannot be had in
float64 (a closure, a constant in float32), only an error of a third or more is noticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import CurvatureError
from thalweg.core.noise import signs, uniform

Apply = Callable[[Tensor], Tensor]  # u: (n,) to the product of a matrix (n, n) with it
Twice = Callable[[Any, Tensor], Apply]  # of f and theta
Differences = Callable[..., Apply]  # of f, theta and a step relative to the length of theta

DOUBLE_BACKWARD, DIFFERENCES = "double backward", "finite differences"
SYMMETRIC = 0.1  # differences are no more symmetric than that, near kinks
PROBED = 8  # examples of a batch: what differentiates wrongly does so on few
AGREE = 10  # differences contradict a product this many times as far from them as they are from each other


class Precision(NamedTuple):
    """Two steps for differences, relative to the length of theta, and the least error that they are to tell of."""

    near: float
    far: float
    least: float


# In float64 the steps are so short that the kinks of ReLUs hardly ever lie between; in float32 they cannot be, and what
# kinks do to differences is then as large as most errors.
FINE, COARSE = Precision(1e-6, 1e-8, 1e-3), Precision(1e-2, 3e-3, 1 / 3)


def laddered(f: Any, theta: Tensor, kind: str, twice: Twice, by_differences: Differences) -> tuple[Apply, str]:
    """Products on the highest rung that holds, and its name; it is noted in `f.rungs`, if there is that, and kept to.

    Raises CurvatureError where none holds.
    """
    if theta.is_complex():
        raise CurvatureError("second derivatives are of real parameters: give torch.view_as_real of complex ones")
    rungs: dict[str, str] = getattr(f, "rungs", {})
    rung, why = rungs.get(kind), ""
    if rung in (None, DOUBLE_BACKWARD):
        try:
            apply = twice(f, theta)
            off = 0.0 if rung else asymmetry(apply, theta)
            if off > torch.finfo(theta.dtype).eps ** 0.5:
                why = f"its second derivatives are not symmetric, by {off:.1g}"
            elif not rung and (error := _contradiction(f, theta, twice, by_differences)):
                why = f"its second derivatives and differences of its first ones are {error:.1g} apart"
        except RuntimeError as failed:  # NotImplementedError is one
            why = str(failed).splitlines()[0]
        if not why:
            if off == off:  # where f is not finite the probes say nothing
                rungs[kind] = DOUBLE_BACKWARD
            return apply, DOUBLE_BACKWARD
    try:
        apply = by_differences(f, theta)
        off = 0.0 if rung else asymmetry(apply, theta)
    except RuntimeError as failed:
        raise CurvatureError(f"second derivatives of this objective cannot be had: {why}; {failed}") from failed
    if not off <= SYMMETRIC:
        raise CurvatureError(
            f"no second derivatives of this objective can be trusted: {why}; differences of its first derivatives are "
            f"not symmetric either, by {off:.1g}: use an algorithm that needs none"
        )
    if rung is None:
        rungs[kind], rungs[f"why not {kind} twice"] = DIFFERENCES, why
    return apply, DIFFERENCES


def _contradiction(f: Any, theta: Tensor, twice: Twice, by_differences: Differences) -> float:
    """How far the first rung is from the second on some of the examples, in float64 where f can be had in it."""
    tries = [(theta.double(), FINE), (theta, COARSE)]
    if hasattr(f, "graph") and theta.dtype != torch.float64:  # a closure's parameters have the dtype that they have
        del tries[0]
    if hasattr(f, "part"):
        f = f.part(torch.arange(min(PROBED, len(f.batch)), device=theta.device))
    for at, precision in tries:
        with contextlib.suppress(RuntimeError, TypeError, ValueError):
            near, far = (by_differences(f, at, step) for step in (precision.near, precision.far))
            return contradiction(twice(f, at), near, far, at, precision.least)
    return 0.0


def asymmetry(apply: Apply, theta: Tensor) -> float:
    """|uᵀHv - vᵀHu| over the length of u times that of Hv, for random u and v.

    >>> turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> asymmetry(lambda u: 2 * u, torch.zeros(2)), asymmetry(lambda u: turn @ u, torch.zeros(2)) > 0.1
    (0.0, True)
    """
    u, v = signs(theta, 0), signs(theta, 1) * (0.5 + uniform(theta, 1))  # of few numbers, signs alone may be parallel
    hu, hv = apply(u), apply(v)
    scale = float(u.norm() * hv.norm().maximum(hu.norm()))
    return abs(float(u @ hv - v @ hu)) / scale if scale else 0.0


def contradiction(apply: Apply, near: Apply, far: Apply, theta: Tensor, least: float) -> float:
    """How far a product is from two differences that agree with each other; 0 where they do not, or it is near one.

    Differences that disagree (a kink lay between, rounding, a badly scaled f) prove nothing.

    >>> contradiction(lambda u: 1.25 * u, lambda u: u, lambda u: u, torch.zeros(9), 1e-3)
    0.2
    """
    u = signs(theta, 0)
    hu, first = apply(u), near(u)
    scale = float(first.norm().maximum(hu.norm()))
    if float((hu - first).norm()) <= least * scale:
        return 0.0
    second = far(u)
    off = float((hu - first).norm().minimum((hu - second).norm()))
    return off / scale if off > AGREE * float((first - second).norm()) else 0.0
