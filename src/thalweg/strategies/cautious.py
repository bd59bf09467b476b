"""Cautious steps (after section 8.5)."""

from thalweg.core.rule import combinator, maximum, sign


@combinator(per="tensor")
def cautious(inner, g):
    """Only what goes downhill (Liang et al. 2024): components of the step along the gradient are left out.

    The others grow by the share that they are, a thousandth at least, so that the step keeps its length on average.
    That share is of one tensor, as in the authors' code.

    >>> import torch
    >>> from thalweg import momentum
    >>> seen, memory = {"g": torch.tensor([1.0, 1.0])}, {"velocity": torch.tensor([1.0, -9.0])}
    >>> cautious(momentum).step(seen, memory, {"lr": 1.0, "momentum": 1.0})[0]
    tensor([-4.,  0.])
    """
    delta = inner()
    downhill = (sign(delta) * sign(g) < 0).to(delta.dtype)  # the product of the numbers themselves may underflow
    return delta * downhill / maximum(downhill.mean(), 1e-3)
