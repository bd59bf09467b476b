"""Advice that has been tried: a few steps with and without a remedy from the same start, and the difference it made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError, DiagnosisError, DivergenceError
from thalweg.core.measured import Measured, mean
from thalweg.learning.risk import risk
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

STEPS = 200
RUNS = 5  # pairs: enough that two intervals that are apart say something

_FIELDS = {field.name for field in fields(Recipe)} - {"steps", "knobs"}
_INITIAL = {"init", "init_gain"}  # what acts before the first step only


@dataclass(frozen=True)
class Tried:
    """What a remedy did: validation losses without and with it after `steps` steps, in pairs of the same seed.

    A run that diverged has an infinite loss. `difference` is of the pairs in which none did.

    >>> print(Tried({"clip_norm": 1.0}, 200, (1.9, 2.0, 1.8), (0.4, 0.6, 0.3)))
    tried clip_norm 1: loss 1.90 -> 0.433 (difference -1.47, -1.61 to -1.32) in 200 steps
    >>> Tried({"clip_norm": 1.0}, 200, (1.9, 2.0, 1.8), (1.9, 2.1, 1.7)).helped
    False
    """

    remedy: dict[str, Any]
    steps: int
    without: tuple[float, ...]
    having: tuple[float, ...]

    @property
    def difference(self) -> Measured:
        """With less without, the mean over pairs with its interval; of no pairs, nothing is known."""
        pairs = [b - a for a, b in zip(self.without, self.having, strict=True) if math.isfinite(a) and math.isfinite(b)]
        return mean(torch.tensor(pairs)) if pairs else Measured(math.nan, -math.inf, math.inf, 0)

    @property
    def diverged(self) -> tuple[int, int]:
        """How many runs diverged without it, and with it."""
        counted = [sum(not math.isfinite(loss) for loss in losses) for losses in (self.without, self.having)]
        return counted[0], counted[1]

    @property
    def helped(self) -> bool:
        """Whether the loss is lower for sure, or every run diverged without it and none with it."""
        without, having = self.diverged
        saved = without == len(self.without) and having == 0
        return having <= without and (saved or self.difference.high < 0)

    def __str__(self) -> str:
        without, having = self.diverged
        runs = len(self.without)
        losses = f"loss {_mean(self.without, without, runs)} -> {_mean(self.having, having, runs)}"
        if max(without, having) < runs - 1:
            value, low, high, _ = self.difference
            losses += f" (difference {value:.3g}, {low:.3g} to {high:.3g})"
        verdict = "" if self.helped else "; it made it worse" if self.worse else "; no difference can be told"
        return f"tried {said(self.remedy)}: {losses} in {self.steps} steps{verdict}"

    @property
    def worse(self) -> bool:
        """Whether the loss is higher for sure, or more runs diverged."""
        without, having = self.diverged
        return having > without or (having == without and self.difference.low > 0)


def said(remedy: Mapping[str, Any]) -> str:
    """A remedy in words.

    >>> said({"lr_factor": 0.1, "shuffle": True})
    'lr x 0.1 and shuffle'
    """
    words = []
    for name, value in remedy.items():
        shown = f"{value:g}" if isinstance(value, int | float) else str(value)
        words.append(f"lr x {shown}" if name == "lr_factor" else name if value is True else f"{name} {shown}")
    return " and ".join(words)


def remedied(recipe: Recipe, remedy: Mapping[str, Any]) -> Recipe:
    """The recipe with a remedy: a field, a knob, or `lr_factor`, which multiplies the knob that decides most.

    Another algorithm keeps of the knobs those that it has, but not lr, which is another one's. Raises DiagnosisError
    for what is no matter of a recipe.

    >>> remedied(Recipe("sgd", 100, knobs={"lr": 1.0}), {"lr_factor": 0.1, "clip_norm": 2.0}).knobs
    {'lr': 0.1}
    """
    for name, value in remedy.items():
        leading, current = recipe.leading
        if name == "lr_factor":
            recipe = recipe.with_(knobs={**recipe.knobs, leading: current * value})
        elif name == "algorithm":
            has = Recipe(value, recipe.steps).rule().knobs
            recipe = recipe.with_(
                algorithm=value, knobs={k: v for k, v in recipe.knobs.items() if k in has and k != "lr"}
            )
        elif name in _FIELDS:
            recipe = recipe.with_(**{name: value})
        elif name in recipe.rule().knobs or name == "weight_decay":
            recipe = recipe.with_(knobs={**recipe.knobs, name: value})
        else:
            raise DiagnosisError(f"the remedy '{name}' is not a matter of the recipe: it cannot be tried here")
    return recipe


def tried(
    problem: Problem,
    recipe: Recipe,
    remedy: Mapping[str, Any],
    *,
    state: dict[str, Tensor] | None = None,
    steps: int = STEPS,
    runs: int = RUNS,
    seed: int = 0,
) -> Tried:
    """Takes `steps` steps with and without a remedy, `runs` times from seeds `seed`, `seed + 1`, ..., in pairs.

    Both of a pair start alike (from the network's `state`, or newly initialised) and see the data in the same order,
    as far as the remedy leaves that. Every run is of a network of its own: nothing that exists is changed. Raises
    DiagnosisError for a remedy that cannot be tried.

    >>> from thalweg.training.builtin import digits
    >>> print(tried(digits(), Recipe("sgd", 400, knobs={"lr": 1e-4}), {"lr_factor": 1000}, steps=20, runs=3).helped)
    True
    """
    if state is not None and _INITIAL & set(remedy):
        raise DiagnosisError(f"{said(remedy)} acts at initialisation: it cannot be tried from a checkpoint")
    try:
        other = remedied(recipe, remedy)
    except (AlgorithmError, TypeError) as error:
        raise DiagnosisError(f"{said(remedy)} cannot be tried: {error}") from error
    seeds = range(seed, seed + runs)
    losses = [tuple(_loss_after(problem, each, s, state, steps) for s in seeds) for each in (recipe, other)]
    return Tried(dict(remedy), steps, *losses)


def _loss_after(problem: Problem, recipe: Recipe, seed: int, state: dict[str, Tensor] | None, steps: int) -> float:
    """The validation loss after some steps; infinite where they diverge."""
    with torch.random.fork_rng():
        run = Run(problem, recipe, seed, every=steps + 1)
        if state is not None:
            run.start_from(state)
        try:
            for _ in run.advance(steps):
                pass
        except DivergenceError:
            return math.inf
        run.keep_last()
        loss, _ = risk(run.network, problem.valid, problem.metric)
    return loss if math.isfinite(loss) else math.inf


def _mean(losses: tuple[float, ...], diverged: int, runs: int) -> str:
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return "diverged"
    shown = f"{math.fsum(finite) / len(finite):#.3g}".rstrip(".")
    return shown if not diverged else f"{shown} (and {diverged} of {runs} diverged)"
