"""Orthogonal weights (section 8.4), in convolutions too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.initialise.variance import lecun_normal
from thalweg.initialise.weight import Weight


def orthogonal(weight: Weight, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix (Saxe et al. 2014), of a convolution at its centre only (Xiao et al. 2018).

    Rows or columns are orthonormal, whichever are fewer: no direction shrinks or grows on its way through square
    layers, of whatever depth. A convolution's kernel is such a matrix at its centre and zero around it, which makes
    the whole map orthogonal (delta-orthogonal), where a kernel that is orthogonal only as a flat matrix does not.
    A table's rows are drawn one by one, as by `lecun_normal`.

    >>> from thalweg.initialise.weight import dense
    >>> q = orthogonal(dense(3, 5), torch.Generator().manual_seed(0))
    >>> torch.allclose(q @ q.T, torch.eye(3, dtype=torch.float64))
    True
    """
    if weight.kind == "table":
        return lecun_normal(weight, generator)
    rows, columns = weight.shape[:2]
    tall = torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()  # the signs make it uniform over all such matrices (Mezzadri 2007)
    found = q if rows >= columns else q.T
    kernel = torch.zeros(rows, columns, math.prod(weight.shape[2:]), dtype=torch.float64)
    kernel[:, :, _centre(weight.shape[2:])] = found
    return kernel.reshape(weight.shape)


def orthogonal_relu(weight: Weight, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix times √2, the gain of ReLU (Saxe et al. 2014; He et al. 2015).

    >>> from thalweg.initialise.weight import dense
    >>> w = orthogonal_relu(dense(3, 3), torch.Generator().manual_seed(0))
    >>> torch.allclose(w @ w.T, 2 * torch.eye(3, dtype=torch.float64))
    True
    """
    return orthogonal(weight, generator) * (1 if weight.kind == "table" else math.sqrt(2))


def _centre(sizes: tuple[int, ...]) -> int:
    """The place of the middle of a kernel once it is flat."""
    place = 0
    for size in sizes:
        place = place * size + (size - 1) // 2
    return place
