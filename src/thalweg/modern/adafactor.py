"""Adafactor (after section 8.5)."""

import math

import torch
from torch import Tensor

from thalweg.core.rule import Start, clock, maximum, minimum, rule, sqrt

_row = Start("rows", lambda theta, knobs: theta.new_zeros(*theta.shape[:-1], 1) if theta.ndim > 1 else None)
_col = Start(
    "columns", lambda theta, knobs: theta.new_zeros(*theta.shape[:-2], 1, theta.shape[-1]) if theta.ndim > 1 else None
)
_variance = Start("zeros of a vector", lambda theta, knobs: torch.zeros_like(theta) if theta.ndim < 2 else None)


@rule(per="tensor")
def adafactor(
    g, theta, row=_row, col=_col, variance=_variance, t=clock,
    *, lr=1e-2, beta2_decay=-0.8, eps1=2**-23, eps2=1e-3, clip=1.0,
):  # fmt: skip
    """Adafactor (Shazeer and Stern 2018): of a matrix's second moments it keeps the mean of each row and column only.

    As torch has it, whose eps1 is a floor under the second moments, by default the resolution of the parameters' dtype
    (2**-23 is float32's; in float64 pass 2**-52), and whose d is called clip here. The paper adds eps1 to the squared
    gradients instead and has 0.01 for lr. A kernel with more than two dimensions is a stack of matrices, its last two
    dimensions; vectors keep every second moment. There is no first moment. torch's weight decay is
    `decayed(adafactor)`: it takes the size of theta before the decay.

    >>> theta, g = torch.ones(2, 2), torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> delta, memory = adafactor.step({"g": g, "theta": theta}, adafactor.start(theta), adafactor.knobs)
    >>> delta, memory["row"].shape, memory["variance"]
    (tensor([[-0.0100, -0.0100],
            [-0.0100, -0.0100]]), torch.Size([2, 1]), None)
    """
    t = t + 1
    beta2 = 1 - t**beta2_decay
    squares = g * g
    if g.ndim > 1:
        row = beta2 * row + (1 - beta2) * squares.mean(dim=-1, keepdim=True)
        col = beta2 * col + (1 - beta2) * squares.mean(dim=-2, keepdim=True)
        v = row @ col / maximum(row.mean(dim=-2, keepdim=True), eps1)
    else:
        v = variance = beta2 * variance + (1 - beta2) * squares
    update = g / sqrt(maximum(v, eps1 * eps1))
    update = update / maximum(_rms(update) / clip, 1.0)
    alpha = maximum(_rms(theta), eps2) * minimum(lr, 1 / t**0.5)
    return -alpha * update, row, col, variance, t


def _rms(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x)
    return norm / math.sqrt(x.numel())
