"""What a rule that sees f asks of it: a gradient elsewhere, a Hessian times a vector, and noise to probe it with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BITS = 0xFFFFFFFF  # the hash below is one of 32 bits, kept in int64
ODD = (0x7FEB352D, 0x846CA68B - 2**32)  # its multipliers; signed, so that no product leaves the 64 bits


def gradient(f: Any, theta: Tensor) -> Tensor:
    """The gradient of f at `theta: (n,)`: f's own, where it has a method `gradient`, else by automatic differentiation.

    It is a value: nothing is differentiated through it, and it is found under `torch.no_grad()` too.

    >>> gradient(lambda x: (x * x).sum(), torch.tensor([1.0, -2.0]))
    tensor([ 2., -4.])
    """
    if hasattr(f, "gradient"):
        found: Tensor = f.gradient(theta)
        return found
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(f(leaf), leaf, materialize_grads=True)[0]


def hessian_vector(f: Any, theta: Tensor, u: Tensor) -> Tensor:
    """The Hessian of f at `theta: (n,)` times `u: (n,)`: f's own, where it has a method `hessian_vector`.

    Otherwise it is the gradient of ∇f·u (Pearlmutter 1994), for the price of about two gradients.

    >>> hessian_vector(lambda x: (x**3).sum(), torch.tensor([1.0, -2.0]), torch.tensor([1.0, 1.0]))
    tensor([  6., -12.])
    """
    if hasattr(f, "hessian_vector"):
        found: Tensor = f.hessian_vector(theta, u)
        return found
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf), leaf, create_graph=True, materialize_grads=True)
        if not g.requires_grad:  # f is linear in every component
            return torch.zeros_like(theta)
        return torch.autograd.grad(g, leaf, u, materialize_grads=True)[0]


def noise(theta: Tensor, t: Any, seed: Any = 0) -> Tensor:
    """Signs like theta, -1 or 1 with equal chance: of the step t, the seed and the position, and of nothing else.

    The same on every device, in every batch and after every resumption, because no generator has a state to lose.
    t and seed are whole numbers, or tensors of one.

    >>> noise(torch.zeros(6), t=3, seed=1)
    tensor([-1.,  1.,  1.,  1.,  1., -1.])
    """
    t, seed = (torch.as_tensor(x, dtype=torch.int64, device=theta.device) for x in (t, seed))
    position = torch.arange(theta.numel(), device=theta.device).reshape(theta.shape)
    bits = _hashed(_hashed(_hashed(seed) + t) ^ _hashed(position))
    return (1 - 2 * (bits & 1)).to(theta.dtype)


def _hashed(x: Tensor) -> Tensor:
    """Wellons' lowbias32 (2018): changes about half of the bits of the answer for each bit of x."""
    x = x & BITS
    x = ((x ^ (x >> 16)) * ODD[0]) & BITS
    x = ((x ^ (x >> 15)) * ODD[1]) & BITS
    return x ^ (x >> 16)
