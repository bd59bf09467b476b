"""Residuals of sums of squares, and their Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import flat
from thalweg.core.errors import CurvatureError


def residuals(f: Any, theta: Tensor) -> Tensor:
    """The residuals (m,) of an f that is half the sum of their squares; a CurvatureError for another."""
    if not hasattr(f, "residuals"):
        raise CurvatureError("this algorithm is for sums of squares: give the function that returns the residuals (m,)")
    with torch.no_grad():
        found: Tensor = f.residuals(theta)
    return found


def jacobian(f: Any, theta: Tensor) -> Tensor:
    """The Jacobian (m, n) of the residuals of f at `theta: (n,)`.

    >>> from thalweg.core.objective import LeastSquares
    >>> jacobian(LeastSquares(lambda x: x**2), torch.tensor([1.0, 3.0]))
    tensor([[2., 0.],
            [0., 6.]])
    """
    if hasattr(f, "jacobian"):
        whole: Tensor = f.jacobian(theta)
        return whole
    with torch.enable_grad():
        leaf = theta.detach().clone().requires_grad_()
        return rows(f.residuals(leaf), [leaf], theta)


def rows(r: Tensor, leaves: Sequence[Tensor], like: Tensor) -> Tensor:
    """The Jacobian of `r: (m,)` in the leaves, end to end: (m, n)."""
    if not r.requires_grad:
        return like.new_zeros(len(r), sum(leaf.numel() * (2 if leaf.is_complex() else 1) for leaf in leaves))
    eye = torch.eye(len(r), dtype=r.dtype, device=r.device)
    try:
        found = torch.autograd.grad(
            r, leaves, eye, retain_graph=True, is_grads_batched=True, allow_unused=True, materialize_grads=True
        )
        return torch.stack([flat([piece[i] for piece in found], like) for i in range(len(r))])
    except RuntimeError:  # an operation that cannot be vectorised: row by row
        each = [torch.autograd.grad(r, leaves, e, retain_graph=True, materialize_grads=True) for e in eye]
        return torch.stack([flat(pieces, like) for pieces in each])
