"""Schemes that choose only a scale (section 8.4): constant, or by the number of inputs and outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.initialise.weight import Weight, normal, uniform

SMALL = 0.01  # Krizhevsky et al. 2012


def constant(weight: Weight, generator: torch.Generator) -> Tensor:
    """Every weight the same 0.01: breaks no symmetry, so that all units of a layer stay one unit.

    >>> from thalweg.initialise.weight import dense
    >>> constant(dense(1, 2), torch.Generator())
    tensor([[0.0100, 0.0100]], dtype=torch.float64)
    """
    return torch.full(weight.shape, SMALL, dtype=torch.float64)


def small_normal(weight: Weight, generator: torch.Generator) -> Tensor:
    """N(0, 0.01²) whatever the layer's size (Krizhevsky et al. 2012): the signal shrinks from layer to layer.

    >>> from thalweg.initialise.weight import dense
    >>> round(float(small_normal(dense(100, 100), torch.Generator().manual_seed(0)).std()), 3)
    0.01
    """
    return normal(weight, SMALL, generator)


def standard_uniform(weight: Weight, generator: torch.Generator) -> Tensor:
    """U(-1/√m, 1/√m) for m inputs, the book's first heuristic: variance 1 / (3 m); PyTorch's own for Linear.

    >>> from thalweg.initialise.weight import dense
    >>> bool(standard_uniform(dense(9, 100), torch.Generator()).abs().max() <= 0.1)
    True
    """
    return uniform(weight, math.sqrt(1 / (3 * weight.fan_in)), generator)


def glorot_uniform(weight: Weight, generator: torch.Generator) -> Tensor:
    """The normalised initialisation, U(-√(6/(m+n)), √(6/(m+n))) (Glorot and Bengio 2010): variance 2 / (m + n).

    >>> from thalweg.initialise.weight import dense
    >>> bool(glorot_uniform(dense(3, 3), torch.Generator()).abs().max() <= 1)
    True
    """
    return uniform(weight, math.sqrt(2 / (weight.fan_in + weight.fan_out)), generator)


def glorot_normal(weight: Weight, generator: torch.Generator) -> Tensor:
    """The normalised initialisation with Gaussian weights (Glorot and Bengio 2010): variance 2 / (m + n).

    >>> from thalweg.initialise.weight import dense
    >>> round(float(glorot_normal(dense(100, 100), torch.Generator().manual_seed(0)).std()), 2)
    0.1
    """
    return normal(weight, math.sqrt(2 / (weight.fan_in + weight.fan_out)), generator)


def lecun_normal(weight: Weight, generator: torch.Generator) -> Tensor:
    """Variance 1 / m, so that sums of m inputs are as large as one of them (LeCun et al. 1998); also for SELU.

    >>> from thalweg.initialise.weight import dense
    >>> round(float(lecun_normal(dense(100, 100), torch.Generator().manual_seed(0)).std()), 2)
    0.1
    """
    return normal(weight, math.sqrt(1 / weight.fan_in), generator)


def lecun_uniform(weight: Weight, generator: torch.Generator) -> Tensor:
    """Variance 1 / m, even over U(-√(3/m), √(3/m)) (LeCun et al. 1998).

    >>> from thalweg.initialise.weight import dense
    >>> bool(lecun_uniform(dense(3, 3), torch.Generator()).abs().max() <= 1)
    True
    """
    return uniform(weight, math.sqrt(1 / weight.fan_in), generator)


def he_normal(weight: Weight, generator: torch.Generator) -> Tensor:
    """Variance 2 / m: ReLU lets half of the signal through, and forwards it keeps its size (He et al. 2015).

    >>> from thalweg.initialise.weight import dense
    >>> round(float(he_normal(dense(100, 200), torch.Generator().manual_seed(0)).std()), 2)
    0.1
    """
    return normal(weight, math.sqrt(2 / weight.fan_in), generator)


def he_uniform(weight: Weight, generator: torch.Generator) -> Tensor:
    """Variance 2 / m, even over U(-√(6/m), √(6/m)) (He et al. 2015).

    >>> from thalweg.initialise.weight import dense
    >>> bool(he_uniform(dense(3, 6), torch.Generator()).abs().max() <= 1)
    True
    """
    return uniform(weight, math.sqrt(2 / weight.fan_in), generator)


def he_normal_fan_out(weight: Weight, generator: torch.Generator) -> Tensor:
    """Variance 2 / n for n outputs: with ReLU it is the gradient that keeps its size, backwards (He et al. 2015).

    >>> from thalweg.initialise.weight import dense
    >>> round(float(he_normal_fan_out(dense(200, 100), torch.Generator().manual_seed(0)).std()), 2)
    0.1
    """
    return normal(weight, math.sqrt(2 / weight.fan_out), generator)
