"""EKFAC (after section 8.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.core.rule import Rule, clock, rule, zeros
from thalweg.core.status import Status, going
from thalweg.second_order.adaptive_damping import Damping, Objective, begun, gammas, judged
from thalweg.second_order.blocks import cut
from thalweg.second_order.eigenbasis import (
    bases_of,
    cut_bases,
    cut_moments,
    eigenvalues,
    joined_bases,
    second_moments,
    solved,
)
from thalweg.second_order.estimate import Choices, estimate, nothing
from thalweg.second_order.kronecker import Others, Sharing, expand, refuse
from thalweg.second_order.linear import length
from thalweg.second_order.processes import Average, alone
from thalweg.second_order.quadratic import Length, by_model, clipped, stepped
from thalweg.second_order.radius import unset


def ekfac_with(
    step: Length = by_model, sharing: Sharing = expand, others: Others = refuse, average: Average = alone
) -> Rule:
    """EKFAC with other choices, which are those of `kfac_with`.

    >>> from thalweg.second_order.quadratic import by_lr
    >>> ekfac_with(step=by_lr).name
    'ekfac'
    """
    choices = Choices(step, sharing, others, average)

    @rule(per="vector", batched=False)
    def ekfac(
        g, theta, f, before=zeros, layout=nothing, statistics=nothing, basis=nothing, moments=nothing,
        strength=unset, first=unset, gamma=unset, t=clock, status=going,
        *, lr=1.0, momentum=0.95, damping=0.3, weight_decay=0.0, kl_clip=0.0, decay=0.95, every=20.0,
        estimate_every=1.0, adapt_every=5.0, omega=0.95, least=1e-6, samples=1.0, max_dim=2048.0, seed=0.0,
    ):  # fmt: skip
        """EKFAC (George et al. 2018): K-FAC's eigenvectors, and second moments of gradients in them as eigenvalues.

        The factors are estimated, and the step sized and damped, as in kfac; every `every` steps their eigenvectors are
        found anew, and the mean of the second moments begun anew from the factors' eigenvalues.

        >>> from thalweg import Batch, Network
        >>> from thalweg.core.derivatives import value_and_gradient
        >>> network = Network(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss)
        >>> f = network.on(Batch(torch.eye(2), torch.ones(2, 1)))
        >>> value, g = value_and_gradient(f, network.theta)
        >>> seen = {"g": g, "theta": network.theta, "f": f}
        >>> delta, _ = ekfac.step(seen, ekfac.start(network.theta), ekfac.knobs)
        >>> bool(f(network.theta + delta) < value)
        True
        """
        memory = (layout, statistics, basis, moments, strength, first, gamma)
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
        if found.changed or basis is None or t % every == 0:
            factors = cut(found.statistics, found.blocks)
            bases = bases_of(factors)
            basis = joined_bases(bases, theta)
            moments = torch.cat([x.reshape(-1) for x in eigenvalues(factors, bases)])
        else:
            bases = cut_bases(basis, found.blocks)
        if found.batch is not None:
            new = torch.cat([x.reshape(-1) for x in second_moments(found.batch, bases)])
            fading = min(1 - 1 / ((t % every) // estimate_every + 1), decay)  # a new basis, a new mean
            moments = fading * moments + (1 - fading) * new
        diagonal = cut_moments(moments, found.blocks)

        def propose(gamma: float) -> Tensor:
            return -solved(found.blocks, bases, diagonal, g, gamma * gamma)

        way = stepped(
            found.outputs, g, before, held.strength + weight_decay, propose,
            gammas(held, weight_decay, t, omega) if adapt_every else [held.gamma],
            lambda model: clipped(model, step(model, lr, momentum), kl_clip, value), average,
        )  # fmt: skip
        delta, held, status = judged(
            objective, theta, g, value, way, held,
            due=bool(adapt_every) and (t + 1) % adapt_every == 0, factor=omega**adapt_every, least=least,
        )  # fmt: skip
        return delta, delta, found.layout, found.statistics, basis, moments, *held, t + 1, int(status)

    return ekfac


ekfac = ekfac_with()
