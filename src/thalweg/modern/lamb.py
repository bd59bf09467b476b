"""LAMB (after section 8.5)."""

import torch
from torch import Tensor

from thalweg.core.rule import clock, rule, sqrt, zeros


@rule(per="tensor")
def lamb(g, theta, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-6, weight_decay=0.0):
    """LAMB (You et al. 2020): Adam's step, weight decay in it, made in each tensor as long as lr times that tensor.

    Algorithm 2 with the identity for its φ. The decay is inside, because the length is taken of the whole step. Where
    the tensor or the step is zero the paper divides by zero or never moves; here, as everywhere, the step stays as
    Adam made it. Implementations leave out the bias correction and cap the tensor's
    norm at 10, a φ (Cybertronai's), or clip the gradient of the whole model to length 1 before (NVIDIA's: that
    is `clipped(lamb)`).

    >>> lamb(torch.tensor([2.0]), torch.tensor([8.0]), torch.zeros(1), torch.zeros(1), 0, lr=0.5)[0]
    tensor([-4.])
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    r = m_hat / (sqrt(v_hat) + eps)
    u = r + weight_decay * theta
    return -lr * trust_ratio(torch.linalg.vector_norm(theta), torch.linalg.vector_norm(u)) * u, m, v, t


def trust_ratio(norm: Tensor, other: Tensor) -> Tensor:
    """norm / other, and 1 where one of them is 0."""
    there = (norm > 0) & (other > 0)
    return torch.where(there, norm / torch.where(there, other, 1.0), 1.0)
