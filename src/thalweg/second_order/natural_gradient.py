"""The natural gradient (after section 8.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from thalweg.core.rule import Rule, rule
from thalweg.core.status import Status, going
from thalweg.second_order.adaptive_damping import eased
from thalweg.second_order.fisher import fisher_at
from thalweg.second_order.linear import conjugate_gradients, length
from thalweg.second_order.radius import agreement, natural_radius, unset
from thalweg.second_order.rounding import last_step, unseen

Scale = Callable[[float, float, float], float]  # of lr, kl, and the divergence of the whole direction


def fixed(lr: float, kl: float, divergence: float) -> float:
    """lr, or less where the step would diverge by more than kl (0: any).

    >>> fixed(1.0, 0.0, 4.0), fixed(1.0, 1.0, 4.0)
    (1.0, 0.5)
    """
    return min(lr, math.sqrt(kl / divergence)) if kl and divergence > 0 else lr


def normalised(lr: float, kl: float, divergence: float) -> float:
    """lr times what makes every step diverge by kl, where the gradient is large and where it is small.

    >>> normalised(1.0, 1.0, 4.0), normalised(0.1, 1.0, 0.01)
    (0.5, 1.0)
    """
    return lr * math.sqrt(kl / divergence) if divergence > 0 else lr


def natural_gradient_with(scale: Scale, **defaults: float) -> Rule:
    """The natural gradient with another length of its steps: `fixed`, or `normalised`.

    >>> natural_gradient_with(normalised, kl=0.01).knobs["kl"]
    0.01
    """

    @rule(per="vector", batched=False)
    def natural_gradient(
        g, theta, f, strength=unset, status=going,
        *, lr=1.0, damping=0.1, omega=2 / 3, kl=0.0, rtol=1e-2, most=100.0,
    ):  # fmt: skip
        """The natural gradient (Amari 1998): lr times -(F + strength)⁻¹g, F the Fisher matrix of the batch.

        Solved by conjugate gradients on exact products, until rtol |g| is left, at most `most` iterations (Pascanu and
        Bengio 2014). With damping = 0 the path of small steps does not depend on how the model is parametrised. The
        strength of the damping is at first `damping` times the curvature along g, then by Levenberg's and Marquardt's
        rule: times omega where f falls as the quadratic model says, over omega where it does not (1: it stays); a step
        on which f rises is refused. With kl, a step whose divergence, half of dFd, would be larger is shortened to it;
        `natural_gradient_with(normalised, kl=...)` makes all steps as long.

        Raises CurvatureError for an f whose loss is not known to be a negative log-likelihood.

        >>> from thalweg.core.objective import LeastSquares
        >>> f, theta = LeastSquares(lambda x: torch.stack([x[0] - 1, 3 * x[1]])), torch.tensor([3.0, 1.0])
        >>> seen = {"g": torch.tensor([2.0, 9.0]), "theta": theta, "f": f}
        >>> knobs = natural_gradient.with_defaults({"damping": 0.0, "rtol": 1e-6})
        >>> (theta + natural_gradient.step(seen, natural_gradient.start(theta), knobs)[0]).round(decimals=4)
        tensor([1., 0.])
        """
        value, size, still = float(f(theta)), length(g), torch.zeros_like(theta)
        if not (math.isfinite(value) and math.isfinite(size)):
            return still, strength, int(Status.NOT_FINITE)
        if size == 0:
            return still, strength, int(Status.CONVERGED)
        F = fisher_at(f, theta).apply
        strength = strength or damping * size / natural_radius(F, g, theta)
        d = conjugate_gradients(lambda u: F(u) + strength * u, -g, rtol=rtol, most=int(most)).x
        curvature = float(d @ F(d))
        if not (math.isfinite(curvature) and curvature >= 0):
            return still, strength, int(Status.NOT_FINITE)
        alpha = scale(lr, kl, curvature / 2)
        delta = alpha * d
        promised = -alpha * float(g @ d) - alpha * alpha * (curvature + strength * float(d @ d)) / 2
        if not -alpha * float(g @ d) / 2 > unseen(value, theta):
            return last_step(f, theta, delta, value, g), strength, int(Status.CONVERGED)
        if omega < 1:
            after = float(f(theta + delta))
            strength = eased(strength, agreement(value, after, abs(promised)), omega)
            delta = delta if after < value else still
        return delta, strength, int(Status.GOING_ON)

    return replace(natural_gradient, knobs=natural_gradient.with_defaults(defaults))


natural_gradient = natural_gradient_with(fixed)
