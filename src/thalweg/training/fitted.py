"""What a fit came to, in memory and as the JSON beside its model."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thalweg.core.errors import StorageError
from thalweg.core.network import Network
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

RESULT = "result.json"


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it came about.

    `network` holds the best parameters by the validation metric, or what training on all the data made of them;
    `curve` is what was measured in training, `further` what was measured on the way to all the data, `test` the
    (loss, metric) on the test part, computed once at the end. `notes` say what happened, in words.
    """

    network: Network
    recipe: Recipe
    seed: int
    curve: list[Point]
    further: list[Point]
    best: Point
    test: tuple[float, float] | None
    notes: list[str]
    folder: Path | None = None


def result(problem: Problem, fitted: Fitted) -> dict[str, Any]:
    """What a fit found, for JSON: the same for the same problem, recipe and seed (numbers that are none are null)."""
    metric = {"name": problem.metric.name, "higher_is_better": problem.metric.higher_is_better}
    test = None if fitted.test is None else dict(zip(("loss", "metric"), map(_finite, fitted.test), strict=True))
    return {
        "problem": problem.name,
        "recipe": asdict(fitted.recipe),
        "seed": fitted.seed,
        "metric": metric,
        "best": _measured(fitted.best),
        "test": test,
        "notes": fitted.notes,
        "curve": [_measured(point) for point in fitted.curve],
        "further": [_measured(point) for point in fitted.further],
    }


def _measured(point: Point) -> dict[str, Any]:
    return {name: _finite(value) for name, value in point._asdict().items()}


def _point(measured: dict[str, Any]) -> Point:
    return Point(measured["t"], *(_number(measured[name]) for name in Point._fields[1:]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def recorded(folder: Path, network: Network, recipe: Recipe) -> Fitted:
    """The result that a folder keeps; raises StorageError where it is damaged."""
    try:
        known = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        curve, further = ([_point(p) for p in known[part]] for part in ("curve", "further"))
        test = known["test"] and (_number(known["test"]["loss"]), _number(known["test"]["metric"]))
        best, seed, notes = _point(known["best"]), known["seed"], known["notes"]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise StorageError(f"{folder / RESULT} is damaged") from error
    notes = [*notes, f"this was finished before: {folder} is as it was"]
    return Fitted(network, recipe, seed, curve, further, best, test, notes, folder)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
