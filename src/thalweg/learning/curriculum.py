"""Curriculum learning (section 8.7.6): batches of easy examples first, of all in the end, in order of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.core.errors import ProblemError
from thalweg.core.network import Batch, Network
from thalweg.learning.batches import Batches, Examples
from thalweg.learning.risk import CHUNK, losses

Difficulty = Callable[[Tensor, Tensor], Tensor]  # of inputs (b, ...) and targets (b, ...), a score for each (b,)
Pacing = Callable[[float, float], float]  # of the part s of the way that is done, and the share of examples at s = 0


def linear(s: float, start: float) -> float:
    """The share of the examples grows evenly (Bengio et al. 2009; Platanios et al. 2019).

    >>> linear(0.5, start=0.5)
    0.75
    """
    return start + (1 - start) * s


def root(s: float, start: float) -> float:
    """It grows fast at first, so that a new example stays as likely to be drawn (Platanios et al. 2019).

    >>> root(1.0, start=0.6), round(root(0.5, start=0.6), 4)
    (1.0, 0.8246)
    """
    return math.sqrt(start**2 + (1 - start**2) * s)


def exponential(s: float, start: float) -> float:
    """It grows by equal factors: the fixed exponential pacing of Hacohen and Weinshall (2019), without its stairs.

    >>> exponential(0.5, start=0.25)
    0.5
    """
    return float(start ** (1 - s))


def step(s: float, start: float) -> float:
    """It is `start` all the way, then 1: the two stages of Bengio et al. (2009).

    >>> step(0.99, start=0.25), step(1.0, start=0.25)
    (0.25, 1.0)
    """
    return start if s < 1 else 1.0


PACINGS: dict[str, Pacing] = {f.__name__: f for f in (linear, root, exponential, step)}


@dataclass(frozen=True, eq=False)
class Curriculum:
    """The batches of a run whose first `over` steps draw from the easy examples, a growing share of them.

    `order: (N,)` has the examples' indices, the easiest first (see `easiest_first`; reversed, it is an
    anti-curriculum). At step t each example of a batch is drawn from the easiest ones, as many as `pacing` says, or,
    with the probability `mix`, from all: where difficult examples too are there from the beginning, curricula work
    better (Zaremba and Sutskever 2014). With `mix` above 0 an example may come twice in a batch. From step `over` on
    the batches are those of `batches`, from its first on: whole epochs of all the examples.

    The easy ones are never fewer than a batch. Raises ProblemError for an order that is not that of the data, for a
    batch of all examples, which has no order, and for numbers that are no shares.

    >>> from thalweg.learning.batches import examples
    >>> data = examples((torch.arange(100.0), torch.zeros(100)))
    >>> batches = Curriculum(Batches(data, size=4), torch.arange(100), over=50, start=0.1, mix=0.0)
    >>> [batches.easy(t) for t in (0, 25, 49)], float(batches[0].inputs.max()) < 10
    ([10, 55, 99], True)
    """

    batches: Batches
    order: Tensor
    over: int
    pacing: str = "linear"
    start: float = 0.2
    mix: float = 0.2

    def __post_init__(self) -> None:
        n, size = len(self.batches.data), self.batches.size
        if sorted(self.order.tolist()) != list(range(n)):
            raise ProblemError(f"an order of {len(self.order)} was given for {n} examples: give each index once")
        if size >= n:
            raise ProblemError(f"a curriculum was asked of batches of all {n} examples: give a smaller batch size")
        if self.pacing not in PACINGS:
            raise ProblemError(f"no pacing is called '{self.pacing}': there are {', '.join(PACINGS)}")
        if not 0 < self.start <= 1 or not 0 <= self.mix <= 1:
            raise ProblemError(f"start = {self.start} and mix = {self.mix} were given: both are shares, start above 0")

    def __len__(self) -> int:
        """Batches in an epoch of all the examples."""
        return len(self.batches)

    def easy(self, t: int) -> int:
        """How many of the easiest examples step t draws from."""
        n = len(self.batches.data)
        share = PACINGS[self.pacing](min(t / self.over, 1.0), self.start) if self.over else 1.0
        return max(self.batches.size, min(n, math.ceil(share * n - 1e-9)))  # rounding makes no further example

    def __getitem__(self, t: int) -> Batch:
        """The batch of step t, counted from 0: the same for the same seed."""
        if t >= self.over:
            return self.batches[t - self.over]
        size, n = self.batches.size, len(self.batches.data)
        random = np.random.default_rng([self.batches.seed, t, _STREAM])
        anywhere = int(random.binomial(size, self.mix))
        places = [
            random.choice(among, count, replace=False)
            for among, count in ((self.easy(t), size - anywhere), (n, anywhere))
        ]
        return self.batches.data.take(self.order[torch.from_numpy(np.concatenate(places))])

    def starting(self, t: int) -> Iterator[Batch]:
        """The batches from step t on, for ever."""
        while True:
            yield self[t]
            t += 1


_STREAM = 876  # keeps these draws apart from others of the same (seed, step)


def scores(difficulty: Any, data: Examples) -> Tensor:
    """How difficult each example is, `(N,)`: scores as they are given, or what a function gives for each.

    Raises ProblemError for scores that are not one finite number an example.

    >>> from thalweg.learning.batches import examples
    >>> data = examples((torch.tensor([[3.0], [-1.0], [2.0]]), torch.zeros(3)))
    >>> scores(lambda inputs, targets: inputs.abs().flatten(), data)
    tensor([3., 1., 2.], dtype=torch.float64)
    """
    if callable(difficulty):
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what augmentation draws
            parts = (data.take(torch.arange(i, min(i + CHUNK, len(data)))) for i in range(0, len(data), CHUNK))
            found = torch.cat([torch.as_tensor(difficulty(*part)) for part in parts])
    else:
        found = torch.as_tensor(difficulty)
    if found.shape != (len(data),):
        raise ProblemError(
            f"the difficulty is {tuple(found.shape)} for {len(data)} examples: give one score for each, or a function "
            "of (inputs, targets) that does"
        )
    if not torch.isfinite(found).all():
        raise ProblemError(f"the difficulty of {int((~torch.isfinite(found)).sum())} examples is no finite number")
    return found.detach().double()


def easiest_first(difficulty: Any, data: Examples) -> Tensor:
    """The examples' indices `(N,)` by their scores, the easiest (the lowest) first; equal ones in the data's order.

    >>> from thalweg.learning.batches import examples
    >>> easiest_first([0.5, 0.1, 0.3, 0.1], examples((torch.zeros(4, 1), torch.zeros(4))))
    tensor([1, 3, 2, 0])
    """
    return torch.argsort(scores(difficulty, data), stable=True)


def taught_by(teacher: Network) -> Difficulty:
    """The loss of each example under a network that was trained before (Hacohen and Weinshall 2019), as a difficulty.

    Trained on the same data without a curriculum, it is what they call self-taught.

    >>> teacher = Network(torch.nn.Linear(1, 1), torch.nn.functional.mse_loss)
    >>> _ = teacher.theta.copy_(torch.tensor([1.0, 0.0]))
    >>> taught_by(teacher)(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [5.0]]))
    tensor([0., 9.])
    """

    def difficulty(inputs: Tensor, targets: Tensor) -> Tensor:
        return losses(teacher, Batch(inputs, targets))

    return difficulty
