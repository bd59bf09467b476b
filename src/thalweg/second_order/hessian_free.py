"""Hessian-free optimisation (after section 8.6.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import gauss_newton_at
from thalweg.core.noise import signs, uniform
from thalweg.core.rule import clock, rule, zeros
from thalweg.core.status import Status, going
from thalweg.second_order.line_search import armijo
from thalweg.second_order.linear import conjugate_gradients, length
from thalweg.second_order.radius import agreement, natural_radius, unset
from thalweg.second_order.rounding import at_rest, last_step, unseen

BOOST_BELOW, DROP_ABOVE = 0.25, 0.75  # of the ratio of what f did to what the model said
BOOST, DROP = 3 / 2, 2 / 3
GRID = 1.3  # from one iterate kept to the next


class Iterate(NamedTuple):
    """A point on the way of conjugate gradients."""

    x: Tensor  # (n,)
    model: float  # its value there; at zero it is zero


@rule(per="vector", batched=False)
def hessian_free(
    g, theta, f, before=zeros, rows=zeros, strength=unset, t=clock, status=going,
    *, lr=1.0, damping=1.0, share=1.0, most=100.0, progress=5e-4, decay=0.95, beta=0.95, power=0.75, c1=1e-2, seed=0.0,
):  # fmt: skip
    """Steps to where conjugate gradients bring a damped Gauss-Newton model of f (Martens 2010).

    The model has the gradient of the whole batch and the curvature G + strength I, G the Gauss-Newton matrix of `share`
    of the batch's examples, others at each t, where f has parts. Conjugate gradients start at `decay` times where they
    ended `before`, and end where the last k = max(10, i / 10) of i iterations brought the model down by less than
    k * progress of what all did, or after `most` (Martens 2010 has 250). The step goes back, on a geometric grid of
    their iterates, to where f no longer falls, and is shortened until f has fallen by c1 times what the slope promises.
    `strength` is at first `damping` times the curvature along g; Levenberg's and Marquardt's rule makes it 3/2 of what
    it was where f at the last iterate has fallen by less than a quarter of what the model says, 2/3 where by more than
    three quarters (Martens and Sutskever 2012).

    The preconditioner is (d + strength)^power. Martens' d are the mean squares of single examples' gradients, which f
    does not give; here they are the mean of |Gu| over random signs u of this step and those before, for one product a
    step: about the norms of the rows of G.

    Raises CurvatureError for an f that does not say what its outputs are. Batches should be large: what conjugate
    gradients make of a few examples is right for those only.

    >>> from thalweg.core.objective import LeastSquares
    >>> f, theta = LeastSquares(lambda x: torch.stack([x[0] - 1, 3 * x[1]])), torch.tensor([3.0, 1.0])
    >>> seen = {"g": torch.tensor([2.0, 9.0]), "theta": theta, "f": f}
    >>> delta, _ = hessian_free.step(seen, hessian_free.start(theta), hessian_free.with_defaults({"damping": 0.0}))
    >>> torch.testing.assert_close(theta + delta, torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0.0)
    """
    value, size, still = float(f(theta)), length(g), torch.zeros_like(theta)
    if not (math.isfinite(value) and math.isfinite(size)):
        return still, before, rows, strength, t, int(Status.NOT_FINITE)
    if size == 0:
        return still, before, rows, strength, t, int(Status.CONVERGED)
    G = gauss_newton_at(part_of(f, share, t, seed), theta).apply
    row = G(signs(theta, t, seed)).abs()
    if not bool(row.isfinite().all()):
        return still, before, rows, strength, t, int(Status.NOT_FINITE)
    rows, t = beta * rows + (1 - beta) * row, t + 1
    d = rows / (1 - beta**t)
    strength = strength or damping * size / natural_radius(G, g, theta)
    strength = max(strength, torch.finfo(theta.dtype).eps * float(d.max()))  # rounding hides less than that
    way = iterates(lambda u: G(u) + strength * u, -g, decay * before, (d + strength) ** -power, progress, int(most))
    if not way:
        radius = natural_radius(G, g, theta)
        way = [Iterate(-(radius / size) * g, -size * radius / 2)]
    last, promised = way[-1].x, -way[-1].model
    if not promised > unseen(value, theta):
        return last_step(f, theta, last, value, g), before, rows, DROP * strength, t, int(Status.CONVERGED)
    x, trial = gone_back(f, theta, way)
    found = armijo(f, theta, x, value, g, lr, c1=c1)
    ratio = agreement(value, trial, promised)
    strength = strength * (BOOST if ratio < BOOST_BELOW else DROP if ratio > DROP_ABOVE else 1.0)
    if found.alpha:
        status = Status.UNBOUNDED if found.status == Status.UNBOUNDED else Status.GOING_ON
        return found.alpha * x, last, rows, strength, t, int(status)
    status = Status.CONVERGED if at_rest(promised, value, theta) else found.status
    return still, still, rows, strength, t, int(status)


def part_of(f: Any, share: float, t: int, seed: float) -> Any:
    """f on a share of its batch's examples, drawn anew for each t, where f has parts; else f.

    >>> from thalweg import Batch, Network
    >>> network = Network(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss)
    >>> f = network.on(Batch(torch.arange(8.0)[:, None], torch.zeros(8, 1)))
    >>> len(part_of(f, 0.25, 0, 0.0).batch)
    2
    """
    if share >= 1 or not hasattr(f, "part"):
        return f
    examples = len(f.batch)
    order = uniform(torch.empty(examples), t, seed).argsort(stable=True)
    return f.part(order[: max(1, round(share * examples))])


def iterates(
    A: Callable[[Tensor], Tensor], b: Tensor, start: Tensor, preconditioner: Tensor, progress: float, most: int
) -> list[Iterate]:
    """Points on a geometric grid on the way of conjugate gradients to the minimum of xAx/2 - bx, and its end.

    It begins at `start`, or at zero where the model is not lower there; it is empty where no curvature is positive.

    >>> A, b = torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([1.0, 4.0])
    >>> iterates(A.mv, b, torch.zeros(2), torch.ones(2), 5e-4, 10)[-1].x
    tensor([1.0000, 1.0000])
    """
    left = b - A(start) if start.any() else b
    if not start @ (left + b) > 0:
        start, left = torch.zeros_like(b), b
    way: list[Iterate] = []
    models: list[float] = []
    due, kept = 1.0, True

    def ended(i: int, y: Tensor, r: Tensor) -> bool:
        nonlocal due, kept
        x = start + y
        models.append(-float(x @ (r + b)) / 2)
        if not kept:  # the point before was only the end so far
            way.pop()
        way.append(Iterate(x, models[-1]))
        kept = i >= due
        due *= GRID if kept else 1.0
        k = max(10, i // 10)
        return i > k and models[-1 - k] - models[-1] < -k * progress * models[-1]

    rtol = torch.finfo(b.dtype).eps
    conjugate_gradients(A, left, preconditioner=preconditioner, rtol=rtol, most=most, watch=ended)
    return way


def gone_back(f: Any, theta: Tensor, way: list[Iterate]) -> tuple[Tensor, float]:
    """The point of the way, from its end back, from which f rises; and f at the end.

    >>> way = [Iterate(torch.tensor([x]), 0.0) for x in (1.0, 2.0, 3.0, 4.0)]
    >>> gone_back(lambda x: (x - 2.1).square().sum(), torch.zeros(1), way)
    (tensor([2.]), 3.6100...)
    """
    end = least = float(f(theta + way[-1].x))
    x = way[-1].x
    for point in reversed(way[:-1]):
        trial = float(f(theta + point.x))
        if least < math.inf and not trial < least:
            break
        x, least = point.x, trial
    return x, end
