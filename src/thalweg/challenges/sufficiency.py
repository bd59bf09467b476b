"""Whether a batch is enough (section 8.1.3): tests of how far its gradient is off the exact one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from thalweg.challenges.inexact import TINY, Draws, Moments, exp_of, gradient_noise, gram_of, moments_of
from thalweg.core.measured import Measured, jackknife

THETA, NU = 0.9, math.tan(math.radians(80))  # of the norm and inner-product tests, and of the orthogonality test


class Sufficiency(NamedTuple):
    """By how much a batch's gradient is off, over |G|: it is good enough where they are under THETA, THETA and NU."""

    norm: Measured  # in all
    inner: Measured  # along G
    orthogonal: Measured  # across


def sufficiency(draws: Draws, batch_size: int) -> Sufficiency:
    """The norm test (Byrd et al. 2012), and the inner-product and orthogonality tests (Bollapragada et al. 2018).

    >>> from thalweg.challenges.inexact import MeanEstimation, microbatch_gradients
    >>> from thalweg.core.network import Network
    >>> problem = MeanEstimation(1.0)
    >>> draws = microbatch_gradients(Network(problem, problem.loss), [problem.drawn(4096, seed=0)], parts=64)
    >>> print(sufficiency(draws, batch_size=4).norm)  # of the root of 5.3125/4
    1.12 (0.971 to 1.29)
    """
    gram, share = gram_of(draws), draws.size / batch_size
    noise = gradient_noise(draws, batch_size)

    def inner(m: Moments) -> float:
        return math.log(max(share * m.inner, TINY)) / 2 - math.log(max(m.squared, TINY))

    def orthogonal(m: Moments) -> float:
        squared = max(m.squared, TINY)
        return math.log(max(share * (m.trace - m.inner / squared), TINY)) / 2 - math.log(squared) / 2

    def measured(figure: Callable[[Moments], float]) -> Measured:
        draw = torch.arange(len(gram))
        found = jackknife(lambda kept: figure(moments_of(gram[kept][:, kept])), draw).through(exp_of)
        whole = exp_of(figure(moments_of(gram)))
        if noise.squared.low > 0:
            return found._replace(value=whole)
        low = exp_of(figure(moments_of(gram)._replace(squared=noise.squared.high)))
        return Measured(whole if noise.squared.value else math.inf, min(low, whole), math.inf, len(gram))

    norm = noise.scale.through(lambda scale: math.sqrt(scale / batch_size))
    return Sufficiency(norm, measured(inner), measured(orthogonal))
