"""Damping of Kronecker products (after section 8.6): the inverse of left ⊗ right + λ, in factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.second_order.blocks import Block, Factors, times


def damped(left: Tensor, right: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Factors of about left ⊗ right + λ: left + π √λ and right + √λ / π (Martens and Grosse 2015, section 6.3).

    π² is the mean of left's diagonal over that of right's. Written here with both means moved to the middle, so that a
    factor of zeros leaves λ; beside a factor that is one number the other is damped by all of λ (as in kfac-jax).

    >>> left, right = torch.tensor([[4.0, 4.0]]), torch.tensor([[1.0, 1.0]])
    >>> damped(left, right, 0.09)  # √(4 * 1) + √0.09 each
    (tensor([[2.3000, 2.3000]]), tensor([[2.3000, 2.3000]]))
    """
    means = [(x if x.dim() == 2 else x.diagonal(dim1=1, dim2=2)).mean(1).clamp(min=0) for x in (left, right)]
    product = means[0] * means[1]  # (groups,)
    numbers = [x.shape[-1] == 1 for x in (left, right)]
    share = 1.0 if any(numbers) else 0.5
    found = []
    for x, mean, alone in zip((left, right), means, (numbers[0] and not numbers[1], numbers[1]), strict=True):
        wide = mean.reshape(-1, *[1] * (x.dim() - 1))
        unit = torch.where(wide > 0, x / wide, 0.0)
        if alone:
            found.append(torch.ones_like(x))
            continue
        x = unit * product.reshape(wide.shape) ** share
        found.append(x + damping**share * (1.0 if x.dim() == 2 else torch.eye(x.shape[-1]).to(x)))
    return found[0], found[1]


def inverse(x: Tensor) -> Tensor:
    """Of a factor (groups, size) or (groups, size, size), positive definite; in double precision.

    Where it is singular, what is not of its range is left out.
    """
    if x.dim() == 2:
        return torch.where(x > 0, 1 / x, 0.0)
    root, failed = torch.linalg.cholesky_ex(x.double())
    if bool(failed.any()) or not bool(root.isfinite().all()):
        least: Tensor = torch.linalg.pinv(x.double(), hermitian=True)
        return least.to(x.dtype)
    found: Tensor = torch.cholesky_inverse(root).to(x.dtype)
    return found


def inverses(factors: Factors, damping: float) -> Factors:
    """Of each pair of factors, damped."""
    return [(inverse(a), inverse(b)) for a, b in (damped(left, right, damping) for left, right in factors)]


def solved(blocks: Sequence[Block], inverses: Factors, g: Tensor, damping: float) -> Tensor:
    """The inverse times g: (n,). Where there is no block the matrix is λ."""
    x = g / damping if damping else torch.zeros_like(g)
    for block, (left, right) in zip(blocks, inverses, strict=True):
        block.put(times(left, block.matrix(g), right), x)
    return x
