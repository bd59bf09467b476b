"""One training run: a recipe on a problem from a seed, measured as it goes, stopped and resumed at any step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.core.errors import DivergenceError
from thalweg.core.lifted import lifted
from thalweg.core.rule import Memory
from thalweg.descend import Step, descend
from thalweg.execution.kernels import executable
from thalweg.learning.batches import Batches
from thalweg.learning.risk import risk
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe


class Point(NamedTuple):
    """What was measured after t steps."""

    t: int
    train_loss: float  # mean over the examples of the steps since the last point
    valid_loss: float
    valid_metric: float


class Run:
    """A run in progress: the network, the rule's memory, the curve so far and the best point of it.

    `advance` trains and yields every Step; every `every` steps it measures the validation loss and metric, appends
    a Point to `curve` and keeps the best parameters (by the metric, then by the loss). Initialisation, data order
    and dropout are functions of `seed`, so that `state` and `load` make a resumed run bit-identical to an
    uninterrupted one.

    Raises DivergenceError, from `advance`, when a loss is not a finite number.
    """

    def __init__(self, problem: Problem, recipe: Recipe, seed: int, every: int | None = None) -> None:
        self.problem, self.recipe, self.seed = problem, recipe, seed
        self.every = every or max(1, recipe.steps // 24)
        self.network = problem.network(seed)
        recipe.initialise(self.network)
        self.execution = executable(lifted(recipe.rule(), self.network.shapes), self.network.theta)
        self.rule = self.execution.rule
        self.batches = Batches(problem.train, recipe.batch_size, seed, recipe.drop_last)
        self.knobs = recipe.schedules()
        self.t = 0
        self.memory = self._first_memory()
        self.first_loss: float | None = None  # of the first batch, before the first step
        self.curve: list[Point] = []
        self.best: Point | None = None
        self.best_state: dict[str, Tensor] = {}
        self._sum = self._weight = 0.0

    def advance(self, until: int | None = None) -> Iterator[Step]:
        """Trains up to step `until` (the recipe's last by default)."""
        until = self.recipe.steps if until is None else min(until, self.recipe.steps)
        batches = (self.batches[t] for t in range(self.t, until))
        stream = descend(self.network, self.rule, batches, memory=self.memory, t=self.t, seed=self.seed, **self.knobs)
        for step in stream:
            self.t, self.memory = step.t, step.memory
            if not math.isfinite(step.loss):
                knob, _ = self.recipe.leading
                raise DivergenceError(
                    f"the loss is {step.loss} at step {step.t} of {self.recipe.steps}, with {knob} "
                    f"{step.knobs[knob]:.3g} and gradient norm {float(step.g.norm()):.3g}: try a smaller {knob}"
                )
            if step.t == 1:
                self.first_loss = step.loss
            self._sum += step.loss * len(step.batch)
            self._weight += len(step.batch)
            if step.t % self.every == 0 or step.t == self.recipe.steps:
                self._measure()
            yield step

    def _measure(self) -> None:
        theta = self.network.theta.clone()
        self.network.theta.copy_(self.rule.answer(theta, self.memory, self._knobs_now()))
        point = Point(self.t, self._sum / self._weight, *risk(self.network, self.problem.valid, self.problem.metric))
        self._sum = self._weight = 0.0
        self.curve.append(point)
        if self.best is None or self._cost(point) < self._cost(self.best):
            self.best, self.best_state = point, self.network.state()
        self.network.theta.copy_(theta)

    def _cost(self, point: Point) -> tuple[float, float]:
        return self.problem.metric.cost(point.valid_metric), point.valid_loss  # the loss breaks ties of the metric

    def _first_memory(self) -> Memory:
        return self.rule.start(self.network.theta, **self._knobs_now())

    def _knobs_now(self) -> dict[str, Any]:
        return {name: knob(self.t) if callable(knob) else knob for name, knob in self.knobs.items()}

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Starts from parameters that were trained before (a network's state) instead of new ones."""
        self.network.load(state)
        self.memory = self._first_memory()

    def restore_best(self) -> None:
        """Puts the best parameters seen back into the network."""
        if self.best_state:
            self.network.load(self.best_state)

    def keep_last(self) -> None:
        """Puts the parameters that the run ended with into the network: the average, for an averaged rule."""
        self.network.theta.copy_(self.rule.answer(self.network.theta.clone(), self.memory, self._knobs_now()))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the future of the run depends on: tensors, and values for JSON."""
        tensors = {f"now.{name}": value for name, value in self.network.state().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        tensors |= {f"memory.{n}": v.clone() for n, v in self.memory.items() if isinstance(v, Tensor)}
        scalars = {n: v for n, v in self.memory.items() if not isinstance(v, Tensor)}
        values = {
            "t": self.t,
            "first_loss": self.first_loss,
            "curve": [list(p) for p in self.curve],
            "best": self.best and list(self.best),
        }
        return tensors, {**values, "memory": scalars, "sum": self._sum, "weight": self._weight}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Goes back to a state that a run of the same problem, recipe and seed saved."""
        part = {p: {n[len(p) + 1 :]: v for n, v in tensors.items() if n.startswith(f"{p}.")} for p in _PARTS}
        self.network.load(part["now"])
        self.best_state = part["best"]
        self.memory = {n: part["memory"][n] if n in part["memory"] else values["memory"][n] for n in self.memory}
        self.t, self.first_loss = values["t"], values["first_loss"]
        self._sum, self._weight = values["sum"], values["weight"]
        self.curve = [Point(*p) for p in values["curve"]]
        self.best = values["best"] and Point(*values["best"])


_PARTS = ("now", "best", "memory")
