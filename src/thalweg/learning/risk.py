"""The surrogate loss beside the metric that counts (sections 8.1.1 and 8.1.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.errors import ProblemError
from thalweg.core.network import Batch, Loss, Network
from thalweg.learning.batches import Arrays, Examples

CHUNK = 4096  # examples evaluated at once


@dataclass(frozen=True)
class Metric:
    """What counts: `fn(outputs, targets)` over a whole set gives one number; which way is better is declared.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    >>> accuracy.better(0.9, 0.8)
    True
    """

    name: str
    fn: Callable[[Tensor, Tensor], Tensor | float]
    higher_is_better: bool
    low: float = -math.inf  # what it can be at the least and at the most
    high: float = math.inf

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of all `outputs: (N, ...)` against `targets: (N, ...)`."""
        return float(self.fn(outputs, targets))

    @property
    def worst(self) -> float:
        """The value that any finite one beats."""
        return -math.inf if self.higher_is_better else math.inf

    def cost(self, value: float) -> float:
        """The value as something to be made small; not-a-number costs infinitely much."""
        return math.inf if math.isnan(value) else -value if self.higher_is_better else value

    def better(self, value: float, than: float, by: float = 0.0) -> bool:
        """Whether a value is better than another by more than a margin."""
        return self.cost(value) < self.cost(than) - by


def metric(given: Any, higher_is_better: bool | None = None) -> Metric:
    """A Metric of a Metric, or of a function of (outputs, targets) of a whole set.

    Raises ProblemError for a function that does not say which way is better.

    >>> metric(torch.nn.functional.l1_loss, higher_is_better=False).name
    'l1_loss'
    """
    if isinstance(given, Metric):
        return given
    name = getattr(given, "__name__", type(given).__name__)
    if higher_is_better is None:
        raise ProblemError(
            f"the metric '{name}' does not say which way is better: "
            f"pass metric=thalweg.metric({name}, higher_is_better=True) or False"
        )
    return Metric(name, given, higher_is_better)


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of class scores `(N, K, ...)` for indices `(N, ...)`; or of one logit each, `(N,)` or `(N, 1)`, for 0 or 1."""
    if outputs.shape == targets.shape and outputs.numel() == len(outputs):
        return ((outputs > 0) == (targets > 0.5)).double().mean()
    answers = outputs.argmax(1)
    if answers.shape != targets.shape:
        raise _unlike(outputs, targets)
    return (answers == targets).double().mean()


def _root_mean_squared_error(outputs: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    if outputs.shape != targets.shape:  # (N, 1) against (N,) would broadcast to (N, N)
        raise _unlike(outputs, targets)
    return scale * (outputs - targets).double().square().mean().sqrt()


def _bits(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets) / math.log(2)


def _unlike(outputs: Tensor, targets: Tensor) -> ProblemError:
    return ProblemError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} do not fit this metric")


accuracy = Metric("accuracy", _accuracy, higher_is_better=True, low=0.0, high=1.0)
root_mean_squared_error = Metric("RMSE", _root_mean_squared_error, higher_is_better=False, low=0.0)
bits_per_character = Metric("bits per character", _bits, higher_is_better=False, low=0.0)


def rmse_in_units(scale: float) -> Metric:
    """The RMSE of targets that were divided by `scale` for training, in their own units.

    >>> rmse_in_units(10.0)(torch.zeros(4, 1), torch.ones(4, 1))
    10.0
    """
    return Metric("RMSE", partial(_root_mean_squared_error, scale=scale), higher_is_better=False, low=0.0)


def of_loss(loss: Loss) -> Metric:
    """The loss itself as what counts, for a problem that names no metric."""
    return Metric(f"{getattr(loss, '__name__', type(loss).__name__)}", loss, higher_is_better=False)


@torch.no_grad()
def answers(network: Network, data: Examples) -> tuple[Tensor, Tensor]:
    """Every output and target of a set, computed in chunks, in evaluation mode."""
    if isinstance(data, Arrays) and len(data) <= CHUNK:
        return network.outputs(data.inputs), data.targets
    outputs, targets = [], []
    for start in range(0, len(data), CHUNK):
        batch = data.take(torch.arange(start, min(start + CHUNK, len(data))))
        outputs.append(network.outputs(batch.inputs))
        targets.append(batch.targets)
    return torch.cat(outputs), torch.cat(targets)


def risk(network: Network, data: Examples, measure: Metric) -> tuple[float, float]:
    """The loss and the metric on a whole set, in evaluation mode: (surrogate, what counts)."""
    outputs, targets = answers(network, data)
    with torch.no_grad():
        loss = float(network.loss(outputs, targets))
    return loss, loss if measure.fn is network.loss else measure(outputs, targets)


def losses(network: Network, data: Batch) -> Tensor:
    """The loss of each example (b,), in evaluation mode.

    >>> network = Network(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss)
    >>> losses(network, Batch(torch.ones(5, 2), torch.ones(5, 1))).shape
    torch.Size([5])
    """
    outputs = network.outputs(data.inputs)
    with torch.no_grad():
        return torch.stack([network.loss(outputs[i : i + 1], data.targets[i : i + 1]) for i in range(len(outputs))])
