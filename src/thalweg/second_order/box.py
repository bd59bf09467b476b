"""Bounds lower <= theta <= upper: steps and line searches that keep them (after section 8.6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import value_and_gradient
from thalweg.core.status import Status
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


def searched_inside(
    search: Search, f: Any, theta: Tensor, d: Tensor, value: float, g: Tensor, alpha: float,
    lower: Tensor, upper: Tensor, *, c1: float, c2: float,
) -> Found:  # fmt: skip
    """A line search from theta along d that meets no point outside the bounds; theta + d must be inside.

    Where f still falls as far as they allow, that is where it ends, whatever the slope is there.

    >>> from thalweg.second_order.line_search import wolfe
    >>> f, theta, top = (lambda x: (x - 9).square().sum()), torch.zeros(1), torch.ones(1)
    >>> searched_inside(wolfe, f, theta, top, 81.0, torch.tensor([-18.0]), 1.0, -top, top, c1=1e-4, c2=0.9).alpha
    1.0
    """
    slope, bound = float(g @ d), torch.where(d > 0, upper, lower)
    room = float(torch.where(d == 0, torch.inf, (bound - theta) / d).min())
    last = 1.0 if room < 1 + 1e-6 else room
    if alpha >= last or outside(theta + alpha * d, lower, upper):
        alpha = min(alpha, 1.0)
    if alpha == last and slope < 0:
        trial, ahead = value_and_gradient(f, theta + alpha * d)
        if float(trial) <= value + c1 * alpha * slope and float(ahead @ d) <= 0:
            return Found(alpha, float(trial), ahead, Status.GOING_ON)
    return search(_Walled(f, lower, upper), theta, d, value, g, alpha, c1=c1, c2=c2)


class _Walled(NamedTuple):
    """f within bounds, plus infinity outside, where it is not evaluated: line searches contract there."""

    f: Any
    lower: Tensor
    upper: Tensor

    def __call__(self, theta: Tensor) -> Tensor:
        value: Tensor = theta.new_tensor(torch.inf) if outside(theta, self.lower, self.upper) else self.f(theta)
        return value

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Both at theta."""
        if outside(theta, self.lower, self.upper):
            return theta.new_tensor(torch.inf), torch.full_like(theta, torch.nan)
        return value_and_gradient(self.f, theta)
