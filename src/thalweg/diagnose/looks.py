"""A look at a network at one moment: measurements by name, each with its findings or the reason why there is none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.challenges.critical_points import Point, point
from thalweg.challenges.finding import Finding
from thalweg.challenges.sharpness import Sharpness, sharpness
from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import DiagnosisError, ThalwegError
from thalweg.core.lifted import lifted
from thalweg.core.measured import Measured, exactly
from thalweg.core.network import Batch, Network
from thalweg.core.rule import Memory, Rule
from thalweg.diagnose.causes import MOMENTS, Seen
from thalweg.learning.batches import Batches, permutation
from thalweg.learning.curriculum import Curriculum
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

SAMPLE = 512  # examples that a measurement of the whole network looks at
PART = 256
USED_UP = "the time given was used up"
FAIR = 16  # batches
SOON = 20  # steps


@dataclass(frozen=True)
class Sight:
    """What there is to look at: a network that is only looked at, and the run that it is of."""

    run: Run
    first_loss: float | None = None  # on the sample, before the first step; None before it
    begun: dict[str, Tensor] | None = None  # the network's state then

    @property
    def network(self) -> Network:
        """The network as it is now."""
        return self.run.network

    @property
    def problem(self) -> Problem:
        """What is learnt."""
        return self.run.problem

    @property
    def recipe(self) -> Recipe:
        """What it is trained by."""
        return self.run.recipe

    @property
    def batches(self) -> Batches | Curriculum:
        """The batches as training sees them."""
        return self.run.batches

    @cached_property
    def fair(self) -> list[Batch]:
        """Some batches of the recipe's size, fairly drawn, whatever order training sees."""
        drawn = Batches(self.problem.train, self.recipe.batch_size, self.run.seed + 1)
        return [drawn[t] for t in range(min(FAIR, len(drawn)))]

    @cached_property
    def sample(self) -> Batch:
        """Some examples, fairly drawn and in random order: their first half is a sample too."""
        return self._drawn(SAMPLE)

    def _drawn(self, n: int) -> Batch:
        drawn: Batch = self.problem.train.take(permutation(len(self.problem.train), self.run.seed + 1, 0)[:n])
        return drawn

    @cached_property
    def part(self) -> Batch:
        """The first of the sample, for what costs many products with the Hessian."""
        return Batch(self.sample.inputs[:PART], self.sample.targets[:PART])

    @cached_property
    def loss(self) -> float:
        """On the sample, as training computes it."""
        with torch.no_grad():
            return float(self.network.on(self.sample)(self.network.theta))

    @property
    def fallen(self) -> Measured | None:
        """The share of the first loss that has gone since; None before the first step."""
        return exactly(1 - self.loss / self.first_loss) if self.first_loss else None

    @cached_property
    def sharpness(self) -> Sharpness:
        """The largest curvature on the sample and on its halves; on more examples where these differ.

        Raises CurvatureError where there is none.
        """
        found = sharpness(self.network, self.sample)
        return found if found.resolved or self.whole else sharpness(self.network, self._drawn(4 * SAMPLE))

    @property
    def whole(self) -> bool:
        """Whether the sample is all the examples there are: its loss is then the one that is trained on."""
        return len(self.problem.train) <= SAMPLE

    @cached_property
    def point(self) -> Point:
        """What kind of point it is. Raises CurvatureError where there are no second derivatives."""
        return point(self.network, self.part)

    def again(self) -> Run:
        """The run anew, before its first step."""
        run = Run(self.problem, self.recipe, self.run.seed)
        if self.begun is not None:
            run.start_from(self.begun)
        return run

    @property
    def rule(self) -> Rule:
        """The rule as one on theta."""
        return lifted(self.recipe.rule(), self.network.shapes)

    @property
    def memory(self) -> Memory | None:
        """A copy of what the rule remembers; None where it has not begun, or is at another network (pretraining)."""
        if self.run.t == 0 or self.run.stage is not None:
            return None
        return {name: v.clone() if isinstance(v, Tensor) else v for name, v in self.run.memory.items()}

    def refuse_f(self) -> None:
        """Raises DiagnosisError for a rule that looks at f itself, whose next step is no function of the gradient."""
        if set(self.rule.sees) - {"g", "theta"}:
            raise DiagnosisError(f"{self.recipe.algorithm} looks at f itself: its step and its limit are not known")

    def step(self, batch: Batch) -> Tensor:
        """The step (n,) that the rule would take on a batch. Raises DiagnosisError where it looks at f itself."""
        self.refuse_f()
        rule, knobs = self.rule, self.rule.with_defaults(self.knobs)
        theta = self.network.theta.clone()
        _, g = value_and_gradient(self.network.on(batch), theta)
        with torch.no_grad():
            delta, _ = rule.step({"g": g.clone(), "theta": theta}, self.memory or rule.start(theta, **knobs), knobs)
        return delta.clone()

    @property
    def knobs(self) -> dict[str, Any]:
        """The rule's knobs as they are used now; lr the largest of the next few steps, for it may be warming up."""
        steps = range(self.run.t, min(self.run.t + SOON, self.recipe.steps)) or [self.recipe.steps - 1]
        return {k: max(map(v, steps)) if callable(v) else v for k, v in self.run.knobs.items()}


Found = tuple[Any, list[Finding]]  # what was measured, and what was found in it
Look = Callable[[Sight], Found]


@dataclass
class Notes:
    """What was seen so far: findings with their moment, measurements by moment and name, and what was refused.

    What is asked for after `until`, a time of `time.perf_counter`, is refused.
    """

    seen: list[Seen] = field(default_factory=list)
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    until: float = math.inf

    def refuse(self, stage: str, name: str, reason: str) -> None:
        """Notes that something was not measured; one reason may stand in the way of several, and is noted once."""
        if reason not in self.refusals.values():
            self.refusals[f"{name}, {MOMENTS[stage]}"] = reason

    def take(self, stage: str, name: str, look: Callable[[], Found]) -> None:
        """Measures and notes; what cannot be measured is noted with the reason."""
        try:
            if time.perf_counter() > self.until:
                raise DiagnosisError(USED_UP)
            with torch.random.fork_rng():
                measured, found = look()
        except (ThalwegError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.refuse(stage, name, reason if isinstance(error, ThalwegError) else _first_sentence(reason))
        else:
            self.measurements.setdefault(stage, {})[name] = measured
            self.seen += [Seen(finding, stage) for finding in found]


def _first_sentence(reason: str) -> str:
    return f"torch says: {reason.split('. ')[0][:200]}"
