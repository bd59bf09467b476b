"""PSGD Kron (after section 8.6)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.core.noise import signs
from thalweg.core.refreshed import Kept, refreshed
from thalweg.core.rule import Start, clock, exp, maximum, minimum, rule, zeros

FLAT, DECAY, LEAST = 250, 0.001, 0.03  # every step at first; then ever fewer, to three in a hundred
UNTIL = FLAT + math.log(1 / LEAST) / DECAY


def _left(theta: Tensor, knobs: Mapping[str, Any]) -> Tensor:
    return _first(theta, 0, knobs) if theta.ndim > 1 else theta.new_ones(theta.numel())


def _right(theta: Tensor, knobs: Mapping[str, Any]) -> Tensor | None:
    return _first(theta, 1, knobs) if theta.ndim > 1 else None


def _first(theta: Tensor, side: int, knobs: Mapping[str, Any]) -> Tensor:
    n = theta.flatten(1).shape[side]
    triangular = 1 < n <= knobs["max_size"]
    return theta.new_zeros(n, n) + torch.eye(n).to(theta) if triangular else theta.new_ones(n)


_of_rows, _of_columns = Start("identity of rows", _left), Start("identity of columns", _right)


@rule(per="tensor")
def psgd_kron(
    g, m=zeros, left=_of_rows, right=_of_columns, t=clock,
    *, lr=1e-3, beta1=0.9, precondition_lr=0.1, clip=1.1, max_size=8192, seed=0.0,
):  # fmt: skip
    """PSGD Kron (Li 2022): the mean gradient whitened, by triangular factors of a matrix's rows and columns.

    The preconditioner is Q'Q, Q = left ⊗ right, fitted on the way so that whitened gradients have the covariance of
    random signs (Li 2018). As in kron_torch: the fit is to the mean gradient, its corrected bias included, and the
    step's root mean square is at most clip. Random there and a function of the clock here: the probe; which steps fit
    (all up to 250, then ever fewer, as many by step t as are expected there); and the balance of the factors, here at
    every fit. Probes are signs; they are normal there. Sides longer than max_size, a number, and vectors have diagonal
    factors. A kernel with more dimensions is the matrix (out, the rest): there each dimension has a factor, or some
    are merged. Li's newer fits without inverses (QUAD, QEP) are other rules.

    >>> g = torch.tensor([2.0, -2.0])
    >>> memory = psgd_kron.start(g)
    >>> for _ in range(100):
    ...     delta, memory = psgd_kron.step({"g": g}, memory, {"lr": 1.0})
    >>> delta.round(decimals=2)
    tensor([-1.,  1.])
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    gradient = m / (1 - beta1**t)
    gradient = gradient.flatten(1) if g.ndim > 1 else gradient.reshape(-1, 1)
    left, right = refreshed(
        fits(t) > fits(t - 1),
        lambda: balanced(*_fitted(left, right, gradient, signs(gradient, t, seed), precondition_lr)),
        (left, right),
    )
    white = _squared(right, _squared(left, gradient).mT).mT
    rms = torch.linalg.vector_norm(white) / white.numel() ** 0.5
    return -lr * (white / maximum(rms / clip, 1.0)).reshape(g.shape), m, left, right, t


def fits(t: Any) -> Any:
    """How many fits to have made after t steps: a whole number, the integral of kron_torch's probability rounded down.

    >>> fits(250), fits(1000), fits(10_000)
    (250.0, 777.0, 1407.0)
    """
    fading = (1 - exp(-DECAY * maximum(minimum(t, UNTIL) - FLAT, 0.0))) / DECAY
    return (minimum(t, FLAT) + fading + LEAST * maximum(t - UNTIL, 0.0)) // 1


def balanced(left: Tensor, right: Tensor | None) -> Kept:
    """The same preconditioner with factors of one size, so that neither overflows."""
    if right is None:
        return left, None
    ratio = (left.abs().max() / right.abs().max()) ** 0.5
    return left / ratio, right * ratio


def _fitted(
    left: Tensor, right: Tensor | None, g: Tensor, probe: Tensor, precondition_lr: float
) -> tuple[Tensor, Tensor | None]:
    """One step on E[g'Pg + v'P⁻¹v], v the probe, along the factors' group of triangular matrices."""
    a = _applied(right, _applied(left, g).mT).mT  # (rows, columns): Q g
    b = _inverted(right, _inverted(left, probe).mT).mT  # Q'⁻¹ v
    moved = None if right is None else _moved(right, a.mT, b.mT, precondition_lr)
    return _moved(left, a, b, precondition_lr), moved


def _applied(q: Tensor | None, x: Tensor) -> Tensor:
    if q is None:
        return x
    return q[:, None] * x if q.ndim == 1 else q @ x


def _squared(q: Tensor | None, x: Tensor) -> Tensor:
    if q is None:
        return x
    return (q * q)[:, None] * x if q.ndim == 1 else q.mT @ (q @ x)


def _inverted(q: Tensor | None, x: Tensor) -> Tensor:
    if q is None:
        return x
    return x / q[:, None] if q.ndim == 1 else torch.linalg.solve_triangular(q.mT, x, upper=False)


def _moved(q: Tensor, a: Tensor, b: Tensor, precondition_lr: float) -> Tensor:
    tiny = torch.finfo(q.dtype).tiny
    if q.ndim == 1:
        p, i = (a * a).sum(dim=1), (b * b).sum(dim=1)
        return q - precondition_lr * (p - i) / ((p + i).max() + tiny) * q
    p, i = a @ a.mT, b @ b.mT
    return q - precondition_lr / (largest_eigenvalue(p + i) + tiny) * torch.triu(p - i) @ q


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """Of a positive semidefinite matrix, from below and near: one power iteration from its longest row."""
    scale = matrix.abs().max()
    unit = matrix / torch.where(scale > 0, scale, 1.0)  # squares of it neither overflow nor vanish
    longest = torch.argmax((unit * unit).sum(dim=1)).reshape(1)
    row = unit.index_select(0, longest)[0]
    norm = torch.linalg.vector_norm(row)
    stretch: Tensor = torch.linalg.vector_norm(unit @ (row / torch.where(norm > 0, norm, 1.0)))
    return scale * stretch
