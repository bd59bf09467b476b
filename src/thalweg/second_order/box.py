"""Bounds lower <= theta <= upper: steps and line searches that keep them (after section 8.6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import value_and_gradient
from thalweg.second_order.line_search import Found, Search

Bound = float | Tensor


def box(theta: Tensor, lower: Bound, upper: Bound) -> tuple[Tensor, Tensor]:
    """Bounds that are numbers or (n,), each as (n,) in theta's dtype."""
    low, high = (torch.as_tensor(b, dtype=theta.dtype, device=theta.device).expand_as(theta) for b in (lower, upper))
    return low, high


def outside(theta: Tensor, lower: Tensor, upper: Tensor) -> bool:
    """Whether a component of theta is beyond its bound."""
    return bool(((theta < lower) | (theta > upper)).any())


def inside(theta: Tensor, delta: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """delta, cut so that theta + delta, as the dtype adds, is inside the bounds.

    >>> inside(torch.tensor([0.25, 0.0]), torch.tensor([1.0, -1.0]), torch.zeros(2), torch.tensor([0.75, 1.0]))
    tensor([0.5000, 0.0000])
    """
    cut = torch.clamp(theta + delta, lower, upper) - theta
    ahead = theta + cut  # the difference is rounded: it may lead beyond by a bit
    nearer = torch.nextafter(cut, torch.where(ahead < lower, torch.inf, -torch.inf).to(cut))
    cut = torch.where((ahead < lower) | (ahead > upper), nearer, cut)
    ahead = theta + delta
    return torch.where((ahead < lower) | (ahead > upper), cut, delta)


def held(theta: Tensor, g: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Which variables cannot move along -g, being at a bound: (n,), true or false."""
    return ((theta <= lower) & (g > 0)) | ((theta >= upper) & (g < 0)) | (lower == upper)


def freed(theta: Tensor, g: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The gradient, zero in the variables that are held."""
    return torch.where(held(theta, g, lower, upper), 0.0, g)


def searched_inside(
    search: Search, f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    lower: Tensor, upper: Tensor, *, c1: float, c2: float,
) -> tuple[Found, Tensor]:  # fmt: skip
    """A line search from theta along d that follows the bounds where it meets them, and the step to where it ends.

    d does not push against a bound at which theta is.

    >>> from thalweg.second_order.line_search import wolfe
    >>> f, theta, top = (lambda x: (x - 9).square().sum()), torch.zeros(1), torch.ones(1)
    >>> searched_inside(wolfe, f, theta, 0.5 * top, 81.0, torch.tensor([-18.0]), 4.0, -top, top, c1=1e-4, c2=0.9)[1]
    tensor([1.])
    """
    found = search(_Bent(f, lower, upper), theta, d, value, freed(theta, g, lower, upper), alpha, c1=c1, c2=c2)
    if not found.alpha:
        return found._replace(g=g), torch.zeros_like(theta)
    delta = inside(theta, found.alpha * d, lower, upper)
    return found._replace(g=value_and_gradient(f, theta + delta)[1]), delta


class _Bent(NamedTuple):
    """f of theta put inside the bounds, as a function of all theta, with its slopes ahead: none beyond a bound."""

    f: Any
    lower: Tensor
    upper: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        value: Tensor = self.f(torch.clamp(theta, self.lower, self.upper))
        return value

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Both at theta."""
        within = torch.clamp(theta, self.lower, self.upper)
        value, g = value_and_gradient(self.f, within)
        return value, torch.where(within == theta, freed(within, g, self.lower, self.upper), 0.0)
