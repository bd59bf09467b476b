"""What a comparison gives: the study, read from its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from thalweg.comparison.study import Record, Trial
from thalweg.comparison.verdict import Verdict, judge
from thalweg.core.errors import StorageError
from thalweg.learning.risk import Metric
from thalweg.training.recipe import Recipe


@dataclass(frozen=True)
class Study:
    """A finished or stopped comparison, as its folder records it.

    `facts` holds what was written along the way: "problem", "settings", "sanity", "plan", "decisions", "pruning",
    "remarks", "why", "final", "machine", "times".
    """

    folder: Path
    facts: dict[str, Any]
    trials: list[Trial]

    @classmethod
    def open(cls, folder: Path | str) -> Study:
        """Reads a study. Raises StorageError where there is none."""
        folder = Path(folder)
        if not (folder / "study.db").is_file():
            raise StorageError(f"there is no study in {folder}: compare writes one (its --out)")
        record = Record(folder / "study.db")
        try:
            return cls(folder, record.facts(), record.trials())
        finally:
            record.close()

    @property
    def metric(self) -> Metric:
        """The metric's name, direction and bounds (the function itself stays with the problem)."""
        return Metric(fn=_not_here, **self.facts["problem"]["metric"])

    def of(self, stage: str) -> list[Trial]:
        """The trials of a stage, in order."""
        return [trial for trial in self.trials if trial.stage == stage]

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on the confirmation runs. Raises StorageError for a study that has not come so far."""
        confirmations = [t for t in self.of("confirmation") if t.outcome != "running"]
        if not confirmations:
            raise StorageError(f"the study in {self.folder} has no verdict yet: type the same command to go on")
        return judge(confirmations, self.metric)

    def report(self, path: Path | str) -> None:
        """Copies the report, which the study's folder holds as report.html, to where you want it."""
        shutil.copy(self.folder / "report.html", path)

    @property
    def recipe(self) -> Recipe:
        """The recommended recipe."""
        return next(s.recipe for s in self.verdict.standings if s.algorithm == self.verdict.recommended)


def _not_here(outputs: Tensor, targets: Tensor) -> float:
    raise NotImplementedError("a study read from its folder knows its metric's name, not its function")
