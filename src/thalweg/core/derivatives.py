"""What a rule that sees f asks of it: a gradient elsewhere, a Hessian times a vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
