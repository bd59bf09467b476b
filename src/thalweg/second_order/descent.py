"""One step downhill, and what to do where a direction leads nowhere (section 8.6)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.status import Status
from thalweg.second_order.line_search import Found, Search
from thalweg.second_order.linear import length
from thalweg.second_order.rounding import at_rest

NEAR = 0.01  # the first step changes the largest component of theta by this much of it


class Descent(NamedTuple):
    """A step taken along a direction."""

    alpha: float
    d: Tensor  # (n,)
    value: float  # of f where it ends
    g: Tensor  # (n,), the gradient there
    status: Status
    steepest: bool  # whether d is the steepest descent: what was remembered was of no use

    @property
    def delta(self) -> Tensor:
        """The step, (n,)."""
        return self.alpha * self.d


def descended(
    search: Search,
    f: Any,
    theta: Tensor,
    g: Tensor,
    d: Tensor | None,
    alpha: float = 1.0,
    *,
    lr: float = 1.0,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> Descent:
    """A step along d, first tried at lr alpha; along the steepest descent where d is None or the search finds nothing.

    Where that finds nothing either, the status says whether rounding is the reason (CONVERGED) or something else.

    >>> from thalweg.second_order.line_search import armijo
    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1.0])
    >>> descent = descended(armijo, f, theta, 2 * theta, torch.tensor([1.0]))
    >>> descent.delta, descent.steepest
    (tensor([-0.0100]), True)
    """
    value, largest = float(f(theta)), float(g.abs().max())
    if not (math.isfinite(value) and math.isfinite(largest)):
        return Descent(0.0, torch.zeros_like(g), value, g, Status.NOT_FINITE, False)
    hidden = False
    if d is not None:
        found = search(f, theta, d, value, g, lr * alpha, c1=c1, c2=c2)
        if found.alpha:
            return Descent(found.alpha, d, found.value, found.g, _status(found), False)
        promised = -lr * alpha * float(g @ d)
        hidden = promised >= 0 and at_rest(promised, value, theta)
    d = -g / largest if largest else -g
    found = search(f, theta, d, value, g, lr * first_step(theta, value, g), c1=c1, c2=c2)
    if found.alpha:
        return Descent(found.alpha, d, found.value, found.g, _status(found), True)
    return Descent(0.0, d, value, g, Status.CONVERGED if hidden else found.status, True)


def first_step(theta: Tensor, value: float, g: Tensor) -> float:
    """How far the largest component goes where nothing is known of the curvature (Hager and Zhang 2005, I0).

    It does not change with the scale of f.

    >>> first_step(torch.tensor([3.0, -2.0]), 1.0, torch.ones(2))
    0.03
    """
    at, largest, total = float(theta.abs().max()), float(g.abs().max()), length(g)
    return NEAR * (at or (abs(value) / total * (largest / total) if total else 0.0)) or 1.0


def _status(found: Found) -> Status:
    return found.status if found.status == Status.UNBOUNDED else Status.GOING_ON
