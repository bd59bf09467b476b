"""Prodigy (after section 8.5)."""

import torch
from torch import Tensor

from thalweg.core.rule import Start, current, maximum, rule, sqrt, zeros

# Numbers that a run computes are tensors without a dimension, so that nothing waits for their values.
nought = Start("0", lambda theta, knobs: theta.new_zeros(()))
first_d = Start("number(d0)", lambda theta, knobs: theta.new_zeros(()) + knobs["d0"])


@rule(per="vector")
def prodigy(
    g, theta, m=zeros, v=zeros, s=zeros, theta0=current, d=first_d, numerator=nought,
    *, lr=1.0, beta1=0.9, beta2=0.999, eps=1e-8, d0=1e-6, d_coef=1.0, weight_decay=0.0,
):  # fmt: skip
    """Prodigy (Mishchenko and Defazio 2023): Adam that finds its own lr, d, the distance from the start it has proven.

    The Adam version, Algorithm 4; d never shrinks, and lr is a schedule's factor of it, from 1. As in the paper there
    is no bias correction. The official code agrees, but for d in `d * eps`, where it takes the new one, and it
    has switches: d_coef, which scales the estimate and is the knob to tune; growth_rate, no limit here;
    use_bias_correction, off here; and safeguard_warmup, off here, which leaves lr out of s so that a warm-up does not
    make d too large. Its weight decay is by d * lr, as here; `decayed(prodigy)` would shrink theta by lr itself.

    >>> theta, g = torch.zeros(2), torch.tensor([4.0, -1.0])
    >>> memory = prodigy.start(theta, d0=0.5)
    >>> prodigy.step({"g": g, "theta": theta}, memory, {"eps": 0.0, "beta2": 0.99})[0]
    tensor([-0.5000,  0.5000])
    """
    beta3 = beta2**0.5
    m = beta1 * m + (1 - beta1) * d * g
    v = beta2 * v + (1 - beta2) * d * d * g * g
    numerator = beta3 * numerator + (1 - beta3) * lr * d * d * (g @ (theta0 - theta))
    s = beta3 * s + (1 - beta3) * lr * d * d * g
    size = torch.linalg.vector_norm(s, ord=1)
    delta = -lr * d * (m / (sqrt(v) + d * eps) + weight_decay * theta)
    return delta, m, v, s, theta0, maximum(d, d_coef * over(numerator, size)), numerator


def over(numerator: Tensor, size: Tensor) -> Tensor:
    """numerator / size, and 0 where size is 0: where every gradient so far was."""
    there = size > 0
    return torch.where(there, numerator / torch.where(there, size, 1.0), 0.0)
