"""One training run: a recipe on a problem from a seed, measured as it goes, stopped and resumed at any step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import DivergenceError
from thalweg.core.lifted import lifted
from thalweg.core.network import Batch
from thalweg.core.rule import Memory
from thalweg.descend import Step, descend
from thalweg.execution.kernels import executable
from thalweg.learning.batches import Batches
from thalweg.learning.risk import risk
from thalweg.training.pretraining import Stage, hidden, staged
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

    Where the recipe has pretraining, its stages come first, in equal parts of its share of the steps. `stage` is the
    one in hand, `train_loss` is then of what it learns, and a Point measures the model with its block as it then is.

    Raises DivergenceError, from `advance`, when a loss is not a finite number.
    """

    def __init__(self, problem: Problem, recipe: Recipe, seed: int, every: int | None = None) -> None:
        self.problem, self.recipe, self.seed = problem, recipe, seed
        self.every = every or max(1, recipe.steps // 24)
        self.network = problem.network(seed)
        batches = Batches(problem.train, recipe.batch_size, seed, recipe.drop_last, recipe.shuffle)
        recipe.initialise(self.network, batches, seed)
        self.batches = recipe.ordered(batches, problem.difficulty)
        self.knobs = recipe.schedules()
        self.t = 0
        self.ends = self._ends()  # of the stages of pretraining, in steps
        self._take_up()
        self.curve: list[Point] = []
        self.best: Point | None = None
        self.best_state: dict[str, Tensor] = {}

    def _ends(self) -> list[int]:
        if self.recipe.pretrain is None:
            return []
        n = len(hidden(self.problem.blocks(self.network.module)))
        steps = int(self.recipe.pretrain_share * self.recipe.steps)
        return [steps * (k + 1) // n for k in range(n)]

    @property
    def pretrained(self) -> int:
        """The step at which pretraining ends; 0 where there is none."""
        return self.ends[-1] if self.ends else 0

    def notes(self) -> list[str]:
        """What came before training proper, in words."""
        if not self.ends:
            return []
        trained = len({end for end in self.ends if end})  # a stage that ends where the one before does has no step
        blocks = "1 block" if trained == 1 else f"{trained} blocks"
        left = f"; {len(self.ends) - trained} had no step" if trained < len(self.ends) else ""
        first = f"the first {self.pretrained} of {self.recipe.steps} steps"
        return [f"{first} pretrained {blocks}, {self.recipe.pretrain}{left}"]

    def _take_up(self) -> None:
        """Turns to what is trained from step t on: the network of a stage of pretraining, or the whole; all is new."""
        k = bisect_right(self.ends, self.t)
        self.stage: Stage | None = None
        if self.recipe.pretrain is not None and k < len(self.ends):
            few = self.problem.train.take(torch.arange(min(2, len(self.problem.train))))
            self.stage = staged(self.network, k, few, self.recipe.pretrain, blocks=self.problem.blocks, seed=self.seed)
        self.trained = self.network if self.stage is None else self.stage.network
        self.execution = executable(lifted(self.recipe.rule(), self.trained.shapes), self.trained.theta)
        self.rule = self.execution.rule
        self.memory = self._first_memory()
        self.first_loss: float | None = None  # of the first batch, before the first step
        self._sum = self._weight = 0.0

    def advance(self, until: int | None = None) -> Iterator[Step]:
        """Trains up to step `until` (the recipe's last by default)."""
        until = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.t < until:
            yield from self._through(min((until, *(end for end in self.ends if end > self.t))))

    def _through(self, until: int) -> Iterator[Step]:
        """Trains what is in training now, up to the end of a stage at most; the next is then taken up."""
        batches: Iterator[Batch] = (self.batches[t] for t in range(self.t, until))
        if self.stage is not None:
            batches = self.stage.batches(batches, self.t)
        stream = descend(self.trained, self.rule, batches, memory=self.memory, t=self.t, seed=self.seed, **self.knobs)
        for step in stream:
            self.t, self.memory = step.t, step.memory
            if not math.isfinite(step.loss):
                knob, _ = self.recipe.leading
                raise DivergenceError(
                    f"the loss is {step.loss} at step {step.t} of {self.recipe.steps}, with {knob} "
                    f"{step.knobs[knob]:.3g} and gradient norm {float(step.g.norm()):.3g}: try a smaller {knob}"
                )
            if self.first_loss is None:
                self.first_loss = step.loss
            self._sum += step.loss * len(step.batch)
            self._weight += len(step.batch)
            if step.t % self.every == 0 or step.t == self.recipe.steps:
                self._measure()
            if self.stage is not None and step.t in self.ends:
                self.keep_last()
                self._take_up()
            yield step

    def _measure(self) -> None:
        theta = self.trained.theta.clone()
        self.keep_last()
        point = Point(self.t, self._sum / self._weight, *risk(self.network, self.problem.valid, self.problem.metric))
        self._sum = self._weight = 0.0
        self.curve.append(point)
        if self.best is None or self._cost(point) < self._cost(self.best):
            self.best, self.best_state = point, self.network.state()
        self.trained.theta.copy_(theta)

    def _cost(self, point: Point) -> tuple[float, float]:
        return self.problem.metric.cost(point.valid_metric), point.valid_loss  # the loss breaks ties of the metric

    def _first_memory(self) -> Memory:
        return self.rule.start(self.trained.theta, **self._knobs_now())

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
        self.trained.theta.copy_(self.rule.answer(self.trained.theta.clone(), self.memory, self._knobs_now()))
        if self.stage is not None:
            self.stage.keep()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the future of the run depends on: tensors, and values for JSON."""
        tensors = {f"now.{name}": value for name, value in self.network.state().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        if self.stage is not None:
            tensors |= {f"stage.{name}": value for name, value in self.stage.network.state().items()}
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
        self.t = values["t"]
        self._take_up()
        if self.stage is not None:
            self.stage.network.load(part["stage"])
        self.best_state = part["best"]
        self.memory = {n: part["memory"][n] if n in part["memory"] else values["memory"][n] for n in self.memory}
        self.first_loss = values["first_loss"]
        self._sum, self._weight = values["sum"], values["weight"]
        self.curve = [Point(*p) for p in values["curve"]]
        self.best = values["best"] and Point(*values["best"])


_PARTS = ("now", "best", "stage", "memory")
