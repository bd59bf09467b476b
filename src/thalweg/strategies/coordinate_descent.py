"""Coordinate descent (section 8.7.2)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import hessian_at
from thalweg.core.rule import Rule, clock, rule
from thalweg.core.status import Status, going
from thalweg.strategies.coordinate import Choose, at_random, cyclic, gauss_southwell

SLOPE = 1e-4  # of the decrease that the slope promises, the share that a step must bring (Armijo)
HALVINGS = 60  # beyond them a step is lost in rounding
UNSEEN, CLEAR = 10, 10_000  # units of rounding of f: a smaller decrease cannot be seen; a larger one is there to see


def coordinate_descent_with(choose: Choose) -> Rule:
    """Coordinate descent with another order of the coordinates: `cyclic`, `gauss_southwell`, `at_random(seed)`.

    >>> coordinate_descent_with(gauss_southwell).remembers
    {'turn': clock, 'idle': clock, 'lost': clock, 'status': going}
    """

    @rule(per="vector", batched=False)
    def coordinate_descent(g, theta, f, turn=clock, idle=clock, lost=clock, status=going, *, lr=1.0):
        """Coordinate descent (section 8.7.2): each step goes to the minimum along one coordinate, if f is a quadratic.

        The step is -g_i / |H_ii|, lr times as long at first, and halved until f falls as its slope promises: on other
        functions f falls too. H_ii is found by one product with the Hessian; where it is 0, theta_i is doubled or so. A
        coordinate along which f does not fall is passed over; `idle` counts them, `lost` those whose slope promised
        otherwise. Once all were, in turn, the status is CONVERGED, or LINE_SEARCH_FAILED with one lost. It is slow
        where coordinates depend on each other (`blockwise` has an example), and each step costs a whole gradient.

        >>> f, theta = (lambda x: (x[0] - 1) ** 2 + 3 * x[1] ** 2), torch.tensor([3.0, 1.0])
        >>> coordinate_descent(torch.tensor([4.0, 6.0]), theta, f, 0, 0, 0, -1)
        (tensor([-2., -0.]), 1, 0, 0, -1)
        """
        n, value = len(theta), float(f(theta))
        if not (math.isfinite(value) and torch.isfinite(g).all()):
            return torch.zeros_like(theta), turn, idle, lost, int(Status.NOT_FINITE)
        i = turn % n if idle else choose(turn, g.abs())
        along = torch.zeros_like(theta).index_fill(0, torch.tensor(i, device=theta.device), 1.0)
        slope, curvature = float(g[i]), abs(float(hessian_at(f, theta)(along)[i])) if g[i] else 0.0
        step = -slope / curvature if curvature > 0 else -math.copysign(max(abs(float(theta[i])), 1.0), slope)
        promised, rounding = abs(slope * step) / 2, torch.finfo(theta.dtype).eps * abs(value)
        delta = _halved(f, theta, along, value, slope, lr * step) if promised > UNSEEN * rounding else None
        if delta is not None:
            return delta, turn + 1, 0, 0, int(Status.GOING_ON)
        idle, lost = idle + 1, lost + (promised > CLEAR * rounding)
        end = Status.LINE_SEARCH_FAILED if lost else Status.CONVERGED
        return torch.zeros_like(theta), turn + 1, idle, lost, int(end if idle > n else Status.GOING_ON)

    return coordinate_descent


def _halved(f: Any, theta: Tensor, along: Tensor, value: float, slope: float, step: float) -> Tensor | None:
    """The step along a coordinate, halved until f falls enough; None where it does not."""
    for _ in range(HALVINGS):
        delta = step * along
        found = float(f(theta + delta))
        if found < value and found <= value + SLOPE * slope * step:  # not so for NaN
            return delta
        step /= 2
    return None


coordinate_descent = coordinate_descent_with(cyclic)
greedy_coordinate_descent = replace(
    coordinate_descent_with(gauss_southwell),
    name="greedy_coordinate_descent",
    doc=coordinate_descent.doc.replace("(section 8.7.2)", "(section 8.7.2), where the slope is largest", 1),
)
random_coordinate_descent = replace(
    coordinate_descent_with(at_random()),
    name="random_coordinate_descent",
    doc=coordinate_descent.doc.replace("(section 8.7.2)", "(section 8.7.2), in an order of chance", 1),
)


def by_coordinates(H: Tensor, b: Tensor, x: Tensor, l1: float = 0.0, sweeps: int = 1, tolerance: float = 0.0) -> Tensor:
    """Minimises xᵀHx / 2 - bᵀx + l1 |x|₁ by exact steps along the coordinates, all in turn, `sweeps` times (Fu 1998).

    `H: (n, n)` is symmetric and positive semidefinite, `x: (n,)` where it begins; with `b, x: (n, m)` each column is a
    problem by itself. It ends before where a sweep changes x, relative to its largest component, by no more than the
    tolerance. Without l1 a sweep is one of Gauss and Seidel's. The lasso |y - Xw|² / (2 m) + alpha |w|₁ is
    `by_coordinates(X.T @ X / m, X.T @ y / m, w, alpha, sweeps)`. A coordinate without curvature stays, or is 0 with l1.

    >>> H = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> by_coordinates(H, torch.tensor([3.0, 0.5]), torch.zeros(2), l1=1.0, sweeps=20)
    tensor([1., 0.])
    """
    rows, left = list(x.unbind()), b - H @ x  # left is minus the gradient of the quadratic
    diagonal, columns = H.diagonal().tolist(), [column.view(-1, *[1] * (x.dim() - 1)) for column in H.T.contiguous()]
    for _ in range(sweeps):
        before = torch.stack(rows)
        for i, (own, column) in enumerate(zip(diagonal, columns, strict=True)):
            if not own > 0:
                rows[i] = torch.zeros_like(rows[i]) if l1 else rows[i]
                continue
            new = soft_threshold(left[i] + own * rows[i], l1) / own
            left = left - column * (new - rows[i])
            rows[i] = new
        x = torch.stack(rows)
        if float((x - before).abs().max()) <= tolerance * float(x.abs().max()):
            break
    return x


def soft_threshold(x: Tensor, width: float) -> Tensor:
    """x moved towards zero by width, as far as zero: what minimises (z - x)² / 2 + width |z|.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    return x - x.clamp(-width, width)
