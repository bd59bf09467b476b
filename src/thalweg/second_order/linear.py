"""Linear systems by conjugate gradients (section 8.6.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]
Watch = Callable[[int, Tensor, Tensor], object]


class Solved(NamedTuple):
    """What `conjugate_gradients` found."""

    x: Tensor  # (n,)
    residual_norm: float  # |b - Ax|, by the recurrence
    iterations: int
    negative: Tensor | None  # (n,), the direction p on which pᵀAp was not positive, where one ended it


def conjugate_gradients(
    product: Apply | Tensor,
    b: Tensor,
    x: Tensor | None = None,
    *,
    preconditioner: Apply | Tensor | None = None,
    rtol: float = 1e-10,
    most: int | None = None,
    watch: Watch | None = None,
) -> Solved:
    """Solves Ax = b for a symmetric positive definite A, from x or zero (Hestenes and Stiefel 1952).

    A is a matrix (n, n) or its product; so is the preconditioner, an approximation of A's inverse, which may also be a
    vector (n,), its diagonal. It ends where |b - Ax| is at most rtol |b|; after `most` iterations (10 n where none are
    given: in exact arithmetic n are enough); where a direction turns up along which the curvature is not positive (x is
    then the last iterate, a minimum over the directions before); where products are not finite (the norm of the
    residual is then NaN); where the preconditioner is not positive. `watch(i, x, r)` is called after iteration
    i = 1, 2, ... with the iterate and its residual, which are not written to afterwards: it may keep them, and it ends
    the iteration by answering True.

    >>> A, b = torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([1.0, 2.0])
    >>> solved = conjugate_gradients(A, b, rtol=1e-5)
    >>> torch.testing.assert_close(A @ solved.x, b)
    >>> solved.iterations, solved.negative
    (2, None)
    """
    apply, precondition = _product(product), _product(preconditioner)
    x = torch.zeros_like(b) if x is None else x
    r = b - apply(x) if x.any() else b
    unit = length(b) or length(r) or 1.0  # the recurrence runs on r / unit: in float32 rᵀr would leave its range
    r, size, i, negative = r / unit, length(r) / unit, 0, None
    p, gamma = torch.zeros_like(b), 1.0
    while size > rtol and i < (10 * len(b) if most is None else most):
        z = precondition(r)
        previous, gamma = gamma, float(r @ z)
        if not gamma > 0:  # the preconditioner is not positive definite, or not finite
            break
        p = z + (gamma / previous) * p
        q = apply(p)
        curvature = float(p @ q)
        if not curvature > 0:
            negative, size = (p, size) if curvature <= 0 else (None, math.nan)
            break
        alpha = gamma / curvature
        x, r, i = x + (alpha * unit) * p, r - alpha * q, i + 1
        size = length(r)
        if watch is not None and watch(i, x, unit * r) is True:
            break
    return Solved(x, size * unit, i, negative)


def length(v: Tensor) -> float:
    """The Euclidean length of v, where the squares alone would leave the range of its dtype."""
    largest = float(v.abs().max()) if len(v) else 0.0
    return largest * float((v / largest).norm()) if 0 < largest < float("inf") else largest


def _product(matrix: Apply | Tensor | None) -> Apply:
    if matrix is None:
        return lambda u: u
    if isinstance(matrix, Tensor):
        return matrix.mul if matrix.dim() == 1 else matrix.mv
    return matrix
