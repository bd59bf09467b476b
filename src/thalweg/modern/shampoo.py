"""Shampoo (after section 8.5)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.adaptive.adam import adam
from thalweg.core.refreshed import refreshed
from thalweg.core.rule import Start, clock, rule, zeros


def _of_side(side: int, diagonal: int) -> Start:
    """Starts as diagonal * I, (n, n), for the n rows or columns of a matrix; None of a vector, or above max_dim."""

    def start(theta: Tensor, knobs: Mapping[str, Any]) -> Tensor | None:
        n = theta.flatten(1).shape[side] if theta.ndim > 1 else 0
        return theta.new_zeros(n, n) + diagonal * torch.eye(n).to(theta) if 0 < n <= knobs["max_dim"] else None

    return Start(f"{('zeros', 'identity')[diagonal]} of {('rows', 'columns')[side]}", start)


zeros_of_rows, zeros_of_columns = _of_side(0, 0), _of_side(1, 0)
identity_of_rows, identity_of_columns = _of_side(0, 1), _of_side(1, 1)


@rule(per="tensor")
def shampoo(
    g, m=zeros, v=zeros, left=zeros_of_rows, right=zeros_of_columns,
    left_root=identity_of_rows, right_root=identity_of_columns, t=clock,
    *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, shampoo_beta=0.99, ridge=1e-6, every=10.0, max_dim=1024,
):  # fmt: skip
    """Shampoo (Gupta et al. 2018): a matrix's gradient between the inverse fourth roots of its rows' and columns' GG'.

    The direction is Algorithm 1's, of the mean gradient (its own with beta1 = 0), with what later work found to be
    needed (Anil et al. 2020; Shi et al. 2023): the length of Adam's step is grafted onto it; statistics fade by
    shampoo_beta (1 sums them, as in the paper); roots are by eigenvalues in double precision, after `ridge` times the
    largest was added to all (the paper adds a constant), every `every` steps from the first on. A kernel with more
    dimensions is the matrix (out, the rest), where the paper has a factor for each dimension. Sides longer than
    max_dim, a number, have no factor, and the other then takes the inverse square root; implementations cut them into
    blocks. Without factors, as for vectors, this is Adam. Gradients through it are undefined where eigenvalues
    coincide.

    >>> g = torch.diag(torch.tensor([100.0, 1.0]))
    >>> delta = shampoo.step({"g": g}, shampoo.start(g), {"lr": 1.0, "ridge": 0.0})[0]
    >>> delta.round(decimals=4)  # G whitened
    tensor([[-1., -0.],
            [-0., -1.]])
    """
    adams, m, v, t = adam(g, m, v, t, lr=1.0, beta1=beta1, beta2=beta2, eps=eps)
    factors = (left is not None) + (right is not None)
    if factors == 0:
        return lr * adams, m, v, None, None, None, None, t
    left, right = faded(left, right, g.flatten(1), shampoo_beta)
    left_root, right_root = refreshed(
        (t - 1) % every == 0,
        lambda: (inverse_root(left, 2 * factors, ridge), inverse_root(right, 2 * factors, ridge)),
        (left_root, right_root),
    )
    p = m.flatten(1)
    p = p if left_root is None else left_root @ p
    p = p if right_root is None else p @ right_root
    norm = torch.linalg.vector_norm(p)
    size = torch.linalg.vector_norm(adams) / torch.where(norm > 0, norm, 1.0)
    return -lr * size * p.reshape(g.shape), m, v, left, right, left_root, right_root, t


def faded(left: Tensor | None, right: Tensor | None, g: Tensor, beta: float) -> tuple[Tensor | None, Tensor | None]:
    """The statistics GG' of the rows and G'G of the columns, after g: (rows, columns), each where there was one."""
    left = None if left is None else beta * left + g @ g.mT
    right = None if right is None else beta * right + g.mT @ g
    return left, right


def inverse_root(matrix: Tensor | None, order: int, ridge: float) -> Tensor | None:
    """matrix^(-1/order) of a positive semidefinite matrix, once ridge times its largest eigenvalue is added to all."""
    if matrix is None:
        return None
    values, vectors = eigen(matrix)
    floor = ridge * values[-1] + torch.finfo(matrix.dtype).tiny
    return ((vectors * (values.clamp(min=0) + floor) ** (-1 / order)) @ vectors.mT).to(matrix.dtype)


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors in double precision; NaN, no error, of a matrix that has diverged."""
    finite = matrix.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0).double())
    return torch.where(finite, values, torch.nan), vectors
