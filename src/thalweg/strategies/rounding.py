"""Parameters in half precision whose small steps are not lost.

Executions hand a rule float16 or bfloat16 parameters in float32, and round theta + Δθ to the parameters' dtype. A step
of less than half a unit in the last place of theta is then no step at all: bfloat16 has 8 bits, so theta stalls as soon
as Δθ is under 1/512 of it. Both combinators give a Δθ that the rounding leaves as it is.
"""

import torch

from thalweg.core.noise import uniform
from thalweg.core.rule import Rule, clock, combinator, zeros


def compensated(rule: Rule, dtype: torch.dtype = torch.bfloat16) -> Rule:
    """Kahan summation (Kahan 1965): what rounding has lost so far, c, is added to the next step.

    theta + c is the trajectory in float32, but for c's own rounding. In parameters of another dtype than `dtype` it
    changes nothing to speak of.

    >>> from thalweg import sgd
    >>> kept, theta = compensated(sgd), torch.ones(1)
    >>> memory = kept.start(theta)
    >>> for _ in range(4):
    ...     delta, memory = kept.step({"g": torch.ones(1), "theta": theta}, memory, {"lr": 1e-3})
    ...     theta = theta + delta
    >>> theta, theta + memory["c"]  # bfloat16 has nothing between 1 and 0.99609375
    (tensor([0.9961]), tensor([0.9960]))
    """

    @combinator
    def compensated(inner, theta, c=zeros):
        exact = inner() + c
        delta = (theta + exact).to(dtype).to(theta.dtype) - theta
        return delta, exact - delta

    return compensated(rule)


def stochastically_rounded(rule: Rule, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Rule:
    """Stochastic rounding (Gupta et al. 2015): up or down to one of the two neighbours, on average the sum itself.

    It needs no memory but a clock; the random bits are a function of the knob `rounding_seed`, the clock and the
    position.

    >>> from thalweg import sgd
    >>> rounded, theta = stochastically_rounded(sgd), torch.ones(10_000)
    >>> delta, _ = rounded.step({"g": theta, "theta": theta}, rounded.start(theta), {"lr": 1e-3, "rounding_seed": 0})
    >>> sorted(set((theta + delta).tolist())), round(float(delta.mean()), 4)
    ([0.99609375, 1.0], -0.001)
    """
    info = torch.finfo(dtype)
    bits, least = int(-torch.log2(torch.tensor(info.eps))), int(torch.log2(torch.tensor(info.smallest_normal)))

    @combinator
    def stochastically_rounded(inner, theta, draws=clock, *, rounding_seed=seed):
        moved = theta + inner()
        exponent = torch.frexp(moved).exponent - 1
        unit = torch.ldexp(torch.ones_like(moved), exponent.clamp(min=least) - bits)  # between neighbours of dtype
        rounded = torch.floor(moved / unit + uniform(moved, draws, rounding_seed)) * unit
        return torch.where(torch.isfinite(moved), rounded, moved) - theta, draws + 1

    return stochastically_rounded(rule)
