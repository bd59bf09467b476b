"""The record of a comparison: one SQLite file, written as it goes, that a stopped study goes on from."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from thalweg.core.errors import StorageError
from thalweg.learning.risk import Metric
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    key TEXT PRIMARY KEY, stage TEXT, algorithm TEXT, recipe TEXT, seed INTEGER, outcome TEXT, steps INTEGER,
    curve TEXT, cpu_seconds REAL, message TEXT, control INTEGER);
"""


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    `stage` is "screening" (quasi-random points), "refinement" (near the survivors), "widening" (past the edge of a
    space), "confirmation" (fresh seeds) or "final". `outcome` is "running", "cut" (stopped early by halving),
    "finished", "diverged" or "failed" (`message` says why). A `control` was cut and then run to its end all the
    same, to see what cutting loses.
    """

    key: str
    stage: str
    algorithm: str
    recipe: Recipe
    seed: int
    outcome: str = "running"
    steps: int = 0
    curve: list[Point] = field(default_factory=list)
    cpu_seconds: float = 0.0
    message: str = ""
    control: bool = False

    def best(self, metric: Metric, until: int | None = None) -> Point | None:
        """The best measured point by the metric (the loss breaks ties), of those up to step `until`."""
        points = [p for p in self.curve if until is None or p.t <= until]
        return min(points, key=lambda p: (metric.cost(p.valid_metric), p.valid_loss), default=None)

    def cost(self, metric: Metric, until: int | None = None) -> tuple[float, float]:
        """What is made small in choosing: (metric as a cost, validation loss) at the best point; inf once diverged."""
        lost = self.outcome in ("diverged", "failed") and (until is None or self.steps <= until)
        point = None if lost else self.best(metric, until)
        return (math.inf, math.inf) if point is None else (metric.cost(point.valid_metric), point.valid_loss)


class Record:
    """A study's database. Every write is committed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")  # a power cut may cost the last trial, never the file
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{path} is not a study: {error}; give another --out or move it away") from error

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def facts(self) -> dict[str, Any]:
        """What is known of the study: problem, plan, sanity, decisions, verdict, final."""
        return {name: json.loads(value) for name, value in self._db.execute("SELECT name, value FROM facts")}

    def note(self, name: str, value: Any) -> None:
        """Writes a fact, over an older one of that name."""
        self._execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    def write(self, trial: Trial) -> None:
        """Writes a trial, over an older state of it."""
        row = (
            trial.key,
            trial.stage,
            trial.algorithm,
            json.dumps(asdict(trial.recipe)),
            trial.seed,
            trial.outcome,
            trial.steps,
            json.dumps([list(point) for point in trial.curve]),
            trial.cpu_seconds,
            trial.message,
            int(trial.control),
        )
        self._execute("INSERT OR REPLACE INTO trials VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)

    def trials(self) -> list[Trial]:
        """Every trial, in the order of their keys."""
        return list(self._trials())

    def _trials(self) -> Iterator[Trial]:
        for row in self._db.execute("SELECT * FROM trials ORDER BY key"):
            key, stage, algorithm, recipe, seed, outcome, steps, curve, cpu_seconds, message, control = row
            points = [Point(*p) for p in json.loads(curve)]
            made = Recipe(**json.loads(recipe))
            yield Trial(key, stage, algorithm, made, seed, outcome, steps, points, cpu_seconds, message, bool(control))

    def _execute(self, statement: str, row: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, row)
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"cannot write {self.path}: {error}; free some space, then type the same command to go on"
            ) from error


def digest(trials: list[Trial]) -> str:
    """A hash of all that a study found, without its times: equal for two runs of the same study (hex)."""
    rows = [asdict(replace(trial, cpu_seconds=0.0)) for trial in sorted(trials, key=lambda t: t.key)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
