"""SOAP (after section 8.5)."""

import torch
from torch import Tensor

from thalweg.adaptive.adam import adam
from thalweg.core.refreshed import Kept, refreshed
from thalweg.core.rule import clock, maximum, rule, zeros
from thalweg.modern.shampoo import (
    eigen,
    faded,
    identity_of_columns,
    identity_of_rows,
    zeros_of_columns,
    zeros_of_rows,
)


@rule(per="tensor")
def soap(
    g, m=zeros, v=zeros, left=zeros_of_rows, right=zeros_of_columns,
    left_basis=identity_of_rows, right_basis=identity_of_columns, t=clock,
    *, lr=3e-3, beta1=0.95, beta2=0.95, eps=1e-8, shampoo_beta=0.95, every=10.0, max_dim=10000,
):  # fmt: skip
    """SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's statistics, for each matrix.

    Algorithm 3, with what only the official code says: the first gradient makes the basis and no step; a basis is
    refreshed after a step, every `every` steps, by one power iteration and QR, and its directions are sorted, the
    second moments with them. They are not turned otherwise; the mean gradient, kept in the parameters' own
    coordinates, is. eps is added to the corrected root, as in Adam here, where the official code scales eps with the
    correction. A kernel with more dimensions is the matrix (out, the rest): the code has a basis for each dimension,
    or merges them. A side longer than max_dim, a number, keeps its coordinates; where both do, and for vectors, this
    is Adam, first step included.

    >>> g = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> delta, memory = soap.step({"g": g}, soap.start(g), soap.knobs)
    >>> delta.abs().sum(), soap.step({"g": g}, memory, {"lr": 1.0, "eps": 1e-3})[0].round(decimals=2)
    (tensor(0.), tensor([[-1.,  0.],
            [ 0., -1.]]))
    """
    knobs = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
    if left is None and right is None:
        delta, m, v, t = adam(g, m, v, t, **knobs)
        return delta, m, v, None, None, None, None, t
    matrix, steps = g.flatten(1), maximum(t, 1) - 1
    there, back = (left_basis, right_basis), (_transposed(left_basis), _transposed(right_basis))
    delta, m, v, _ = adam(
        _turned((t > 0) * matrix, *there), _turned(m.flatten(1), *there), v.flatten(1), steps, **knobs
    )
    delta, m = _turned(delta, *back), _turned(m, *back)
    left, right = faded(left, right, matrix, shampoo_beta)
    v, left_basis, right_basis = refreshed(
        (t > 0) & (t % every == 0), lambda: _refined(v, left, right, *there), (v, *there)
    )
    left_basis, right_basis = refreshed(
        t == 0, lambda: (_eigenbasis(left), _eigenbasis(right)), (left_basis, right_basis)
    )
    delta, m, v = (x.reshape(g.shape) for x in (delta, m, v))
    return delta, m, v, left, right, left_basis, right_basis, t + 1


def _turned(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """left' matrix right; a basis that is None is the identity."""
    matrix = matrix if left is None else left.mT @ matrix
    return matrix if right is None else matrix @ right


def _transposed(basis: Tensor | None) -> Tensor | None:
    return None if basis is None else basis.mT


def _eigenbasis(statistic: Tensor | None) -> Tensor | None:
    """The largest eigenvalue's direction first."""
    if statistic is None:
        return None
    values, vectors = eigen(statistic)
    vectors = torch.where(values.isfinite(), vectors, torch.nan)
    return vectors.flip(1).to(statistic.dtype).contiguous()


def _refined(
    v: Tensor, left: Tensor | None, right: Tensor | None, left_basis: Tensor | None, right_basis: Tensor | None
) -> Kept:
    """One power iteration nearer to the eigenbases, sorted by the eigenvalues so far, and v: (rows, columns) too."""
    if left is not None and left_basis is not None:
        v, left_basis = _iterated(v, left, left_basis)
    if right is not None and right_basis is not None:
        v, right_basis = _iterated(v.mT, right, right_basis)
        v = v.mT.contiguous()
    return v, left_basis, right_basis


def _iterated(v: Tensor, statistic: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    powers = statistic @ basis
    order = torch.argsort((basis * powers).sum(dim=0), descending=True)
    return v.index_select(0, order), torch.linalg.qr(powers.index_select(1, order)).Q.contiguous()
