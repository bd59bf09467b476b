"""Sparse initialisation (section 8.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.initialise.variance import lecun_normal
from thalweg.initialise.weight import Weight, normal

INCOMING = 15  # weights of a unit that are not zero (Martens 2010)


def sparse(weight: Weight, generator: torch.Generator) -> Tensor:
    """15 of a unit's incoming weights are N(0, 1), the others zero (Martens 2010).

    A unit's total input does not depend on how many inputs there are, and units differ more than with many small
    weights. A layer of fewer inputs has them all; a table's rows are drawn whole, as by `lecun_normal`.

    >>> from thalweg.initialise.weight import dense
    >>> (sparse(dense(4, 100), torch.Generator().manual_seed(0)) != 0).sum(dim=1).tolist()
    [15, 15, 15, 15]
    """
    if weight.kind == "table":
        return lecun_normal(weight, generator)
    values = normal(weight, 1.0, generator).reshape(weight.shape[0], -1)
    chosen = torch.rand(values.shape, dtype=torch.float64, generator=generator).argsort(dim=1)[:, :INCOMING]
    return torch.zeros_like(values).scatter(1, chosen, values.gather(1, chosen)).reshape(weight.shape)
