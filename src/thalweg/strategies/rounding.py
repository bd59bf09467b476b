"""Parameters in half precision whose small steps are not lost.

Executions hand a rule float16 or bfloat16 parameters in float32, and round theta + Δθ to the parameters' dtype. A step
of less than half a unit in the last place of theta is then no step at all: bfloat16 has 8 bits, so theta stalls as soon
as Δθ is under 1/512 of it. Both combinators give a Δθ that the rounding leaves as it is.
"""

import math
from typing import Any

import torch
from torch import Tensor

from thalweg.core.noise import uniform
from thalweg.core.rule import Rule, clock, combinator, zeros


def compensated(rule: Rule, dtype: torch.dtype = torch.bfloat16) -> Rule:
    """Kahan summation (Kahan 1965): what rounding has lost so far, c, is added to the next step.

    theta + c is the trajectory in float32, but for c's own rounding; for optimizers see Zamirai et al. (2020). All
    parameters are taken to be of `dtype`; with float32 the rule is left as it is.

    >>> from thalweg import sgd
    >>> kept, theta = compensated(sgd), torch.ones(1)
    >>> memory = kept.start(theta)
    >>> for _ in range(4):
    ...     delta, memory = kept.step({"g": torch.ones(1), "theta": theta}, memory, {"lr": 1e-3})
    ...     theta = theta + delta
    >>> theta, theta + memory["c"]  # bfloat16 has nothing between 1 and 0.99609375
    (tensor([0.9961]), tensor([0.9960]))
    """
    if dtype == torch.float32:
        return rule

    @combinator
    def compensated(inner, theta, c=zeros):
        exact = inner() + c
        delta = (theta + exact).to(dtype).to(theta.dtype) - theta
        return delta, exact - delta

    return compensated(rule)


def stochastically_rounded(rule: Rule, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Rule:
    """Stochastic rounding (Gupta et al. 2015): up or down to one of the two neighbours, on average the sum itself.

    It needs no memory but a clock: the random bits are a function of the knob rounding_seed, the clock, the position in
    the tensor and theta itself. There are 16 of them, all that float32 has beyond bfloat16: the mean is exact but for
    subnormal float16. All parameters are taken to be of `dtype`; with float32 the rule is left as it is.

    >>> from thalweg import sgd
    >>> rounded, theta = stochastically_rounded(sgd), torch.ones(10_000)
    >>> delta, _ = rounded.step({"g": theta, "theta": theta}, rounded.start(theta), {"lr": 1e-3, "rounding_seed": 0})
    >>> sorted(set((theta + delta).tolist())), round(float(delta.mean()), 4)
    ([0.99609375, 1.0], -0.001)
    """
    if dtype == torch.float32:
        return rule
    info = torch.finfo(dtype)
    bits, least = int(-math.log2(info.eps)), int(math.log2(info.smallest_normal))

    @combinator(per="tensor")
    def stochastically_rounded(inner, theta, draws=clock, *, rounding_seed=seed):
        moved = theta + inner()
        exponent = torch.frexp(moved).exponent - 1
        unit = torch.ldexp(torch.ones_like(moved), exponent.clamp(min=least) - bits)  # between neighbours of dtype
        below = torch.floor(moved / unit)
        up = uniform(moved, draws, _mixed(rounding_seed, theta)) < moved / unit - below  # exact, as a sum is not
        nearest = moved.to(dtype).to(theta.dtype)  # beyond the largest number, so that no infinity comes by chance
        rounded = torch.where(abs(moved) <= info.max, (below + up) * unit, nearest)
        delta = torch.where(rounded == theta, 0.0, rounded - theta)  # of infinity the difference is NaN
        return delta, draws + 1

    return stochastically_rounded(rule)


def _mixed(seed: Any, theta: Tensor) -> Tensor:
    """A seed for each parameter, of its bits too: or all tensors would draw the same numbers."""
    bits: Tensor = theta.to(torch.float32).view(torch.int32).to(torch.int64)
    return bits + 0x9E3779B1 * torch.as_tensor(seed, dtype=torch.int64, device=theta.device)
