"""EKFAC (after section 8.6)."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.rule import Rule
from thalweg.second_order.blocks import cut
from thalweg.second_order.eigenbasis import (
    bases_of,
    carried,
    cut_bases,
    cut_moments,
    eigenvalues,
    joined_bases,
    second_moments,
    size_of_moments,
    solved,
)
from thalweg.second_order.estimate import Choices, Estimate
from thalweg.second_order.kronecker import Sharing, expand
from thalweg.second_order.kronecker_step import Due, Metric, kronecker_rule
from thalweg.second_order.processes import Average, alone
from thalweg.second_order.quadratic import Length, by_model
from thalweg.second_order.treatment import Others, refuse

DESCRIPTION = """
EKFAC (George et al. 2018, Algorithm 1): K-FAC whose eigenvalues are second moments of gradients.

Every `every` steps the eigenvectors of K-FAC's factors are found; in their basis the diagonal of the Fisher
matrix is estimated with each estimate of the factors, as a mean that fades as theirs does, and carried over to
the next basis. gamma² is added to it. All else is as in `kfac`, of which this costs a little more. The paper
has steps of lr with a fixed damping, finds the basis from one batch, and begins the mean anew in each basis: on
small batches that was too noisy.

>>> from thalweg import Batch, Network, descend
>>> network = Network(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss)
>>> batch = Batch(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0], [6.0]]))
>>> for _ in descend(network, ekfac, [batch] * 5, damping=0.0):
...     pass
>>> network.theta.round(decimals=3)
tensor([1., 2.])
"""


def ekfac_with(
    step: Length = by_model, sharing: Sharing = expand, others: Others = refuse, average: Average = alone
) -> Rule:
    """EKFAC with other choices, which are those of `kfac_with`.

    >>> from thalweg.second_order.treatment import diagonal
    >>> ekfac_with(others=diagonal).name
    'ekfac'
    """
    return kronecker_rule("ekfac", DESCRIPTION, rotated, Choices(step, sharing, others, average))


def rotated(found: Estimate, kept: Tensor | None, g: Tensor, due: Due, choices: Choices) -> Metric:
    """The eigenbases, and the second moments in them, which are what is kept."""
    factors = cut(found.statistics, found.blocks)
    if kept is None or found.changed:
        bases = bases_of(factors)
        moments = eigenvalues(factors, bases)
    else:
        size = len(kept) - size_of_moments(found.blocks)
        bases, moments = cut_bases(kept[:size], found.blocks), cut_moments(kept[size:], found.blocks)
        if due.anew:
            old, bases = bases, bases_of(factors)
            moments = [carried(m, *pair) for m, *pair in zip(moments, old, bases, strict=True)]
    if found.batch is not None:
        place = {block: i for i, block in enumerate(found.blocks)}  # this batch may not have reached all
        those = [place[layer.block] for layer in found.batch.layers]
        for i, new in zip(those, second_moments(found.batch, [bases[i] for i in those]), strict=True):
            moments[i] = due.fading * moments[i] + (1 - due.fading) * choices.average(new)
    flat = torch.cat([joined_bases(bases, g), *(x.reshape(-1) for x in moments)])
    return Metric(lambda gamma: -solved(found.blocks, bases, moments, g, gamma * gamma), lambda gamma: flat)


ekfac = ekfac_with()
