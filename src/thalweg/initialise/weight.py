"""What a scheme is told of a weight, and gains of nonlinearities (section 8.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["dense", "recurrent", "table"]


class Weight(NamedTuple):
    """A linear map as a scheme sees it: `shape` is (outputs, inputs, *kernel), whatever the layer that holds it.

    `fan_in` is the number of inputs that a unit sums up, `fan_out` the number of units that an input reaches. A
    "recurrent" weight takes a hidden state to the next one; in a "table" (an embedding) one input is on at a time.

    >>> Weight((128, 64), 64, 128).columns
    64
    """

    shape: tuple[int, ...]
    fan_in: float
    fan_out: float
    kind: Kind = "dense"
    name: str = ""

    @property
    def columns(self) -> int:
        """The numbers that a unit has of its own: inputs times the size of the kernel."""
        return math.prod(self.shape[1:])


# Draws a weight: float64 of the shape that it is told, with no other random numbers than the generator's.
Scheme = Callable[[Weight, torch.Generator], Tensor]


def dense(outputs: int, inputs: int) -> Weight:
    """The weight of a layer without anything special.

    >>> dense(128, 64)
    Weight(shape=(128, 64), fan_in=64, fan_out=128, kind='dense', name='')
    """
    return Weight((outputs, inputs), inputs, outputs)


def normal(weight: Weight, std: float, generator: torch.Generator) -> Tensor:
    """Gaussian weights of mean 0.

    >>> normal(dense(2, 3), 0.5, torch.Generator()).shape
    torch.Size([2, 3])
    """
    return std * torch.randn(weight.shape, dtype=torch.float64, generator=generator)


def uniform(weight: Weight, std: float, generator: torch.Generator) -> Tensor:
    """Weights even over U(-√3 std, √3 std), whose standard deviation is std.

    >>> round(float(uniform(dense(100, 100), 0.5, torch.Generator()).std()), 2)
    0.5
    """
    drawn = torch.rand(weight.shape, dtype=torch.float64, generator=generator)
    return math.sqrt(3.0) * std * (2 * drawn - 1)


def gain(phi: Callable[[Tensor], Tensor]) -> float:
    """The factor that makes up for a nonlinearity: 1 / √E[φ(z)²] for z ~ N(0, 1).

    With weights of variance gain² / fan_in the units before the nonlinearity keep a mean square of 1 (He et al. 2015).
    It is √2 for ReLU, √(2 / (1 + a²)) for a leaky one of slope a, 1 for SELU and 1.593 for tanh, where PyTorch's
    `calculate_gain` has 5/3 (and 3/4 for SELU). Raises ValueError for a φ that is zero everywhere.

    >>> round(gain(torch.relu), 4), round(gain(torch.tanh), 3)
    (1.4142, 1.593)
    """
    z = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    mean_square = float(torch.trapezoid(phi(z).square() * torch.exp(-z * z / 2), z)) / math.sqrt(2 * math.pi)
    if not mean_square > 0:
        raise ValueError(f"phi has a mean square of {mean_square:g} on N(0, 1): no gain makes up for that")
    return 1 / math.sqrt(mean_square)


def scaled(scheme: Scheme, factor: float) -> Scheme:
    """A scheme times a factor: `scaled(orthogonal, gain(torch.tanh))`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> double = scaled(lambda weight, generator: torch.ones(weight.shape), 2.0)
    >>> float(double(dense(1, 1), generator))
    2.0
    """

    def draw(weight: Weight, generator: torch.Generator) -> Tensor:
        return factor * scheme(weight, generator)

    draw.__name__ = f"{factor:.4g} times {name(scheme)}"
    return draw


def name(scheme: object) -> str:
    """What a scheme is called in a report."""
    return getattr(scheme, "__name__", type(scheme).__name__)
