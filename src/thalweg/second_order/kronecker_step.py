"""A step of K-FAC or EKFAC, which differ in the metric that they make of the factors (after section 8.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.status import Status
from thalweg.second_order.adaptive_damping import Damping, Objective, begun, gammas, judged
from thalweg.second_order.estimate import Choices, Estimate, estimate
from thalweg.second_order.hessian_free import part_of
from thalweg.second_order.linear import length
from thalweg.second_order.quadratic import clipped, stepped


class Knobs(NamedTuple):
    """Those of both rules, in their order."""

    lr: float
    momentum: float
    damping: float
    weight_decay: float
    kl_clip: float
    decay: float
    every: float
    estimate_every: float
    adapt_every: float
    omega: float
    least: float
    burn_in: float
    share: float
    samples: float
    max_dim: float
    seed: float


class Memory(NamedTuple):
    """That of both rules, in their order, without the status."""

    before: Tensor  # (n,), the last step
    layout: Tensor | None  # (blocks, 7)
    statistics: Tensor | None  # the factors end to end
    kept: Tensor | None  # what the metric keeps of them
    strength: float
    initial: float
    gamma: float
    t: int


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


def kronecker_step(
    make: Made, choices: Choices, g: Tensor, theta: Tensor, f: Any, memory: Memory, knobs: Knobs
) -> tuple[Any, ...]:
    """The step, the new memory and the status."""
    t, still = memory.t, torch.zeros_like(theta)
    objective = Objective(f, knobs.weight_decay, choices.average)
    value, g = objective(theta), g + knobs.weight_decay * theta
    if not (math.isfinite(value) and math.isfinite(length(g))):
        return still, *memory, int(Status.NOT_FINITE)
    if not g.any():
        return still, *memory, int(Status.CONVERGED)
    fading = _fading(t // knobs.estimate_every, knobs.decay)
    found = estimate(
        part_of(f, knobs.share, t, knobs.seed), theta, (memory.layout, memory.statistics), choices,
        due=t % knobs.estimate_every == 0 or t < knobs.burn_in,
        fading=fading,
        samples=knobs.samples, max_dim=knobs.max_dim, t=t, seed=knobs.seed,
    )  # fmt: skip
    if found is None:
        return still, *memory, int(Status.NOT_FINITE)
    damping = Damping(memory.strength, memory.initial, memory.gamma)
    damping = begun(damping, found.outputs, g, knobs.damping, knobs.weight_decay, choices.average)
    due = Due(t % knobs.every == 0 or found.changed or memory.kept is None, damping.gamma, fading)
    metric = make(found, memory.kept, g, due, choices)
    step = stepped(
        found.outputs, g, memory.before, damping.strength + knobs.weight_decay, metric.propose,
        gammas(damping, knobs.weight_decay, t, knobs.omega) if knobs.adapt_every else [damping.gamma],
        lambda model: clipped(model, choices.step(model, knobs.lr, knobs.momentum), knobs.kl_clip, value),
        choices.average,
    )  # fmt: skip
    kept = metric.keep(step.gamma)
    if t < knobs.burn_in:
        delta, status = still, Status.GOING_ON
    else:
        delta, damping, status = judged(
            objective, theta, g, value, step, damping,
            due=knobs.adapt_every > 0 and (t + 1) % knobs.adapt_every == 0,
            factor=knobs.omega**knobs.adapt_every, least=knobs.least,
        )  # fmt: skip
    return delta, delta, found.layout, found.statistics, kept, *damping, t + 1, int(status)


def _fading(count: float, decay: float) -> float:
    """A plain mean of the first batches, then one that fades."""
    return min(1 - 1 / (count + 1), decay)
