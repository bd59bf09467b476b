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
from thalweg.learning.batches import Arrays, examples
from thalweg.learning.curriculum import scores
from thalweg.learning.risk import answers, metric, of_loss
from thalweg.training.fingerprint import data_digest, drawn_anew, without_addresses
from thalweg.training.pretraining import Blocks, in_blocks

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be learnt, and how it is judged.

    `model` is a function that returns a new, newly initialised module (a module works too: it is copied and
    every layer's `reset_parameters` called). `train`, `valid` and `test` are torch Datasets or pairs (inputs,
    targets) of arrays or tensors; selection and stopping go by `metric` on `valid`; `test` is for the end.
    Without a metric the loss is what counts. `epochs` and `batch_size` are where a search starts. `difficulty` and
    `blocks` are for recipes with a curriculum or pretraining: see `easiest_first` and `stages`.

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
    difficulty: Any = None  # of the training examples, for a curriculum: scores (N,), or a function that gives them
    blocks: Blocks = in_blocks  # what the model runs one after the other, for pretraining

    def __post_init__(self) -> None:
        for part in PARTS:
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
        """Tries the model, the loss and the metric, and looks for numbers that are none.

        Raises ProblemError with the shapes that clash, the classes that the model has no output for, or how many NaN
        and infinities the data in memory hold.
        """
        for part in PARTS:
            if isinstance(data := getattr(self, part), Arrays):
                _refuse_not_finite(data.inputs, f"{part} inputs")
                _refuse_not_finite(data.targets, f"{part} targets")
        network = self.network(seed=0)
        batch = self.train.take(torch.arange(min(4, len(self.train))))
        with torch.random.fork_rng(devices=[]):
            outputs = _tried(lambda: network.module(batch.inputs), "the model does not take the inputs", batch.inputs)
            self._refuse_missing_classes(outputs)
            if rest := len(self.train) % self.batch_size:
                short = self.train.take(torch.arange(rest)).inputs
                _tried(
                    lambda: network.module(short), f"the model does not take an epoch's last batch, of {rest},", short
                )
            pair = (outputs, batch.targets)
            loss = _tried(lambda: self.loss(*pair), "the loss does not take the outputs and targets", *pair)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise ProblemError(f"the loss gives {_said(loss)} for a batch: it must give one number (reduction='mean')")
        if not loss.requires_grad:
            raise ProblemError("the loss has no gradient: it must be computed by torch, without detach() or argmax()")
        if not torch.isfinite(loss):
            raise ProblemError(f"the loss of a new model is {loss.item()}: scale the inputs and the targets down")
        outputs, targets = _tried(lambda: answers(network, self.valid), "the model does not take the valid inputs")
        pair = (outputs, targets)
        _tried(lambda: self.metric(*pair), "the metric does not take the outputs and targets", *pair)

    def _refuse_missing_classes(self, outputs: Any) -> None:
        """Cross-entropy indexes the outputs by the targets; a class without an output may come late in the data."""
        entropy = self.loss is nn.functional.cross_entropy or isinstance(self.loss, nn.CrossEntropyLoss)
        if not entropy or not isinstance(outputs, Tensor) or outputs.dim() < 2:
            return
        for part in PARTS:
            data = getattr(self, part)
            if isinstance(data, Arrays) and not data.targets.is_floating_point():
                counted = data.targets[data.targets != getattr(self.loss, "ignore_index", -100)]
                for wrong in counted[(counted < 0) | (counted >= outputs.shape[1])][:1].tolist():
                    raise ProblemError(
                        f"the {part} targets hold class {wrong}, the model gives outputs {tuple(outputs.shape)}: "
                        f"its last layer has {outputs.shape[1]} outputs, it must have one for each class from 0 on"
                    )

    def fingerprint(self) -> str:
        """A hash of what makes the problem this one: data, model, loss and metric (hex, 16 digits).

        The model and the loss count by their layers and by what they answer to a few examples, to three digits, so
        that two functions of one name differ; the hash is the same in every process.
        """
        network = self.network(seed=0)
        digest = hashlib.sha256()
        for part in PARTS:
            digest.update(data_digest(getattr(self, part)))
        shapes = [(name, tuple(shape)) for name, shape in zip(network.names, network.shapes, strict=True)]
        described = [shapes, without_addresses(network.module), without_addresses(self.loss), self.metric.name]
        if not drawn_anew(self.train):
            batch = self.train.take(torch.arange(min(8, len(self.train))))
            loss = _tried(lambda: self.loss(network.outputs(batch.inputs), batch.targets), "the model fails on", *batch)
            described.append(f"{float(loss):.3g}")
        if self.difficulty is not None and not drawn_anew(self.train):
            described.append([f"{score:.3g}" for score in scores(self.difficulty, self.train).tolist()])
        digest.update(repr(described).encode())
        return digest.hexdigest()[:16]


def _tried(attempt: Callable[[], Any], what: str, *given: Any) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # a broadcast that is never meant
            return attempt()
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, UserWarning) as error:
        shapes = " and ".join(_said(value) for value in given)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProblemError(f"{what}{f' ({shapes})' if given else ''}: {reason}") from error


def _said(value: Any) -> str:
    """A tensor by its shape and dtype, anything else by its type."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _refuse_not_finite(values: Tensor, what: str) -> None:
    if not values.is_floating_point() or torch.isfinite(values).all():
        return
    nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
    raise ProblemError(
        f"the {what} hold {nan} NaN and {infinite} infinite numbers: fill them in, or drop their examples"
    )


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
