"""Before the race: is the loss where chance puts it, can the model learn anything, how fast is a step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from thalweg.algorithms import algorithm
from thalweg.core.network import Network
from thalweg.descend import descend
from thalweg.execution.kernels import executable
from thalweg.learning.risk import risk
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

FEW = 8  # examples that any model should be able to learn by heart
STEPS = 300  # given to it
PROBE = 0.6  # seconds of training that measure the speed
COUNTED = 3  # steps whose evaluations are counted, where no clock is read
FIRST_LOSS = 2.0  # times chance: an initial loss beyond this is an initialisation or scale gone wrong


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and a sentence with the figures."""

    name: str
    ok: bool
    text: str


def checks(problem: Problem, seed: int) -> list[Check]:
    """The first loss against chance, and a few examples learnt by heart."""
    network = problem.network(seed)
    first, _ = risk(network, problem.train, problem.metric)
    found = [_against_chance(first, problem.chance)]
    learnt, start, lr = _by_heart(problem, seed)
    ok = learnt < 0.2 * start
    text = f"{FEW} examples: the loss falls from {start:.3g} to {learnt:.3g} in {STEPS} steps of Adam (lr {lr:g})"
    hint = "" if ok else ": if it cannot learn these by heart, look at model, loss and targets before optimizers"
    return [*found, Check("a few examples", ok, text + hint)]


def _against_chance(first: float, chance: float | None) -> Check:
    if chance is None:
        return Check("first loss", math.isfinite(first), f"the first loss is {first:.4g} (chance is not known here)")
    text = f"the first loss is {first:.4g}; knowing only the targets' frequencies gives {chance:.4g}"
    ok = math.isfinite(first) and first <= FIRST_LOSS * chance
    return Check("first loss", ok, text if ok else f"{text}: the initial outputs or the targets' scale are off")


def _by_heart(problem: Problem, seed: int) -> tuple[float, float, float]:
    batch = problem.train.take(torch.arange(min(FEW, len(problem.train))))
    results = []
    for lr in (1e-2, 1e-3):
        network = problem.network(seed)
        losses = [step.loss for step in descend(network, algorithm("adam").rule, [batch] * STEPS, lr=lr)]
        results.append((min(loss if math.isfinite(loss) else math.inf for loss in losses[-10:]), losses[0], lr))
        if results[-1][0] < 0.2 * losses[0]:
            break
    return min(results)


def costs(problem: Problem, recipes: Mapping[str, Recipe], base: Recipe, pace: float | None) -> dict[str, float]:
    """What a step of each algorithm costs, in steps of the base; 1 for all but those that see f.

    With the base's `pace`, in seconds a step, it is measured by the clock; without, evaluations are counted, which
    gives the same numbers every time.
    """
    found = dict.fromkeys(recipes, 1.0)
    for name, recipe in recipes.items():
        if "f" in recipe.rule().sees:
            counted = _gradients_per_step(problem, recipe) * _examples(problem, recipe) / _examples(problem, base)
            found[name] = counted if pace is None else seconds_per_step(problem, recipe, 10**9, first=1) / pace
    return {name: max(1.0, round(cost, 2)) for name, cost in found.items()}


def _examples(problem: Problem, recipe: Recipe) -> int:
    return min(recipe.batch_size, len(problem.train))


def _gradients_per_step(problem: Problem, recipe: Recipe) -> float:
    """What the first steps evaluate, in gradients."""
    run = Run(problem, recipe.with_(steps=10**9), seed=0, every=10**9)
    spent = [step.f.passes for step in run.advance(COUNTED) if step.f is not None]
    return sum(spent) / len(spent)


def seconds_per_step(problem: Problem, recipe: Recipe, every: int, first: int = 3) -> float:
    """Seconds of a training step after the `first`, its share of measuring included, on one thread."""
    long = recipe.with_(steps=10**9)
    run = Run(problem, long, seed=0, every=every)
    for _ in run.advance(first):
        pass
    started = time.perf_counter()
    for step in run.advance():  # noqa: B007
        if time.perf_counter() - started > PROBE:
            break
    training = (time.perf_counter() - started) / (step.t - first)
    measures = len(run.curve)
    return training if measures else training + _measuring(run.network, problem) / every


def _measuring(network: Network, problem: Problem) -> float:
    started = time.perf_counter()
    risk(network, problem.valid, problem.metric)
    return time.perf_counter() - started


def warm(names: list[str], theta: torch.Tensor) -> dict[str, str]:
    """Compiles each algorithm's kernel before processes fork, so that none compiles it again; says what runs."""
    how = {}
    for name in names:
        _, how[name] = executable(algorithm(name).rule, theta)
    return how
