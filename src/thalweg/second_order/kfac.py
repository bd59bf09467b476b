"""K-FAC (after section 8.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.core.rule import Rule, clock, rule, zeros
from thalweg.core.status import Status, going
from thalweg.second_order.adaptive_damping import Damping, Objective, begun, gammas, judged
from thalweg.second_order.blocks import cut, joined
from thalweg.second_order.estimate import Choices, estimate, nothing
from thalweg.second_order.kronecker import Others, Sharing, expand, refuse
from thalweg.second_order.linear import length
from thalweg.second_order.processes import Average, alone
from thalweg.second_order.quadratic import Length, by_model, clipped, stepped
from thalweg.second_order.radius import unset
from thalweg.second_order.tikhonov import inverses, solved


def kfac_with(
    step: Length = by_model, sharing: Sharing = expand, others: Others = refuse, average: Average = alone
) -> Rule:
    """K-FAC with other choices: how far it goes, what it makes of shared weights and of parameters without factors.

    `step` is `by_model` or `by_lr`; `sharing` is `expand` or `reduce`; `others` is `refuse`, `diagonal` or `scalar`;
    `average` is `over_processes` where each process of torch.distributed has a part of the batch and the mean gradient.

    >>> from thalweg.second_order.quadratic import by_lr
    >>> kfac_with(step=by_lr).name
    'kfac'
    """
    choices = Choices(step, sharing, others, average)

    @rule(per="vector", batched=False)
    def kfac(
        g, theta, f, before=zeros, layout=nothing, statistics=nothing, inverse=nothing,
        strength=unset, first=unset, gamma=unset, t=clock, status=going,
        *, lr=1.0, momentum=0.95, damping=0.3, weight_decay=0.0, kl_clip=0.0, decay=0.95, every=20.0,
        estimate_every=1.0, adapt_every=5.0, omega=0.95, least=1e-6, samples=1.0, max_dim=2048.0, seed=0.0,
    ):  # fmt: skip
        """K-FAC (Martens and Grosse 2015, Algorithm 2): minus the gradient over the Fisher matrix, a block a layer.

        >>> from thalweg import Batch, Network
        >>> from thalweg.core.derivatives import value_and_gradient
        >>> network = Network(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss)
        >>> f = network.on(Batch(torch.eye(2), torch.ones(2, 1)))
        >>> value, g = value_and_gradient(f, network.theta)
        >>> seen = {"g": g, "theta": network.theta, "f": f}
        >>> delta, _ = kfac.step(seen, kfac.start(network.theta), kfac.knobs)
        >>> bool(f(network.theta + delta) < value)
        True
        """
        memory = (layout, statistics, inverse, strength, first, gamma)
        still, objective = torch.zeros_like(theta), Objective(f, weight_decay, average)
        value, g = objective(theta), g + weight_decay * theta
        if not (math.isfinite(value) and math.isfinite(length(g))):
            return still, before, *memory, t, int(Status.NOT_FINITE)
        if not g.any():
            return still, before, *memory, t, int(Status.CONVERGED)
        estimates = t // estimate_every
        found = estimate(
            f, theta, (layout, statistics), choices, due=t % estimate_every == 0,
            fading=min(1 - 1 / (estimates + 1), decay), samples=samples, max_dim=max_dim, t=t, seed=seed,
        )  # fmt: skip
        if found is None:
            return still, before, *memory, t, int(Status.NOT_FINITE)
        held = begun(Damping(strength, first, gamma), found.outputs, g, damping, weight_decay, average)
        factors = cut(found.statistics, found.blocks)
        made = {} if found.changed or inverse is None or t % every == 0 else {gamma: cut(inverse, found.blocks)}

        def propose(gamma: float) -> Tensor:
            if gamma not in made:
                made[gamma] = inverses(factors, gamma * gamma)
            return -solved(found.blocks, made[gamma], g, gamma * gamma)

        way = stepped(
            found.outputs, g, before, held.strength + weight_decay, propose,
            gammas(held, weight_decay, t, omega) if adapt_every else [held.gamma],
            lambda model: clipped(model, step(model, lr, momentum), kl_clip, value), average,
        )  # fmt: skip
        delta, held, status = judged(
            objective, theta, g, value, way, held,
            due=bool(adapt_every) and (t + 1) % adapt_every == 0, factor=omega**adapt_every, least=least,
        )  # fmt: skip
        inverse = joined(made[way.gamma], theta)
        return delta, delta, found.layout, found.statistics, inverse, *held, t + 1, int(status)

    return kfac


kfac = kfac_with()
