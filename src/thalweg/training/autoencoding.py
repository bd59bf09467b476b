"""Autoencoders of one block (section 8.7.4): a decoder on top, and what is done to the inputs that it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.core.errors import ProblemError
from thalweg.core.network import Loss
from thalweg.core.noise import uniform

Corruption = Callable[[Tensor, int, int], Tensor]  # of inputs (b, ...), the step and a seed, the inputs spoilt
Top = Callable[[nn.Module, Tensor, Tensor], nn.Module]  # of a block, its inputs and outputs: the two with a decoder


def untied(block: nn.Module, inputs: Tensor, outputs: Tensor) -> nn.Module:
    """The block and a linear decoder with weights of its own; of images, a convolution of the enlarged image.

    >>> x = torch.randn(5, 3)
    >>> untied(nn.Linear(3, 2), x, torch.randn(5, 2))(x).shape
    torch.Size([5, 3])
    """
    if inputs.dim() == 4 and outputs.dim() == 4:
        enlarged = nn.Upsample(size=tuple(inputs.shape[2:]))
        return nn.Sequential(block, enlarged, nn.Conv2d(outputs.shape[1], inputs.shape[1], 3, padding=1))
    return nn.Sequential(block, linear(outputs, inputs))


class Tied(nn.Module):
    """The block and a decoder of the same weights, transposed (Vincent et al. 2010); a bias is its own.

    Raises ProblemError for a block whose weights are not those of one nn.Linear.

    >>> x = torch.randn(5, 3)
    >>> tied = Tied(nn.Linear(3, 2), x, torch.randn(5, 2))
    >>> tied(x).shape, sum(parameter.numel() for parameter in tied.parameters())
    (torch.Size([5, 3]), 11)
    """

    def __init__(self, block: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.block = block
        self.shape = inputs.shape[1:]
        layers = [part for part in block.modules() if isinstance(part, nn.Linear)]
        weights = [parameter for parameter in block.parameters() if parameter.dim() > 1]
        if len(layers) != 1 or len(weights) != 1 or layers[0].in_features != self.shape.numel():
            raise ProblemError(f"a tied decoder needs a block with one nn.Linear, this one is {block}: leave it untied")
        self.layer = (layers[0],)  # in a tuple: it is a part of the block already
        self.bias = nn.Parameter(torch.zeros(self.shape.numel()))

    def forward(self, inputs: Tensor) -> Tensor:
        """The inputs (b, ...) as they are given back."""
        given_back: Tensor = nn.functional.linear(self.block(inputs), self.layer[0].weight.T, self.bias)
        return given_back.reshape(-1, *self.shape)


def linear(inputs: Tensor, outputs: Tensor) -> nn.Sequential:
    """A linear layer between any two shapes.

    >>> linear(torch.randn(5, 3), torch.randn(5, 2, 4))(torch.randn(5, 3)).shape
    torch.Size([5, 2, 4])
    """
    shape = outputs.shape[1:]
    flat = nn.Linear(inputs[0].numel(), shape.numel())
    return nn.Sequential(nn.Flatten(), flat, nn.Unflatten(1, tuple(shape)) if len(shape) != 1 else nn.Identity())


def clean(h: Tensor, t: int, seed: int) -> Tensor:
    """Nothing.

    >>> clean(torch.ones(2), t=0, seed=0)
    tensor([1., 1.])
    """
    return h


def masking(share: float) -> Corruption:
    """A share of the inputs becomes 0, others from step to step (Vincent et al. 2010).

    >>> masking(0.5)(torch.ones(8), 0, 0)
    tensor([0., 0., 0., 0., 1., 1., 0., 0.])
    """
    return lambda h, t, seed: h * (uniform(h.float(), t, seed) >= share)


def gaussian(std: float) -> Corruption:
    """Normal noise is added, other from step to step (Vincent et al. 2010).

    >>> noise = gaussian(0.5)(torch.zeros(10_000), 1, 1)
    >>> round(float(noise.std()), 2)
    0.5
    """
    return lambda h, t, seed: h + std * _normal(h, t, seed)


def _normal(h: Tensor, t: int, seed: int) -> Tensor:
    u = uniform(h.double(), t, seed) + 2**-17  # the middle of each of its steps: never 0 or 1
    return (math.sqrt(2) * torch.erfinv(2 * u - 1)).to(h.dtype)


@dataclass(frozen=True)
class Autoencoder:
    """How a block learns without targets: to give back its inputs, from inputs that were spoilt."""

    corrupt: Corruption = clean
    top: Top = untied
    loss: Loss = nn.functional.mse_loss
