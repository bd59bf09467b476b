"""Stochastic L-BFGS (after section 8.6.3)."""

from __future__ import annotations

from torch import Tensor

from thalweg.core.rule import Rule, rule
from thalweg.core.status import going
from thalweg.second_order.descent import descended
from thalweg.second_order.lbfgs import pairs, remembered, two_loop, weights
from thalweg.second_order.line_search import Search, armijo


def stochastic_lbfgs_with(search: Search) -> Rule:
    """Stochastic L-BFGS with another rule for the step: `fixed` for lr, the first step but one on.

    >>> from thalweg.second_order.line_search import fixed
    >>> list(stochastic_lbfgs_with(fixed).remembers)
    ['S', 'Y', 'rho', 'status']
    """

    @rule(per="vector", batched=False)
    def stochastic_lbfgs(
        g, theta, f, S=pairs, Y=pairs, rho=weights, status=going,
        *, lr=1.0, c1=1e-4, damping=0.2, history_size=10.0,
    ):  # fmt: skip
        """L-BFGS for a new batch each step (Berahas, Nocedal and Takáč 2016, with full overlap), with Powell's damping.

        It is `lbfgs` with three differences. The step is lr, or the first of ever shorter ones at which the batch's
        loss falls by Armijo's condition: what one batch says of slopes is not worth a search. The change of the
        gradient is between theta and the end of the step on the same batch, so that a pair is of one function; that
        gradient is one more a step. And as nothing makes its curvature positive, it is damped: mixed with what H
        expected, until the curvature is `damping` times what H expected of it (Powell 1978). Where the batch's loss
        does not fall the pairs are forgotten; the status says why, and the next batch goes on.

        >>> import torch
        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 1.0])
        >>> memory = stochastic_lbfgs.start(theta)
        >>> for _ in range(12):
        ...     g = torch.stack([2 * (theta[0] - 1), 200 * theta[1]])
        ...     delta, memory = stochastic_lbfgs.step({"g": g, "theta": theta, "f": f}, memory, stochastic_lbfgs.knobs)
        ...     theta = theta + delta
        >>> torch.testing.assert_close(theta, torch.tensor([1.0, 0.0]), atol=1e-2, rtol=0.0)
        """
        d = -two_loop(g, S, Y, rho) if rho[-1] else None
        step = descended(search, f, theta, g, d, lr=lr, c1=c1)
        y = step.g - g
        if step.steepest:
            S, Y, rho = S.new_zeros(S.shape), Y.new_zeros(Y.shape), rho.new_zeros(rho.shape)
        elif step.alpha:
            y = damped(step.delta, y, -step.alpha * g, damping)
        return step.delta, *remembered(S, Y, rho, step.delta, y), int(step.status)

    return stochastic_lbfgs


def damped(s: Tensor, y: Tensor, expected: Tensor, damping: float) -> Tensor:
    """y mixed with what was `expected` of it, Bs, to the curvature s'y = damping s'Bs where it has less.

    >>> import torch
    >>> damped(torch.ones(1), torch.tensor([-1.0]), torch.ones(1), 0.2)
    tensor([0.2000])
    """
    curvature, usual = float(s @ y), float(s @ expected)
    if curvature >= damping * usual:
        return y
    share = (1 - damping) * usual / (usual - curvature)
    return share * y + (1 - share) * expected


stochastic_lbfgs = stochastic_lbfgs_with(armijo)
