"""A quadratic model of f along the direction proposed and the last step: how far to go, how strongly to damp (8.6).

The model has the exact Fisher matrix of the batch, of which only products along the two directions are needed (Martens
and Grosse 2015, sections 6 and 7), whatever approximation of it proposed the direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.second_order.fisher import Outputs, pushed
from thalweg.second_order.processes import Average

PARALLEL = 1e-5  # directions that differ by less than this are one


class Quadratic(NamedTuple):
    """The change of f that a model sees at directions times c: slopes c + c (fisher + strength products) c / 2.

    Two directions, of which the second may be zero; strength is the damping.
    """

    slopes: tuple[float, float]
    fisher: tuple[float, float, float]  # first with first, first with second, second with second
    products: tuple[float, float, float]
    strength: float

    def curvatures(self) -> tuple[float, float, float]:
        """Of the damped model."""
        a, b, c = (x + self.strength * y for x, y in zip(self.fisher, self.products, strict=True))
        return a, b, c

    def at(self, first: float, second: float) -> float:
        """The change of f that the model sees.

        >>> Quadratic((-1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), 1.0).at(0.5, 0.0)
        -0.25
        """
        a, b, c = self.curvatures()
        slope = self.slopes[0] * first + self.slopes[1] * second
        return slope + (a * first * first + 2 * b * first * second + c * second * second) / 2

    def divergence(self, first: float, second: float) -> float:
        """Between the model's predictions before and after, to second order."""
        a, b, c = self.fisher
        return (a * first * first + 2 * b * first * second + c * second * second) / 2


Length = Callable[[Quadratic, float, float], tuple[float, float]]


def by_model(model: Quadratic, lr: float, momentum: float) -> tuple[float, float]:
    """lr times where the model is lowest, with at most `momentum` of the last step (Martens and Grosse 2015, 7).

    >>> by_model(Quadratic((-1.0, -1.0), (1.0, 0.0, 4.0), (0.0, 0.0, 0.0), 0.0), 1.0, 1.0)
    (1.0, 0.25)
    """
    a, b, c = model.curvatures()
    if not a > 0:
        return 0.0, 0.0
    determinant = a * c - b * b
    second = 0.0
    if determinant > PARALLEL * a * c:
        second = (b * model.slopes[0] - a * model.slopes[1]) / determinant
        second = min(max(second, -momentum), momentum)
    return -lr * (model.slopes[0] + b * second) / a, lr * second


def by_lr(model: Quadratic, lr: float, momentum: float) -> tuple[float, float]:
    """lr times the direction and `momentum` times the last step, whatever the model says."""
    return lr, momentum


def quadratic(
    outputs: Outputs,
    there: Sequence[Tensor],
    g: Tensor,
    directions: Sequence[Tensor],
    strength: float,
    average: Average,
) -> Quadratic:
    """The model along two directions (n,), of which the outputs change by `there`; the second may be zero and lack it.

    The curvature is averaged over the processes, as g is already.
    """
    first, second = directions
    seen = [outputs.back(x) for x in there]  # Fd·d' is the product of SᵀJd and SᵀJd': it cannot be negative
    pairs = ((0, 0), (0, 1), (1, 1))[: 3 if len(there) > 1 else 1]
    fisher = [*average(torch.stack([(seen[i] * seen[j]).sum() for i, j in pairs])).tolist(), 0.0, 0.0]
    rest = torch.stack([g @ first, g @ second, first @ first, first @ second, second @ second]).tolist()
    return Quadratic((rest[0], rest[1]), (fisher[0], fisher[1], fisher[2]), (rest[2], rest[3], rest[4]), strength)


def clipped(model: Quadratic, step: tuple[float, float], most: float, value: float) -> tuple[float, float]:
    """A step that diverges by no more than `most`, where that is not zero, and promises no more than `value`.

    `value` is that of f: negative log-likelihoods as these are never below zero, and a model that says they will be is
    not right. Where examples are fitted perfectly, and there is hardly any curvature left, this keeps steps short.

    >>> model = Quadratic((-1.0, 0.0), (2.0, 0.0, 0.0), (1.0, 0.0, 0.0), 0.0)
    >>> clipped(model, (1.0, 0.0), 0.25, 9.0), clipped(model, (0.5, 0.0), 0.0, 0.1875)
    ((0.5, 0.0), (0.25, 0.0))
    """
    far = model.divergence(*step)
    shorter = math.sqrt(most / far) if far > most > 0 else 1.0
    fall = -model.slopes[0] * step[0] - model.slopes[1] * step[1]
    bend = model.at(*step) + fall  # promised is shorter * fall - shorter² * bend
    if 0 < value < shorter * fall - shorter * shorter * bend:
        shorter = 2 * value / (fall + math.sqrt(max(fall * fall - 4 * bend * value, 0.0)))
    return shorter * step[0], shorter * step[1]


class Stepped(NamedTuple):
    """A step, what the model promises of it, and the damping with which it was found."""

    delta: Tensor  # (n,)
    promised: float  # decrease of f
    gamma: float


def stepped(
    outputs: Outputs, g: Tensor, before: Tensor, strength: float, propose: Callable[[float], Tensor],
    gammas: Sequence[float], choose: Callable[[Quadratic], tuple[float, float]], average: Average,
) -> Stepped:  # fmt: skip
    """The best step, by the model, of those that `propose` makes with each of the dampings `gammas`."""
    push = pushed(outputs, g)
    there = [push(before)] if before.any() else []
    found: list[Stepped] = []
    for gamma in gammas:
        d = propose(gamma)
        model = quadratic(outputs, [push(d), *there], g, [d, before], strength, average)
        first, second = choose(model)
        found.append(Stepped(first * d + second * before, -model.at(first, second), gamma))
    return max(found, key=lambda one: one.promised if math.isfinite(one.promised) else -math.inf)
