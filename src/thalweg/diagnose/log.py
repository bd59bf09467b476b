"""What a monitor saw (section 8.2): figures over the steps, what the latest looks found, and since when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from thalweg.challenges import overfitting, spikes, stability, updates
from thalweg.challenges.finding import Finding
from thalweg.core.errors import CurvatureError
from thalweg.core.measured import Measured
from thalweg.core.network import Network
from thalweg.diagnose.causes import ALARMS, Cause, Seen, causes
from thalweg.diagnose.heard import Losses
from thalweg.diagnose.history import Series

SOON = 20  # steps that are the start of a run
RATIOS = 256  # of updates that are kept
FROM_THE_START = {"sorted data", "symmetric units"}  # whenever they were seen


class Log:
    """Figures and findings of the looks at a loop, and what could not be looked at."""

    def __init__(self) -> None:
        self.losses = Losses()
        self.series: dict[str, Series] = {}
        self.pairs: list[tuple[float, float]] = []  # (tr Sigma, |G|²) of looks at the noise
        self.refused: dict[str, str] = {}
        self.failures: dict[str, int] = {}  # of each look
        self.skipped = 0  # steps, by a scaler
        self._ratios: list[Tensor] = []
        self._latest: dict[str, list[Finding]] = {}
        self._since: dict[str, int] = {}

    def add(self, figure: str, step: int, value: float, ends: tuple[float, float] | None = None) -> None:
        """A figure of a step."""
        self.series.setdefault(figure, Series()).add(step, value, ends)

    def ratios(self, found: Tensor) -> None:
        """The `update_ratios` of a step."""
        self._ratios = [*self._ratios[1 - RATIOS :], found]

    def found(self, name: str, findings: list[Finding], step: int) -> None:
        """What a look found, in place of what it had found before."""
        self._latest[name] = findings
        for finding in findings:
            if finding.severity in ALARMS:
                self._since.setdefault(finding.name, step)

    def failed(self, name: str, error: Exception, step: int) -> None:
        """A look that could not be had, and why."""
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        self.refused[name] = f"{reason} (step {step})"
        self.failures[name] = self.failures.get(name, 0) + 1
        self.found(name, [stability.refused(error)] if isinstance(error, CurvatureError) else [], step)

    def causes(self, step: int, network: Callable[[], Network]) -> list[Cause]:
        """What the latest looks found, symptoms under their causes, the worst in front."""
        found = [finding for findings in self._latest.values() for finding in findings]
        found += self.losses.findings()
        norms = self.series.get("gradient norm", Series())
        if len(norms) > spikes.FIRST:
            found += spikes.findings(spikes.spikes(norms.values))
        if valid := self.series.get("validation loss"):
            found += overfitting.findings(overfitting.rise_of_curve(torch.tensor(valid.values)))
        if len(self._ratios) >= updates.FEWEST:
            found += updates.findings(updates.updates(network(), self._ratios))
        return causes(Seen(finding, self._stage(finding, step)) for finding in found)

    def _stage(self, finding: Finding, step: int) -> str:
        since = self._since.get(finding.name, step)
        return "start" if since <= SOON or finding.name in FROM_THE_START else "run"

    def state(self) -> dict[str, Any]:
        """It as plain data."""
        return {
            "skipped": self.skipped,
            "refused": dict(self.refused),
            "losses": self.losses.state(),
            "series": {name: series.state() for name, series in self.series.items()},
            "ratios": [ratios.tolist() for ratios in self._ratios],
            "pairs": [list(pair) for pair in self.pairs],
            "latest": {name: [asdict(finding) for finding in found] for name, found in self._latest.items()},
            "since": dict(self._since),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from plain data."""
        self.skipped, self.refused = state["skipped"], dict(state["refused"])
        self.losses.load(state["losses"])
        self.series = {name: Series() for name in state["series"]}
        for name, series in self.series.items():
            series.load(state["series"][name])
        self._ratios = [torch.tensor(ratios) for ratios in state["ratios"]]
        self.pairs = [(trace, squared) for trace, squared in state["pairs"]]
        self._latest = {name: [_finding(each) for each in found] for name, found in state["latest"].items()}
        self._since = dict(state["since"])


def _finding(plain: Mapping[str, Any]) -> Finding:
    return Finding(**{**plain, "measured": Measured(*plain["measured"])})
