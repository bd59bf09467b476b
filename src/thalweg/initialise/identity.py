"""The identity for recurrent weights (after section 8.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.initialise.variance import lecun_normal
from thalweg.initialise.weight import Weight


def identity(weight: Weight, generator: torch.Generator) -> Tensor:
    """Recurrent weights the identity: a state stays as it is (Le et al. 2015, for ReLU); others as by `lecun_normal`.

    The paper draws the others with a standard deviation of 0.001, which only a single layer bears.

    >>> identity(Weight((2, 2), 2, 2, "recurrent"), torch.Generator())
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    if weight.kind == "recurrent":
        return torch.eye(*weight.shape, dtype=torch.float64)
    return lecun_normal(weight, generator)
