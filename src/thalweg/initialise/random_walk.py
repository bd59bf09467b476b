"""Random walk initialisation (section 8.4): gradients whose length does not drift over the layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.initialise.weight import Weight, normal


def random_walk(weight: Weight, generator: torch.Generator) -> Tensor:
    """N(0, g²/m) with g = exp(1/(2m)), for linear layers (Sussillo and Abbott 2014).

    On the way back the logarithm of the gradient's length is a random walk over the layers; this gain takes its drift
    away, of the logarithm and not of the mean square, which a few large values make.

    >>> from thalweg.initialise.weight import dense
    >>> round(float(random_walk(dense(100, 100), torch.Generator().manual_seed(0)).std()), 2)
    0.1
    """
    return normal(weight, math.exp(1 / (2 * weight.fan_in)) / math.sqrt(weight.fan_in), generator)


def random_walk_relu(weight: Weight, generator: torch.Generator) -> Tensor:
    """N(0, g²/m) with g = √2 exp(1.2 / (max(m, 6) - 2.4)), for ReLU (Sussillo and Abbott 2014): a fit, from 6 units on.

    >>> from thalweg.initialise.weight import dense
    >>> round(float(random_walk_relu(dense(200, 200), torch.Generator().manual_seed(0)).std()), 2)
    0.1
    """
    g = math.sqrt(2) * math.exp(1.2 / (max(weight.fan_in, 6) - 2.4))
    return normal(weight, g / math.sqrt(weight.fan_in), generator)
