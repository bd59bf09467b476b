"""Trust regions (after section 8.6.1): how far a quadratic model of f is believed, and where it is least within that.

    solve(H, g, radius, rtol) -> Step

Each minimises gᵀp + pᵀHp/2 over |p| <= radius, for a Hessian given by its products or, where the method needs it whole,
as a matrix (n, n). `rtol` says how exactly, relative to |g|. All compute with g of length one and a radius of one, so
that no scale of f, of theta or of the dtype is too small or too large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.core.status import Status
from thalweg.second_order.krylov import krylov
from thalweg.second_order.linear import conjugate_gradients, length
from thalweg.second_order.secular import secular

MOST = 100  # vectors that `lanczos` keeps
ROUNDING = 1e-10  # of the largest entry: a least eigenvalue as small says nothing of its sign
EDGE = 1 - 1e-6  # of the radius: as far is at the boundary, where the Cauchy step may end but for rounding

Matrix = Callable[[Tensor], Tensor] | Tensor


class Step(NamedTuple):
    """Where a model is least within the radius."""

    p: Tensor  # (n,)
    predicted: float  # by how much the model falls, not negative
    on_boundary: bool
    status: Status = Status.GOING_ON  # else why there is none: NOT_FINITE


Solve = Callable[[Matrix, Tensor, float, float], Step]


def steihaug(H: Matrix, g: Tensor, radius: float, rtol: float = 0.1) -> Step:
    """Conjugate gradients from zero, to the boundary where they cross it or meet negative curvature (Steihaug 1983).

    >>> steihaug(torch.diag(torch.tensor([1.0, -1.0])), torch.tensor([1.0, 1.0]), 2.0).p
    tensor([-1.4142, -1.4142])
    """
    size = length(g)
    if size == 0:
        return Step(torch.zeros_like(g), 0.0, False)
    apply, b = _scaled(H, size, radius), -g / size
    path = [(torch.zeros_like(b), b)]

    def crossed(i: int, x: Tensor, r: Tensor) -> bool:
        path.append((x, r))
        del path[:-2]
        return float(x.norm()) >= EDGE

    solved = conjugate_gradients(apply, b, rtol=rtol, watch=crossed)
    s, r = path[-1]
    crossing = float(s.norm()) >= EDGE
    if not math.isfinite(solved.residual_norm):
        return _nothing(g, Status.NOT_FINITE)
    if crossing:
        before, r_before = path[-2]
        tau = _to_boundary(before, s - before)
        s, r = before + tau * (s - before), r_before + tau * (r - r_before)
    elif solved.negative is not None:
        tau = _to_boundary(s, solved.negative)
        s, r = s + tau * solved.negative, r - tau * apply(solved.negative)
    predicted = float(b @ s + s @ r) / 2  # r is b - Hs
    return _unscaled(s, predicted, crossing or solved.negative is not None, size, radius)


def lanczos(H: Matrix, g: Tensor, radius: float, rtol: float = 0.1) -> Step:
    """The minimum in the Krylov space of H and g (Gould, Lucidi, Roma and Toint 1999), of at most 100 dimensions.

    The space grows until what it leaves of (H + multiplier) p = -g is rtol of |g|. Where it is invariant, it goes on in
    a direction of chance, so that negative curvature orthogonal to g is found: the hard case.

    >>> lanczos(torch.diag(torch.tensor([1.0, -1.0])), torch.tensor([1.0, 0.0]), 1.0).p.abs()
    tensor([0.5000, 0.8660])
    """
    size = length(g)
    unit = size or 1.0

    def enough(T: Tensor, c: Tensor, left: float) -> bool:
        return left * abs(float(_within(T, c)[0][-1])) <= rtol

    found = krylov(_scaled(H, unit, radius), g / unit, MOST, enough, rtol)
    if found is None:
        return _nothing(g, Status.NOT_FINITE)
    s, predicted, on_boundary = _within(found.T, found.c)
    return _unscaled(found.Q.T @ s.to(found.Q), predicted, on_boundary, unit, radius)


def exact(H: Matrix, g: Tensor, radius: float, rtol: float = 0.1) -> Step:
    """The minimum, for a whole H, the hard case too (Moré and Sorensen 1983).

    Inside the region it is Newton's step by Cholesky, which columns of any scale do not harm; on the boundary the
    multiplier is found in the eigenvectors of H. It is always exact to rounding.

    >>> exact(torch.diag(torch.tensor([1.0, -1.0])), torch.tensor([1.0, 0.0]), 1.0).p.abs()
    tensor([0.5000, 0.8660])
    """
    H = _whole(H, g)
    size = length(g)
    unit = size or float(H.abs().max()) * radius or 1.0
    A, b = H.double() * (radius / unit), -g.double() / unit
    if not A.isfinite().all():
        return _nothing(g, Status.NOT_FINITE)
    newton = _newton(A, b)
    if newton is not None and float(newton.norm()) <= 1:
        return _unscaled(newton.to(g), float(b @ newton) / 2, False, unit, radius)
    s, predicted, on_boundary = _within(A, -b)
    return _unscaled(s.to(g), predicted, on_boundary, unit, radius)


def dogleg(H: Matrix, g: Tensor, radius: float, rtol: float = 0.1) -> Step:
    """The way from zero to the Cauchy step and on to Newton's, where it leaves the region (Powell 1970).

    H is whole. Where it is not positive definite, both steps are those of H plus a multiple of the identity that makes
    it so (Nocedal and Wright 2006, section 4.1). Nothing in it is approximate.

    >>> dogleg(torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([1.0, 4.0]), 10.0).p
    tensor([-1., -1.])
    """
    H = _whole(H, g)
    size = length(g)
    if size == 0:
        return Step(torch.zeros_like(g), 0.0, False)
    A, b = H.double() * (radius / size), -g.double() / size
    if not A.isfinite().all():
        return _nothing(g, Status.NOT_FINITE)
    newton, B = _newton(A, b), A
    while newton is None:
        shift = max(-1.5 * float(torch.linalg.eigvalsh(B)[0]), ROUNDING * float(A.abs().max())) or 1.0
        B = B + shift * torch.eye(len(b)).to(B)
        newton = _newton(B, b)
    cauchy = b / float(b @ B @ b)
    on_boundary = float(newton.norm()) > 1
    if float(cauchy.norm()) >= 1:
        s = b
    else:
        s = cauchy + _to_boundary(cauchy, newton - cauchy) * (newton - cauchy) if on_boundary else newton
    return _unscaled(s.to(g), float(b @ s - s @ A @ s / 2), on_boundary, size, radius)


def product_with(H: Matrix) -> Callable[[Tensor], Tensor]:
    """A matrix (n, n) as its product, where it is not one already."""
    return H.mv if isinstance(H, Tensor) else H


def _whole(H: Matrix, g: Tensor) -> Tensor:
    if isinstance(H, Tensor):
        return H
    return torch.stack([H(e) for e in torch.eye(len(g), dtype=g.dtype, device=g.device)])


def _scaled(H: Matrix, size: float, radius: float) -> Callable[[Tensor], Tensor]:
    apply = product_with(H)
    return lambda u: apply(u) * (radius / size)


def _unscaled(s: Tensor, predicted: float, on_boundary: bool, size: float, radius: float) -> Step:
    return Step(radius * s, max(predicted, 0.0) * size * radius, on_boundary)


def _nothing(g: Tensor, status: Status) -> Step:
    return Step(torch.zeros_like(g), 0.0, False, status)


def _newton(A: Tensor, b: Tensor) -> Tensor | None:
    L, failed = torch.linalg.cholesky_ex(A)
    if failed:
        return None
    solved = torch.cholesky_solve(b[:, None], L)[:, 0]
    return solved if bool(solved.isfinite().all()) else None


def _within(A: Tensor, g: Tensor) -> tuple[Tensor, float, bool]:
    """The minimum over the unit ball by eigenvectors, by how much the model falls there, and whether on the sphere."""
    w, V = torch.linalg.eigh(A)
    c = (V.T @ g).cpu()
    s, multiplier = secular(w.cpu(), c)
    square = float(s @ s)
    return V @ s.to(V), (multiplier * square - float(c @ s)) / 2, multiplier > 0 and square > 0.5


def _to_boundary(s: Tensor, d: Tensor) -> float:
    """The tau >= 0 at which s + tau d, from inside the unit ball, leaves it."""
    a, b, c = float(d @ d), float(s @ d), float(s @ s) - 1
    root = math.sqrt(max(b * b - a * c, 0.0))
    return -c / (b + root) if b > 0 else (root - b) / a
