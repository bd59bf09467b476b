"""D-Adapted Adam (after section 8.5)."""

import torch

from thalweg.core.rule import maximum, rule, sqrt, zeros
from thalweg.modern.prodigy import first_d, nought, over


@rule(per="vector")
def dadapt_adam(
    g, theta, m=zeros, v=zeros, s=zeros, d=first_d, numerator=nought,
    *, lr=1.0, beta1=0.9, beta2=0.999, eps=1e-8, d0=1e-6, weight_decay=0.0,
):  # fmt: skip
    """D-Adapted Adam (Defazio and Mishchenko 2023): Adam whose lr is a lower bound d of the distance to the solution.

    Algorithm 5. d never shrinks, and lr is a schedule's factor of it, from 1: m takes it in, so that a step is a mean
    of gradients each by the lr of its time. No bias correction. The official code weighs the numerator with the second
    moments of before the step, the paper, and this, with the new ones; before version 2 it had another estimate of d.
    It can limit the growth of d (growth_rate), no limit here. Weight decay is by d * lr, its `decouple=True`;
    `decayed(dadapt_adam)` would shrink theta by lr itself.

    >>> theta, g = torch.zeros(2), torch.tensor([4.0, -1.0])
    >>> memory = dadapt_adam.start(theta, d0=0.5)
    >>> dadapt_adam.step({"g": g, "theta": theta}, memory, {"eps": 0.0, "beta2": 0.99})[0]
    tensor([-0.5000,  0.5000])
    """
    root = beta2**0.5
    m = beta1 * m + (1 - beta1) * d * lr * g
    v = beta2 * v + (1 - beta2) * g * g
    preconditioner = sqrt(v) + eps
    numerator = root * numerator + (1 - root) * d * lr * (g @ (s / preconditioner))
    s = root * s + (1 - root) * d * lr * g
    d_hat = over(numerator, (1 - root) * torch.linalg.vector_norm(s, ord=1))
    delta = -m / preconditioner - d * lr * weight_decay * theta
    return delta, m, v, s, maximum(d, d_hat), numerator
