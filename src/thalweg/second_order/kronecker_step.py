"""A step of K-FAC or EKFAC, which differ in the metric that they make of the factors (after section 8.6)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.core.rule import Rule, clock, rule, zeros
from thalweg.core.status import Status, going
from thalweg.second_order.adaptive_damping import Damping, Objective, begun, gammas, judged
from thalweg.second_order.estimate import Choices, Estimate, estimate, nothing
from thalweg.second_order.hessian_free import part_of
from thalweg.second_order.linear import length
from thalweg.second_order.quadratic import clipped, stepped
from thalweg.second_order.radius import unset


class Metric(NamedTuple):
    """The factors, made ready: `propose(gamma)` is minus the gradient over them, damped; `keep(gamma)` remembers it."""

    propose: Callable[[float], Tensor]
    keep: Callable[[float], Tensor]


class Due(NamedTuple):
    """What a metric is to do at this step."""

    anew: bool  # make it of the factors; else go on with what was kept
    gamma: float  # for which that was kept
    fading: float  # what remains of the batches before


Made = Callable[[Estimate, Tensor | None, Tensor, Due, Choices], Metric]  # of what was kept, and g


def kronecker_rule(name: str, doc: str, make: Made, choices: Choices) -> Rule:
    """The rule of a metric, under its own name and description; `kept` is what the metric keeps of the factors."""

    @rule(per="vector", batched=False)
    def declared(
        g, theta, f, before=zeros, layout=nothing, statistics=nothing, kept=nothing,
        strength=unset, initial=unset, gamma=unset, t=clock, status=going,
        *, lr=1.0, momentum=0.95, damping=0.3, weight_decay=0.0, kl_clip=0.0, decay=0.95, every=20.0,
        estimate_every=1.0, adapt_every=5.0, omega=0.9, least=1e-6, burn_in=0.0, share=1.0, samples=1.0,
        max_dim=2048.0, seed=0.0,
    ):  # fmt: skip
        still, held = torch.zeros_like(theta), (before, layout, statistics, kept, strength, initial, gamma, t)
        objective = Objective(f, weight_decay, choices.average)
        value, g = objective(theta), g + weight_decay * theta
        if not (math.isfinite(value) and math.isfinite(length(g))):
            return still, *held, int(Status.NOT_FINITE)
        if not g.any():
            return still, *held, int(Status.CONVERGED)
        fading = _fading(t // estimate_every, decay)
        found = estimate(
            part_of(f, share, t, seed), theta, (layout, statistics), choices,
            due=t % estimate_every == 0 or t < burn_in,
            fading=fading,
            samples=samples, max_dim=max_dim, t=t, seed=seed,
        )  # fmt: skip
        if found is None:
            return still, *held, int(Status.NOT_FINITE)
        adaptive = Damping(strength, initial, gamma)
        adaptive = begun(adaptive, found.outputs, g, damping, weight_decay, choices.average)
        due = Due(t % every == 0 or found.changed or kept is None, adaptive.gamma, fading)
        metric = make(found, kept, g, due, choices)
        step = stepped(
            found.outputs, g, before, adaptive.strength + weight_decay, metric.propose,
            gammas(adaptive, weight_decay, t, omega) if adapt_every else [adaptive.gamma],
            lambda model: clipped(model, choices.step(model, lr, momentum), kl_clip, value),
            choices.average,
        )  # fmt: skip
        kept = metric.keep(step.gamma)
        if t < burn_in:
            delta, status = still, Status.GOING_ON
        else:
            delta, adaptive, status = judged(
                objective, theta, g, value, step, adaptive,
                due=adapt_every > 0 and (t + 1) % adapt_every == 0,
                factor=omega**adapt_every, least=least,
            )  # fmt: skip
        return delta, delta, found.layout, found.statistics, kept, *adaptive, t + 1, int(status)

    return replace(declared, name=name, doc=inspect.cleandoc(doc))


def _fading(count: float, decay: float) -> float:
    """A plain mean of the first batches, then one that fades."""
    return min(1 - 1 / (count + 1), decay)
