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
Made = Callable[[Any, Tensor], Apply]  # of f and theta

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


def laddered(
    f: Any, theta: Tensor, kind: str, twice: Made, by_differences: Made, wrong: Callable[[], str]
) -> tuple[Apply, str]:
    """Products on the highest rung that holds, and its name; it is noted in `f.rungs`, if there is that, and kept to.

    `wrong` says what, besides asymmetry, is found to be wrong with the first rung. Raises CurvatureError where none
    holds.
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
            elif rung is None:
                why = wrong()
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


def contradicted(f: Any, theta: Tensor, twice: Made, gradient: Callable[[Any, Tensor], Tensor]) -> str:
    """Says how far the first rung is from differences, on some of the examples, in float64 where f can be had in it."""
    tries = [(theta.double(), FINE), (theta, COARSE)]
    if hasattr(f, "graph") and theta.dtype != torch.float64:  # a closure's parameters have the dtype that they have
        del tries[0]
    if hasattr(f, "part"):
        f = f.part(torch.arange(min(PROBED, len(f.batch)), device=theta.device))
    for at, precision in tries:
        with contextlib.suppress(RuntimeError, TypeError, ValueError):
            error = contradiction(twice(f, at), lambda near: gradient(f, near), at, precision)
            return f"its second derivatives and differences of its first ones are {error:.1g} apart" if error else ""
    return ""


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


def contradiction(apply: Apply, gradient: Apply, theta: Tensor, precision: Precision) -> float:
    """How far a product is from two differences of gradients that agree with each other; 0 where they prove nothing.

    They do not where a kink lay between, f is badly scaled, or rounding may be all that there is.

    >>> contradiction(lambda u: 1.25 * u, lambda x: x, torch.ones(9, dtype=torch.float64), FINE)
    0.2
    """
    u = signs(theta, 0)
    hu = apply(u)
    first, rounding = _difference(gradient, theta, u, precision.near)
    scale = float(first.norm().maximum(hu.norm()))
    if float((hu - first).norm()) <= max(precision.least * scale, rounding):
        return 0.0
    second, _ = _difference(gradient, theta, u, precision.far)
    off = float((hu - first).norm().minimum((hu - second).norm()))
    return round(off / scale, 6) if off > AGREE * max(float((first - second).norm()), rounding) else 0.0


def _difference(gradient: Apply, theta: Tensor, u: Tensor, relative: float) -> tuple[Tensor, float]:
    """The derivative of the gradient along u by a central difference, and how large rounding may be in it."""
    h = relative * (float(theta.norm()) or 1.0) / float(u.norm())
    ahead, behind = gradient(theta + h * u), gradient(theta - h * u)
    rounding = torch.finfo(theta.dtype).eps * float(ahead.norm().maximum(behind.norm())) / h
    return (ahead - behind) / (2 * h), rounding
