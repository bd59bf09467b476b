"""K-FAC (after section 8.6)."""

from __future__ import annotations

from torch import Tensor

from thalweg.core.rule import Rule
from thalweg.second_order.blocks import Factors, cut, joined
from thalweg.second_order.estimate import Choices, Estimate
from thalweg.second_order.kronecker import Sharing, expand
from thalweg.second_order.kronecker_step import Due, Metric, kronecker_rule
from thalweg.second_order.processes import Average, alone
from thalweg.second_order.quadratic import Length, by_model
from thalweg.second_order.tikhonov import inverses, solved
from thalweg.second_order.treatment import Others, refuse

DESCRIPTION = """
K-FAC (Martens and Grosse 2015, Algorithm 2): the gradient over the Fisher matrix, which is taken in factors.

Each layer's block is A ⊗ G, A the mean of what comes in times itself, G of the gradients at what goes out; see
`treatment.py` for all kinds of layers. G is of the true Fisher matrix, for `samples` products with random signs
an example, or exactly (0): not the empirical one. Both are estimated every `estimate_every` steps, on `share`
of the batch, as means that fade by `decay`, and inverted every `every` steps after gamma² was added, split
between them.

The step is lr times the best combination of that direction and the step before, by a quadratic model with the
exact Fisher matrix; of the latter at most `momentum`. The model is damped by strength, at first `damping` times
the curvature along g, then by Levenberg's and Marquardt's rule: every `adapt_every` steps it is divided or
multiplied by omega^adapt_every (0: neither it nor gamma adapts). It does not fall below `least` of the first.
The model's divergence is at most `kl_clip` (0: any), and its promise at most f. `weight_decay` is that of a
penalty on f. In the first `burn_in` steps the factors are estimated and nothing moves.

Martens and Grosse have omega = 0.95; 0.9 was faster on the autoencoder of their kind that was tried, where
estimate_every = 4 saved time too (but not where batches come in a fixed order: it then sees some of them only).
They let gamma go as it will: the bound from above, the strength at first, was needed there.

Raises CurvatureError for an f without a module, of a loss that is not known as a likelihood, or with parameters
without factors, as `others` says. Sides longer than max_dim have diagonal factors.

>>> import torch
>>> from thalweg import Batch, Network, descend
>>> network = Network(torch.nn.Linear(2, 1, bias=False), torch.nn.functional.mse_loss)
>>> batch = Batch(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0], [6.0]]))
>>> for _ in descend(network, kfac, [batch] * 5, damping=0.0):
...     pass
>>> network.theta.round(decimals=3)
tensor([1., 2.])
"""


def kfac_with(
    step: Length = by_model, sharing: Sharing = expand, others: Others = refuse, average: Average = alone
) -> Rule:
    """K-FAC with other choices.

    How far it goes: `by_model`, or `by_lr`. What it makes of a weight that is used at several positions: `expand`, or
    `reduce`. Of parameters without Kronecker factors: `refuse`, `diagonal` or `scalar`. And `over_processes` averages
    what is found of a batch over the processes of torch.distributed, of which each has a part of it, and g the mean.

    >>> from thalweg.second_order.quadratic import by_lr
    >>> kfac_with(step=by_lr).name
    'kfac'
    """
    return kronecker_rule("kfac", DESCRIPTION, inverted, Choices(step, sharing, others, average))


def inverted(found: Estimate, kept: Tensor | None, g: Tensor, due: Due, choices: Choices) -> Metric:
    """The inverses of the damped factors, which are what is kept: others for each gamma."""
    factors = cut(found.statistics, found.blocks)
    made: dict[float, Factors] = {}
    if kept is not None and not due.anew:
        made[due.gamma] = cut(kept, found.blocks)

    def of(gamma: float) -> Factors:
        if gamma not in made:
            made[gamma] = inverses(factors, gamma * gamma)
        return made[gamma]

    return Metric(lambda gamma: -solved(found.blocks, of(gamma), g, gamma * gamma), lambda gamma: joined(of(gamma), g))


kfac = kfac_with()
