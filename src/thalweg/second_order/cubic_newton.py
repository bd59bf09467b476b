"""Newton's method with cubic regularisation (after section 8.6.1)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from thalweg.core.derivatives import hessian_at
from thalweg.core.rule import rule
from thalweg.core.status import Status, going
from thalweg.second_order.krylov import Krylov, krylov
from thalweg.second_order.linear import length
from thalweg.second_order.radius import LARGEST, forcing, natural_radius, trusted, unset
from thalweg.second_order.secular import cubic, secular
from thalweg.second_order.trust_region import MOST, Step

HEAVIER_BELOW, LIGHTER_ABOVE = 0.1, 0.75  # of the ratio of what f did to what the model said
HEAVIER, LIGHTER = 10.0, 4.0
ROUGHEST = 0.1  # of |g|: what the Krylov space may leave of it


@rule(per="vector", batched=False)
def cubic_newton(g, theta, f, lightness=unset, before=unset, status=going, *, sigma=1.0):
    """Newton's method with adaptive cubic regularisation, ARC (Cartis, Gould and Toint 2011); products only.

    Algorithm 2.1: the step minimises gᵀs + sᵀHs/2 + sigma |s|³/3 in the Krylov space of H and g, of up to 100
    dimensions (n where that is less: then it is exact), and sigma rises where f disagrees. Of all Newton methods it has
    the best guarantee: |g| <= e after some e^(-3/2) steps. The first sigma is the knob times what shortens the Cauchy
    step by a third or so; what is remembered is one over it. A status as trust_ncg's.

    >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 0.0])
    >>> cubic_newton(torch.tensor([4.0, 0.0]), theta, f, 0.0, 0.0, -1, sigma=1e-6)[0]
    tensor([-2.0000, 0.0000])
    """
    value, size = float(f(theta)), length(g)
    if not (math.isfinite(value) and math.isfinite(size)):
        return torch.zeros_like(theta), lightness, before, int(Status.NOT_FINITE)
    H = hessian_at(f, theta).apply
    natural = natural_radius(H, g, theta)
    first = lightness or natural * natural / (sigma * size or 1.0)

    @functools.cache
    def space(rtol: float) -> Krylov | None:  # the same for every sigma; the lightest is what asks most of it
        def enough(T: Tensor, c: Tensor, left: float) -> bool:
            return left * abs(float(within(T, c, 1 / first)[0][-1])) <= rtol * size

        return krylov(H, g, MOST, enough, rtol)

    def solve(lightness: float, rtol: float) -> Step:
        found = space(rtol)
        if found is None:
            return Step(torch.zeros_like(g), 0.0, False, Status.NOT_FINITE)
        s, predicted, restrained = within(found.T, found.c, 1 / lightness)
        return Step(found.Q.T @ s.to(g), predicted, restrained)

    p, lightness, status = trusted(f, theta, g, first, forcing(size, before, ROUGHEST), solve, reweighed)
    return p, lightness, size, int(status)


def within(T: Tensor, c: Tensor, sigma: float) -> tuple[Tensor, float, bool]:
    """The minimum of cᵀs + sᵀTs/2 + sigma |s|³/3, by how much it falls there, and whether the cube shortens s much.

    >>> s, falls, shortened = within(torch.tensor([[2.0]]).double(), torch.tensor([4.0]).double(), 2.0)
    >>> round(float(s), 6), round(falls, 6), shortened
    (-1.0, 2.333333, True)
    """
    w, V = torch.linalg.eigh(T)
    g = V.T @ c
    s, multiplier = secular(w, g, cubic(sigma))
    square = float(s @ s)
    predicted = float(-(g @ s)) / 2 + multiplier * square / 6
    return V @ s, predicted, multiplier * square > 0.1 * float(s @ (w * s))


def reweighed(lightness: float, ratio: float, step: Step) -> float:
    """The next one over sigma, after a step whose agreement was `ratio`.

    >>> step = Step(torch.tensor([0.8]), 1.0, on_boundary=True)
    >>> [reweighed(1.0, ratio, step) for ratio in (0.05, 0.5, 0.9)]
    [0.1, 1.0, 4.0]
    """
    if ratio < HEAVIER_BELOW:
        return lightness / HEAVIER
    return min(LIGHTER * lightness, LARGEST) if ratio > LIGHTER_ABOVE else lightness
