"""Sophia (after section 8.6)."""

from typing import Any

from torch import Tensor

from thalweg.core.derivatives import hessian_vector
from thalweg.core.noise import signs
from thalweg.core.refreshed import refreshed
from thalweg.core.rule import clock, maximum, minimum, rule, zeros


@rule(per="vector")
def sophia(
    g, f, theta, m=zeros, h=zeros, t=clock,
    *, lr=1e-3, beta1=0.965, beta2=0.99, gamma=0.01, eps=1e-12, every=10.0, seed=0.0,
):  # fmt: skip
    """Sophia-H (Liu et al. 2023): a step of the mean gradient over the mean curvature, no component farther than lr.

    Algorithm 3, the curvature h by Hutchinson's estimate: every `every` steps, from the first on, the Hessian of the
    batch's f times random signs u, times u. Those are a function of step and seed. Where the curvature is negative or
    small the step is lr. The official code divides by the curvature of a batch where gamma and eps are in other places
    (its rho * bs * h + 1e-15 is gamma * h); its SophiaH corrects the bias of m, the paper does not. Sophia-G estimates
    h by the batch size times the square of the gradient for labels that the model itself draws, with gamma 0.05:
    cheaper, positive, but it must know what the outputs mean, which f does not say.

    >>> import torch
    >>> f, theta = (lambda x: 5 * (x * x).sum()), torch.tensor([1.0, 0.001])
    >>> seen = {"g": 10 * theta, "f": f, "theta": theta}
    >>> sophia.step(seen, sophia.start(theta), {"lr": 1.0, "beta1": 0.0, "beta2": 0.0, "gamma": 1.0})[0]
    tensor([-1.0000, -0.0010])
    """
    m = beta1 * m + (1 - beta1) * g
    (h,) = refreshed(
        t % every == 0, lambda: (beta2 * h + (1 - beta2) * hutchinson(f, theta, signs(theta, t, seed)),), (h,)
    )
    step = m / maximum(gamma * h, eps)
    return -lr * minimum(maximum(step, -1.0), 1.0), m, h, t + 1


def hutchinson(f: Any, theta: Tensor, u: Tensor) -> Tensor:
    """An estimate of the Hessian's diagonal, right in the mean over random signs u."""
    return u * hessian_vector(f, theta, u)
