"""L-BFGS (section 8.6.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.core.rule import Rule, Start, rule
from thalweg.core.status import going
from thalweg.second_order.descent import descended
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.linear import length

pairs = Start("pairs", lambda theta, knobs: theta.new_zeros(int(knobs["history_size"]), len(theta)))
weights = Start("weights", lambda theta, knobs: theta.new_zeros(int(knobs["history_size"])))


def lbfgs_with(search: Search) -> Rule:
    """L-BFGS with another line search: `fixed` for steps of lr that are not searched.

    >>> from thalweg.second_order.line_search import fixed
    >>> list(lbfgs_with(fixed).remembers)
    ['S', 'Y', 'rho', 'status']
    """

    @rule(per="vector", batched=False)
    def lbfgs(
        g, theta, f, S=pairs, Y=pairs, rho=weights, status=going,
        *, lr=1.0, c1=1e-4, c2=0.9, history_size=10.0,
    ):  # fmt: skip
        """L-BFGS (section 8.6.3; Nocedal and Wright 2006, Algorithm 7.5): BFGS of the last `history_size` steps alone.

        S and Y (m, n) are those steps and what they changed in the gradient, the newest last, each pair in units of the
        step's length; rho (m,) is one over their products, 0 where there is no pair yet. Both gradients of a pair are
        of one step's f. No test is absolute: the scale of f changes nothing. Where a line search asks for Wolfe's
        conditions a pair always has positive curvature; with another, one that has not is left out.

        Where the line search fails the pairs are forgotten and the steepest descent searched; where that fails too, the
        status is why: LINE_SEARCH_FAILED, CONVERGED where rounding hides what f does, UNBOUNDED, NOT_FINITE.

        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 100 * x[1] ** 2), torch.tensor([3.0, 1.0])
        >>> memory = lbfgs.start(theta)
        >>> for _ in range(8):
        ...     g = torch.stack([2 * (theta[0] - 1), 200 * theta[1]])
        ...     delta, memory = lbfgs.step({"g": g, "theta": theta, "f": f}, memory, lbfgs.knobs)
        ...     theta = theta + delta
        >>> torch.testing.assert_close(theta, torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0.0)
        """
        d = -two_loop(g, S, Y, rho) if rho[-1] else None
        step = descended(search, f, theta, g, d, lr=lr, c1=c1, c2=c2)
        if step.steepest:
            S, Y, rho = torch.zeros_like(S), torch.zeros_like(Y), torch.zeros_like(rho)
        return step.delta, *remembered(S, Y, rho, step.delta, step.g - g), int(step.status)

    return lbfgs


def two_loop(g: Tensor, S: Tensor, Y: Tensor, rho: Tensor, gamma: float | Tensor | None = None) -> Tensor:
    """Hg, H being gamma times the identity, updated by the pairs S, Y: (m, n) in turn (Algorithm 7.4 there).

    rho: (m,) is one over the products of the pairs, 0 for what is no pair. gamma is that of the newest, the last, where
    none is given (equation 7.20).

    >>> S, Y = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> two_loop(torch.tensor([4.0, 4.0]), S, Y, 1 / (S * Y).sum(1))
    tensor([2., 2.])
    """
    if gamma is None:
        gamma = 1 / (rho[-1] * (Y[-1] @ Y[-1]))
    q, shares = g, []
    for i in reversed(range(len(S))):
        shares.append(rho[i] * (S[i] @ q))
        q = q - shares[-1] * Y[i]
    r = gamma * q
    for i in range(len(S)):
        r = r + (shares.pop() - rho[i] * (Y[i] @ r)) * S[i]
    return r


def remembered(S: Tensor, Y: Tensor, rho: Tensor, s: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The history with the pair s, y: (n,) in the place of the oldest; as it was where their curvature is not positive.

    >>> S, Y, rho = remembered(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2), torch.ones(1), torch.tensor([2.0]))
    >>> S[:, 0], Y[:, 0], rho
    (tensor([0., 1.]), tensor([0., 2.]), tensor([0.0000, 0.5000]))
    """
    far = length(s)
    if not far:
        return S, Y, rho
    s, y = s / far, y / far  # H does not change; the squares stay in the range of float32
    sy = s @ y
    if not sy > torch.finfo(s.dtype).eps * length(y):
        return S, Y, rho
    return torch.cat([S[1:], s[None]]), torch.cat([Y[1:], y[None]]), torch.cat([rho[1:], 1 / sy[None]])


lbfgs = lbfgs_with(wolfe)
