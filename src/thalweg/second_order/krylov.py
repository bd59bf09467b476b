"""Lanczos: a Hessian in the space that it and the gradient span (after section 8.6.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.core.noise import uniform
from thalweg.second_order.linear import length

Enough = Callable[[Tensor, Tensor, float], bool]


class Krylov(NamedTuple):
    """An orthonormal basis, and the matrix and the gradient in it."""

    Q: Tensor  # (k, n), its rows are the basis; the first is along g
    T: Tensor  # (k, k), Q H Qᵀ in float64 on the CPU, tridiagonal
    c: Tensor  # (k,), Q g, likewise


def krylov(
    product: Callable[[Tensor], Tensor], g: Tensor, most: int, enough: Enough | None = None, rtol: float = 0.0
) -> Krylov | None:
    """At most `most` steps of Lanczos from g, each vector orthogonal to all before it; None where Hq is not finite.

    After each step `enough(T, c, left)` may end it, where `left` is the length of what the matrix times the last vector
    has outside the space. Where that is nothing the space is invariant, and what is orthogonal to it has gone unseen:
    the basis then goes on once, in a direction of chance, in a block of its own, until the least eigenvalue there is
    known to rtol times the largest. A g of zero begins with one.

    >>> H = torch.tensor([1.0, 1.0, -2.0])
    >>> found = krylov(H.mul, torch.tensor([3.0, 4.0, 0.0]), most=3)
    >>> found.T[0], torch.linalg.eigvalsh(found.T)
    (tensor([1., 0., 0.], dtype=torch.float64), tensor([-2.0000,  1.0000,  1.0000], dtype=torch.float64))
    """
    n, eps, size = len(g), torch.finfo(g.dtype).eps, length(g)
    Q, T = g.new_zeros(0, n), torch.zeros(0, 0, dtype=torch.float64)
    q, block, at_random = (g / size if size else _chance(Q, g, 0)), 0, size == 0
    left = 0.0
    for k in range(min(most, n)):
        Q, u = torch.cat((Q, q[None])), product(q)
        T = _bordered(T, left, float(q @ u))
        c = (Q @ g).double().cpu()
        u = _outside(Q, u)
        left = float(u.norm())
        if not math.isfinite(left):
            return None
        if left <= 4 * math.sqrt(n) * eps * float(T.abs().max()):
            if at_random or k + 1 == n:
                break
            u, left, block, at_random = _chance(Q, g, k + 1), 0.0, k + 1, True
        elif at_random:
            if _settled(T[block:, block:], left, rtol):
                break
        elif enough is not None and enough(T, c, left):
            break
        q = u / u.norm()
    return Krylov(Q, T, c)


def _outside(Q: Tensor, u: Tensor) -> Tensor:
    """What u has outside the space; taken out twice, which is as good as exactly."""
    u = u - Q.T @ (Q @ u)
    return u - Q.T @ (Q @ u)


def _chance(Q: Tensor, g: Tensor, k: int) -> Tensor:
    """A direction like g outside the space; taken out again once its length is one: it may have been nearly inside."""
    u = _outside(Q, uniform(g, k) - 0.5)
    return _outside(Q, u / u.norm())


def _bordered(T: Tensor, beside: float, corner: float) -> Tensor:
    k = len(T)
    larger = torch.nn.functional.pad(T, (0, 1, 0, 1))
    if k:
        larger[k, k - 1] = larger[k - 1, k] = beside
    larger[k, k] = corner
    return larger


def _settled(block: Tensor, left: float, rtol: float) -> bool:
    w, V = torch.linalg.eigh(block)
    return left * abs(float(V[-1, 0])) <= rtol * float(w.abs().max())
