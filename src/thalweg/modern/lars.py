"""LARS (after section 8.5)."""

import torch

from thalweg.core.rule import rule, zeros
from thalweg.modern.lamb import trust_ratio


@rule(per="tensor")
def lars(g, theta, v=zeros, *, lr=1.0, momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3):
    """LARS (You et al. 2017): SGD with momentum, each tensor's lr a fraction of its own length over its gradient's.

    Algorithm 1: v takes in both learning rates, so that a new lr acts on new gradients only, and the local one divides
    by |g| + weight_decay |theta|. Implementations divide by |g + weight_decay theta| (optax), or put lr in
    front of v (NVIDIA's LARC, around torch's SGD), which is the same while lr stays. Where a norm is zero, of which the
    paper says nothing, the ratio of norms is 1 here and the local lr trust_coefficient; optax's local lr is then 1.

    >>> lars(torch.tensor([2.0]), torch.tensor([8.0]), torch.zeros(1), lr=1.0, trust_coefficient=0.5)
    (tensor([-4.]), tensor([4.]))
    """
    w, gradient = torch.linalg.vector_norm(theta), torch.linalg.vector_norm(g)
    local_lr = trust_coefficient * trust_ratio(w, gradient + weight_decay * w)
    v = momentum * v + lr * local_lr * (g + weight_decay * theta)
    return -v, v
