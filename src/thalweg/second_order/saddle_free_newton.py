"""Saddle-free Newton (after section 8.6.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.core.derivatives import hessian_at
from thalweg.core.rule import Rule, rule
from thalweg.core.status import going
from thalweg.second_order.krylov import krylov
from thalweg.second_order.line_search import Search, wolfe
from thalweg.second_order.newton import stepped


def saddle_free_newton_with(search: Search) -> Rule:
    """Saddle-free Newton with another line search.

    >>> from thalweg.second_order.line_search import armijo
    >>> saddle_free_newton_with(armijo).remembers
    {'status': going}
    """

    @rule(per="vector", batched=False)
    def saddle_free_newton(g, theta, f, status=going, *, lr=1.0, subspace=20.0, damping=0.0, c1=1e-4, c2=0.9):
        """Saddle-free Newton (Dauphin et al. 2014): the step -|H|⁻¹g, which saddles repel; products only.

        Algorithm 1: H in the Krylov space of it and g, of at most `subspace` dimensions (a number), its eigenvalues
        replaced by their absolute values plus `damping` times the largest. A line search begins at lr, where the paper
        tries several dampings; on minibatches, whose small eigenvalues are noise, 1e-3 is a damping to begin with.
        Where g has nothing at all along a direction of negative curvature, the step has nothing. A status as newton's.

        >>> f, theta = (lambda x: x[0] ** 2 - x[1] ** 2), torch.tensor([1.0, 0.01])
        >>> direction(hessian_at(f, theta), torch.tensor([2.0, -0.02]), 2, 0.0)
        tensor([-1.0000,  0.0100])
        """
        d = direction(hessian_at(f, theta).apply, g, int(subspace), damping)
        delta, status = stepped(search, f, theta, g, d, lr, c1, c2)
        return delta, int(status)

    return saddle_free_newton


def direction(product: Callable[[Tensor], Tensor], g: Tensor, subspace: int, damping: float) -> Tensor | None:
    """-|H|⁻¹g in the Krylov space; None where it is not finite, or H is zero there.

    >>> direction(torch.tensor([1.0, -3.0]).mul, torch.tensor([1.0, 3.0]), 2, 0.0)
    tensor([-1.0000, -1.0000])
    """
    found = krylov(product, g, subspace, rtol=0.1) if bool(g.isfinite().all()) else None
    if found is None or not found.T.any():
        return None
    w, V = torch.linalg.eigh(found.T)
    sizes = w.abs() + max(damping, torch.finfo(g.dtype).eps) * w.abs().max()
    return -found.Q.T.mv(V.mv(V.T.mv(found.c) / sizes).to(g))


saddle_free_newton = saddle_free_newton_with(wolfe)
