"""A short run of training, watched (section 8.2): what a loop's stream of Steps tells, and a few looks on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.inexact import Noise, gradient_noise, microbatch_gradients
from thalweg.challenges.updates import update_ratios
from thalweg.core.errors import DivergenceError, ThalwegError
from thalweg.core.network import Batch
from thalweg.learning.batches import Batches, Examples, permutation
from thalweg.learning.risk import losses
from thalweg.training.run import Point, Run

POINTS = 500  # of the course that are kept for a picture
NOISES = 8  # looks at the gradient noise on the way, of so many draws:
DRAWS = 32
EVALUATIONS = 40  # at most, each of so many examples of the training part and of the validation part:
JUDGED = 512


class NoiseAt(NamedTuple):
    """The gradient noise after so many steps."""

    step: int
    noise: Noise


class Course(NamedTuple):
    """A run as it was seen: every step, and evaluations of the same examples over and over."""

    steps: Tensor  # (k,), 1, 2, ...
    losses: Tensor  # (k,), on the step's batch, before the step
    gradient_norms: Tensor  # (k,)
    ratios: Tensor  # (k, weights): the `update_ratios` of each step
    curve: list[Point]
    noise: list[NoiseAt]
    evaluated: list[int]  # after so many steps
    valid: Tensor  # (evaluations, examples): losses of examples of the validation part
    train: Tensor  # (evaluations, examples): of the training part
    diverged: str = ""  # why it ended before its time
    refused: Mapping[str, str] = MappingProxyType({})  # what could not be measured on the way, and why

    @property
    def reached(self) -> float:
        """The last validation loss; infinite where there is none."""
        losses = [float(x.mean()) for x in self.valid[-1:]] or [point.valid_loss for point in self.curve[-1:]]
        return losses[0] if losses else math.inf

    def thinned(self) -> Course:
        """It with at most `POINTS` of its steps, and without the losses of examples."""
        k = len(self.steps)
        kept = torch.linspace(0, k - 1, min(k, POINTS)).round().long()
        steps, losses, norms = (x[kept] for x in (self.steps, self.losses, self.gradient_norms))
        means = (self.valid.mean(1, keepdim=True), self.train.mean(1, keepdim=True))
        ratios = self.ratios[kept]
        return Course(steps, losses, norms, ratios, self.curve, self.noise, self.evaluated, *means, self.diverged)


@dataclass
class _Watch:
    """What is noted down along a run."""

    run: Run
    until: int
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    ratios: list[Tensor] = field(default_factory=list)
    noise: list[NoiseAt] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)
    valid: list[Tensor] = field(default_factory=list)
    train: list[Tensor] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        run, ahead = self.run, self.until - self.run.t
        self.fair = Batches(run.problem.train, run.recipe.batch_size, run.seed + 1)
        self.noisy = {run.t + max(1, round(ahead * (i + 1) / NOISES)) for i in range(NOISES)}
        every = max(min(len(run.batches), ahead), -(-ahead // EVALUATIONS))
        self.judging = {run.t, *range(run.t + every, self.until, every), self.until}
        self.seen, self.unseen = _some(run.problem.train, run.seed), _some(run.problem.valid, run.seed)
        self.before = run.network.theta.clone()
        self.judge()

    def take(self, step: Any) -> None:
        """After a step."""
        self.steps.append((step.t, step.loss, float(step.g.norm())))
        self.ratios.append(update_ratios(self.run.network, self.before, self.run.network.theta))
        self.before.copy_(self.run.network.theta)
        if step.t in self.noisy:
            self.look_at_noise(step.t)
        if step.t in self.judging:
            self.judge()

    def judge(self) -> None:
        """Notes the losses of examples that are trained on, and of others, as long as one example has a loss."""
        try:
            train, valid = (losses(self.run.network, data) for data in (self.seen, self.unseen))
        except (ThalwegError, RuntimeError, ValueError, IndexError) as error:
            self.judging = set()
            self.refused["losses of examples"] = str(error)
            return
        self.evaluated.append(self.run.t)
        self.train.append(train)
        self.valid.append(valid)

    def look_at_noise(self, t: int) -> None:
        """Notes the noise now, of some draws of parts of batches, or of whole ones that are too small to be cut."""
        parts = 8 if self.fair.size >= 16 else 1
        try:
            batches = [self.fair[t + i] for i in range(DRAWS // parts)]
            draws = microbatch_gradients(self.run.network, batches, parts)
        except (ThalwegError, RuntimeError, ValueError) as error:
            self.noisy = set()
            self.refused["gradient noise"] = str(error)
            return
        self.noise.append(NoiseAt(t, gradient_noise(draws, self.fair.size)))

    def course(self, diverged: str) -> Course:
        """All of it."""
        numbers = torch.tensor(self.steps, dtype=torch.float64).reshape(-1, 3)
        ratios = torch.stack(self.ratios) if self.ratios else torch.zeros(0, 0)
        steps, values, norms = numbers.unbind(1)
        valid, train = (torch.stack(x) if x else torch.zeros(0, 0) for x in (self.valid, self.train))
        return Course(
            steps.long(),
            values,
            norms,
            ratios,
            self.run.curve,
            self.noise,
            self.evaluated,
            valid,
            train,
            diverged,
            self.refused,
        )


def watched(run: Run, until: int, tell: Callable[[int, int, float], None]) -> Course:
    """Takes a run to step `until`, or as far as it goes, and says what was seen; it trains as it would without."""
    watch, diverged = _Watch(run, until), ""
    try:
        for step in run.advance(until):
            watch.take(step)
            tell(step.t, until, step.loss)
    except DivergenceError as error:
        diverged = str(error)
    return watch.course(diverged)


def _some(data: Examples, seed: int) -> Batch:
    drawn: Batch = data.take(permutation(len(data), seed + 2, 0)[:JUDGED])
    return drawn
