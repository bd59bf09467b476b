"""A problem: a model, the data to learn from and to judge by, the loss that is trained on, the metric that counts."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.errors import ProblemError
from thalweg.core.network import Loss, Network
from thalweg.learning.batches import Arrays, Examples, examples
from thalweg.learning.risk import Metric, metric, of_loss


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be learnt, and how it is judged.

    `model` is a function that returns a new, newly initialised module (a module works too: it is copied and
    every layer's `reset_parameters` called). `train`, `valid` and `test` are torch Datasets or pairs (inputs,
    targets) of arrays or tensors; selection and stopping go by `metric` on `valid`; `test` is for the end.
    Without a metric the loss is what counts. `epochs` and `batch_size` are where a search starts.

    Raises ProblemError for data or a metric that cannot be used.

    >>> inputs, targets = torch.randn(40, 3), torch.randn(40, 1)
    >>> problem = Problem(lambda: nn.Linear(3, 1), (inputs[:30], targets[:30]), (inputs[30:], targets[30:]),
    ...                   loss=nn.functional.mse_loss)
    >>> problem.metric.name, len(problem.train), problem.steps
    ('mse_loss', 30, 30)
    """

    model: Callable[[], nn.Module] | nn.Module
    train: Any
    valid: Any
    test: Any = None
    loss: Loss = nn.functional.cross_entropy
    metric: Any = None
    name: str = "problem"
    epochs: int = 30
    batch_size: int = 32
    chance: float | None = None  # the loss of knowing nothing but the targets' frequencies
    source: str | None = None  # what to type to have it again
    about: dict[str, Any] = field(default_factory=dict)  # what was inferred and recorded: task, split, seed, notes
    preprocessing: dict[str, Any] | None = None  # what `predict` needs to read a new table

    def __post_init__(self) -> None:
        for part in ("train", "valid", "test"):
            given = getattr(self, part)
            if given is None and part != "test":
                raise ProblemError(f"the problem has no {part} data: give a torch Dataset or a pair (inputs, targets)")
            object.__setattr__(self, part, None if given is None else examples(given, part))
        counted = of_loss(self.loss) if self.metric is None else metric(self.metric)
        object.__setattr__(self, "metric", counted)

    @property
    def steps(self) -> int:
        """Steps of a run at the problem's own epochs and batch size."""
        return max(1, self.epochs * math.ceil(len(self.train) / self.batch_size))

    def network(self, seed: int) -> Network:
        """A newly initialised network: the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = _renewed(self.model) if isinstance(self.model, nn.Module) else self.model()
        if not isinstance(module, nn.Module):
            raise ProblemError(f"model() returned a {type(module).__name__}: it must return a torch.nn.Module")
        return Network(module.train(), self.loss)

    def check(self) -> None:
        """Tries the model, the loss and the metric on a few examples; raises ProblemError with the shapes that clash."""
        network = self.network(seed=0)
        batch = self.train.take(torch.arange(min(4, len(self.train))))
        outputs = self._tried(lambda: network.module(batch.inputs), "the model does not take the inputs", batch.inputs)
        loss = self._tried(
            lambda: network.loss(outputs, batch.targets), "the loss does not take the output", outputs, batch.targets
        )
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ProblemError(f"the loss gives {shape} for a batch: it must give one number (reduction='mean')")
        if not torch.isfinite(batch.inputs if batch.inputs.is_floating_point() else loss).all():
            raise ProblemError("the inputs hold NaN or infinity: fill in or drop them before training")

    def _tried(self, attempt: Callable[[], Any], what: str, *given: Tensor) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Using a target size")  # a broadcast that is never meant
                return attempt()
        except (RuntimeError, ValueError, TypeError, IndexError, UserWarning) as error:
            shapes = " and targets ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in given)
            reason = str(error).strip().splitlines()[0]
            raise ProblemError(f"{what} {shapes}, of 4 examples: {reason}") from error

    def fingerprint(self) -> str:
        """A hash of what makes the problem this one: the data, the model's shape, loss and metric (hex, 16 digits)."""
        network = self.network(seed=0)
        digest = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            digest.update(_digest(part))
        described = [list(map(tuple, network.shapes)), network.names, str(network.module), self.metric.name]
        digest.update(repr([*described, getattr(self.loss, "__name__", str(self.loss))]).encode())
        return digest.hexdigest()[:16]


def _renewed(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    for name, part in module.named_modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        elif any(True for _ in part.parameters(recurse=False)):
            raise ProblemError(
                f"the layer '{name or type(part).__name__}' cannot be initialised anew (it has no reset_parameters): "
                "pass a function that builds the model instead of a module"
            )
    return module


def _digest(data: Examples | None) -> bytes:
    if data is None:
        return b"none"
    if isinstance(data, Arrays):
        parts = (data.inputs, data.targets)
        return b"".join(hashlib.sha256(p.detach().cpu().contiguous().view(torch.uint8).numpy()).digest() for p in parts)
    first = data.take(torch.arange(min(8, len(data))))
    return f"{len(data)} {float(first.inputs.double().sum())!r} {float(first.targets.double().sum())!r}".encode()
