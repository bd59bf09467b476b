"""Nonlinear conjugate gradients (section 8.6.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from inspect import getdoc

from torch import Tensor

from thalweg.core.rule import Rule, Start, clock, one, rule, zeros
from thalweg.core.status import going
from thalweg.second_order import betas
from thalweg.second_order.descent import descended
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.linear import length

Beta = Callable[[Tensor, Tensor, Tensor], Tensor]

RESTART = 6  # times n steps (Hager and Zhang 2005); anew after n, fewer problems are solved
POWELL = 0.2  # of |g|²: what the product of two gradients in turn is at most where they are nearly orthogonal
UPHILL = 1e-8  # the cosine below which a direction does not descend
flat = Start("flat", lambda theta, knobs: 0.0, scalar=True)


def conjugate_gradients_with(beta: Beta, search: Search = wolfe, *, powell: bool = True) -> Rule:
    """Nonlinear conjugate gradients with another formula for beta (see `betas`), or another line search.

    `powell`: whether it also begins anew where two gradients in turn are far from orthogonal.

    >>> from thalweg.second_order.line_search import armijo
    >>> conjugate_gradients_with(betas.polak_ribiere, armijo).name
    'polak_ribiere'
    """

    @rule(per="vector", batched=False)
    def conjugate(
        g, theta, f, d=zeros, before=zeros, t=clock, unit=one, promise=flat, status=going,
        *, lr=1.0, c1=1e-4, c2=0.1,
    ):  # fmt: skip
        """The direction is d = -g + beta d, over the whole vector; a line search goes along it.

        The first step tried is lr times that which promises, to first order, what the last one did. It begins anew, at
        d = -g, after 6 n steps, where d does not descend and, but for Hager and Zhang's, where g is far from orthogonal
        to the gradient before (Powell 1977); t counts the steps since then. d and that gradient are remembered in
        units of its largest component, so that squares stay in the range of float32.

        Where the line search fails that is forgotten and the steepest descent searched; where that fails too, the
        status is why: LINE_SEARCH_FAILED, CONVERGED where rounding hides what f does, UNBOUNDED, NOT_FINITE.

        >>> import torch
        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 1.0])
        >>> rule = conjugate_gradients_with(betas.polak_ribiere)
        >>> memory = rule.start(theta)
        >>> for _ in range(6):
        ...     g = torch.stack([2 * (theta[0] - 1), 200 * theta[1]])
        ...     delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, rule.knobs)
        ...     theta = theta + delta
        >>> torch.testing.assert_close(theta, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0.0)
        """
        now = float(g.abs().max()) or 1.0
        a, along, first = g / now, None, 1.0
        if t:
            share = unit / now
            along = conjugated(beta, a, share * before, share * d, powell) if t < RESTART * len(g) else None
            t, along = (0, -a) if along is None else (t, along)
            first = promise / (float(g @ along) or promise)
        step = descended(search, f, theta, g, along, first, lr=lr, c1=c1, c2=c2)
        if not step.alpha:
            return step.delta, d, before, 0, 1.0, 0.0, int(step.status)
        t = 1 if step.steepest else t + 1
        return step.delta, step.d, a, t, now, step.alpha * float(g @ step.d), int(step.status)

    formula = (getdoc(beta) or beta.__name__).partition("\n\n>>>")[0]
    return replace(conjugate, name=beta.__name__, doc=f"{formula}\n\n{conjugate.doc}")


def conjugated(beta: Beta, g: Tensor, before: Tensor, d: Tensor, powell: bool) -> Tensor | None:
    """-g + beta d; None where it is better to begin anew.

    >>> import torch
    >>> g, before = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    >>> conjugated(betas.fletcher_reeves, g, before, -before, True)
    tensor([-4., -2.])
    """
    share = float(beta(g, before, d))
    if not math.isfinite(share) or share == 0.0 or (powell and abs(float(g @ before)) >= POWELL * float(g @ g)):
        return None
    along = share * d - g
    return along if float(g @ along) < -UPHILL * length(g) * length(along) else None


fletcher_reeves = conjugate_gradients_with(betas.fletcher_reeves)
polak_ribiere = conjugate_gradients_with(betas.polak_ribiere)
hestenes_stiefel = conjugate_gradients_with(betas.hestenes_stiefel)
dai_yuan = conjugate_gradients_with(betas.dai_yuan)
hager_zhang_cg = conjugate_gradients_with(betas.hager_zhang_cg, powell=False)
