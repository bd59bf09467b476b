"""Where rounding hides what a step does to f."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import value_and_gradient
from thalweg.second_order.linear import length

ROUNDING = 10  # in units of eps |f|: a smaller change of f is not seen


def unseen(value: float, theta: Tensor) -> float:
    """The change of f, worth `value` at theta, that rounding hides.

    >>> unseen(2.0, torch.zeros(1)) < 1e-5
    True
    """
    return ROUNDING * torch.finfo(theta.dtype).eps * abs(value)


def at_rest(promised: float, value: float, theta: Tensor) -> bool:
    """Whether a failed promise of a decrease of f is explained by rounding, which sums of many terms add up.

    >>> at_rest(1e-6, 1.0, torch.zeros(1)), at_rest(1e-2, 1.0, torch.zeros(1))
    (True, False)
    """
    eps: float = torch.finfo(theta.dtype).eps
    return promised <= math.pow(eps, 2 / 3) * abs(value)


def last_step(f: Any, theta: Tensor, p: Tensor, value: float, g: Tensor) -> Tensor:
    """p, where f does not rise by more than rounding and the gradient shrinks, else zero.

    What a model proposes whose promise f can no longer show: near a minimum it still brings the gradient down.

    >>> f, theta = (lambda x: (x * x).sum()), torch.tensor([1e-3])
    >>> last_step(f, theta, -theta, 1e-6, 2 * theta), last_step(f, theta, -3 * theta, 1e-6, 2 * theta)
    (tensor([-0.0010]), tensor([0.]))
    """
    trial, after = value_and_gradient(f, theta + p)
    better = float(trial) <= value + unseen(value, theta) and length(after) < length(g)
    return p if better else torch.zeros_like(theta)
