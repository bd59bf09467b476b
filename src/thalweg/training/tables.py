"""A problem from a table: what to predict is inferred and said, preprocessing is fitted on the training part only."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from thalweg.core.errors import ProblemError
from thalweg.learning.risk import accuracy, rmse_in_units
from thalweg.training.columns import Target, features, refuse_unsupported, row_numbers, target_of
from thalweg.training.preprocessing import decode, encode, fit, transform, width
from thalweg.training.problem import Problem

__all__ = ["chance", "decode", "encode", "from_table", "mlp", "partition", "rebuilt", "split", "transform"]

PARTS = ("train", "valid", "test")
UP_TO = (0.6, 0.8)  # the fractions of the rows at which one part ends and the next begins


def from_table(frame: pl.DataFrame, target: str, seed: int = 0, name: str = "table") -> Problem:
    """The problem of predicting a column of a table from the others, by a multilayer perceptron sized to it.

    Text, booleans and up to 20 different whole numbers as a target make a classification (cross-entropy, judged by
    accuracy), other numbers a regression (mean squared error of the standardised target, judged by the RMSE in its
    own units). 60 % of the rows train, 20 % validate, 20 % test, stratified by class, drawn with `seed`. What was
    inferred, left out and grouped is said in `about["notes"]`.

    Raises ProblemError, saying what to do, for a target that is unknown, constant, missing or has a class with one
    example; for dates, infinities, too few rows, and a table without a usable column beside the target.

    >>> frame = pl.DataFrame({"x": [float(i % 7) for i in range(50)], "y": [i % 7 > 3 for i in range(50)]})
    >>> problem = from_table(frame, "y")
    >>> problem.about["task"], problem.preprocessing["labels"], len(problem.train)
    ('classification', ['false', 'true'], 30)
    """
    answer = target_of(frame, target)
    refuse_unsupported(frame)
    numbering = row_numbers(frame.drop(target))
    frame = frame.filter(answer.given)
    parts = split(frame.height, seed, answer.values if answer.task == "classification" else None)
    columns, notes = features(frame.drop(target), parts[0], numbering)
    if not columns.numeric + columns.categorical:
        why = "; ".join(notes) or "it is the only column"
        raise ProblemError(f"there is no column to learn '{target}' from: {why}")
    state = {"target": target, "task": answer.task, **_scale(answer, parts[0]), **fit(frame[parts[0]], *columns)}
    state["layers"] = _layers(width(state), len(answer.labels) or 1, len(parts[0]))
    train, valid, test = [(transform(state, frame[rows]), encode(state, frame[rows])) for rows in parts]
    batch_size = 32 if len(parts[0]) < 5000 else 128
    regression = answer.task == "regression"
    how = "at random" if regression else "stratified by class"
    return Problem(
        partial(mlp, state["layers"]),
        train,
        valid,
        test,
        loss=nn.functional.mse_loss if regression else nn.functional.cross_entropy,
        metric=rmse_in_units(state["scale"]) if regression else accuracy,
        name=name,
        epochs=min(100, max(5, round(1500 * batch_size / len(parts[0])))),
        batch_size=batch_size,
        chance=chance(train[1]),
        about={
            "task": answer.task,
            "target": target,
            "notes": answer.notes + notes,
            "split": partition(parts, seed, how),
        },
        preprocessing=state,
    )


def _scale(answer: Target, train: np.ndarray) -> dict[str, Any]:
    """What `encode` and `decode` need of the target: the labels in order, or the training part's mean and scale."""
    if answer.task == "classification":
        return {"labels": answer.labels, "boolean": answer.boolean}
    mean, scale = float(answer.values[train].mean()), float(answer.values[train].std())
    if scale == 0:
        raise ProblemError(
            f"the target '{answer.name}' is {mean:g} in all training rows: give more rows in which it differs"
        )
    return {"mean": mean, "scale": scale}


def _layers(inputs: int, outputs: int, rows: int) -> list[int]:
    hidden = 64 if rows < 1000 else 128 if rows < 20_000 else 256
    return [inputs, hidden, hidden // 2, outputs]


def partition(parts: list[np.ndarray], seed: int, how: str) -> dict[str, Any]:
    """A split as it is recorded: how it was drawn, from which seed, and the sizes of the parts."""
    return {"how": how, "seed": seed, **{name: len(rows) for name, rows in zip(PARTS, parts, strict=True)}}


def mlp(layers: list[int]) -> nn.Sequential:
    """A multilayer perceptron of rectified linear units with layers of these sizes, inputs and outputs included.

    >>> mlp([4, 8, 2])(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """
    modules: list[nn.Module] = []
    for before, after in pairwise(layers):
        modules += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def rebuilt(preprocessing: dict[str, Any]) -> nn.Sequential:
    """The module of a table's problem, from its preprocessing alone: what `predict` loads weights into.

    >>> rebuilt({"layers": [4, 8, 2]})(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """
    return mlp(preprocessing["layers"])


def chance(targets: Tensor) -> float:
    """The loss of knowing only the targets' distribution: entropy in nats for classes, variance for numbers.

    >>> round(chance(torch.tensor([0, 1, 0, 1])), 4)
    0.6931
    """
    if targets.is_floating_point():
        return float(targets.double().var(dim=0, correction=0).mean())
    p = torch.bincount(targets).double() / len(targets)
    return float(torch.special.entr(p).sum())


def split(n: int, seed: int, strata: np.ndarray | None = None) -> list[np.ndarray]:
    """The rows of the training, validation and test parts, 60/20/20, drawn with a seed, each in rising order.

    With `strata: (n,)` every class is spread over the parts in these proportions, by systematic sampling: its
    members, shuffled, stand at equal distances on one line, and the parts are cut from the line of all.

    >>> [len(part) for part in split(10, seed=0)]
    [6, 2, 2]
    """
    random = np.random.default_rng(seed)
    order = random.permutation(n)
    if strata is not None:
        position = np.empty(n)
        for stratum in np.unique(strata):
            members = order[strata[order] == stratum]
            position[members] = (np.arange(len(members)) + random.random()) / len(members)
        order = np.argsort(position, kind="stable")
    return [np.sort(part) for part in np.split(order, [round(fraction * n) for fraction in UP_TO])]
