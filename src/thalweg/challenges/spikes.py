"""Gradients that spike (section 8.2.4)."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding, Severity
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, proportion, quantile

WINDOW, FIRST = 128, 25  # steps that a norm is held against, and the fewest of them
DEVIATIONS, TIMES = 6.0, 8.0  # above the median in the logarithm, of a normal one's deviations, and in times the median
OFTEN = 0.01  # of the steps
CLIPPED = 0.9  # the quantile of the norms at which to clip


class Spikes(NamedTuple):
    """The steps whose gradient is out of line with the steps before, and a length to clip at.

    `clip` is the 90th percentile of the norms that are no spikes, its interval by order statistics.
    """

    at: tuple[int, ...]
    highest: float  # in times the median of the steps before it
    often: Measured
    clip: Measured


def spikes(norms: Sequence[float] | Tensor) -> Spikes:
    """Finds the spikes in the lengths of the unclipped gradients (steps,) of a run.

    A norm is a spike where it is 8 times the median of up to 128 steps before it, and 6 robust deviations above in
    the logarithm; what is not finite is one. Later norms are not held against spikes. Raises DiagnosisError for fewer
    than 26 steps.

    >>> spikes([1.0, 1.1] * 30 + [50.0] + [1.0, 1.1] * 10).at
    (60,)
    """
    norms = torch.as_tensor(norms, dtype=torch.float64)
    if len(norms) <= FIRST:
        raise DiagnosisError(f"{len(norms)} gradients were given: a spike is one among more than {FIRST}")
    at: list[int] = []
    usual: list[float] = []
    before = _Window()
    highest = 0.0
    for t, norm in enumerate(norms.tolist()):
        times = before.times(norm)
        if times:
            at.append(t)
            highest = max(highest, times)
        elif norm > 0:
            usual.append(norm)
            before.take(norm)
    return Spikes(
        tuple(at), highest, proportion(len(at), len(norms)), quantile(torch.tensor(usual, dtype=torch.float64), CLIPPED)
    )


class _Window:
    """The logarithms of the last norms that were no spikes, in the order of time and in that of size."""

    def __init__(self) -> None:
        self.logs: deque[float] = deque()
        self.ordered: list[float] = []

    def take(self, norm: float) -> None:
        self.logs.append(math.log(norm))
        insort(self.ordered, self.logs[-1])
        if len(self.logs) > WINDOW:
            del self.ordered[bisect_left(self.ordered, self.logs.popleft())]

    def times(self, norm: float) -> float:
        """How many times the median a norm is, if that makes it a spike; else 0."""
        if not math.isfinite(norm):
            return math.inf
        if len(self.ordered) < FIRST or norm <= 0:
            return 0.0
        middle = self.ordered[len(self.ordered) // 2]
        above = math.log(norm) - middle
        if above <= math.log(TIMES):
            return 0.0
        deviation = 1.4826 * median(abs(x - middle) for x in self.ordered)  # a normal one's
        return math.exp(above) if above > DEVIATIONS * deviation else 0.0


def findings(measured: Spikes) -> list[Finding]:
    """Spikes: one is a note, more than one in a hundred steps a warning, one that is not finite critical."""
    if not measured.at:
        return []
    count, n = len(measured.at), measured.often.n
    severity: Severity = "note"
    if measured.highest == math.inf:
        severity = "critical"
    elif measured.often.low > OFTEN:
        severity = "warning"
    remedy = {"clip_norm": measured.clip.value} if severity != "note" else {}
    return [
        Finding(
            "gradient spikes",
            f"{count} of {n} gradients are out of line, up to {measured.highest:.3g} times as long as usual",
            severity,
            measured.often,
            f"more than {OFTEN:.0%} of the steps above {TIMES:g} times the median and {DEVIATIONS:g} deviations",
            "tuning playbook, Godbole et al. 2023; OLMo",
            "8.2.4",
            f"clip gradients to a length of {measured.clip.value:.2g}, and look at the batches of those steps"
            if remedy
            else "nothing: a few come with any data",
            remedy=remedy,
        )
    ]
