"""Causes before symptoms (section 8.2): data that is sorted is one finding, not seven.

Two graphs over the names of findings say what follows from what. `AT_ONCE` holds among findings of one moment and of
later ones: gradients that vanish make a plateau. `LATER` holds only where training lies between: a learning rate that
is too high kills units, but none that were dead before the first step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from thalweg.challenges.finding import SEVERITIES, Finding

MOMENTS = {"start": "before the first step", "run": "along the run", "end": "after the last step"}
STAGES = tuple(MOMENTS)
ALARMS = ("warning", "critical")

_STALLED = {"plateau", "gradient-flat region", "lr far too low", "update ratio"}
_STILL = {"saddle", "degenerate saddle", "minimum", "noise floor"}
_VIOLENT = {"lr above the stability limit", "cliff", "gradient spikes", "sharpness", "update ratio"}
_UNITS = {"dead units", "saturated units"}
_MEASURED_TOO = {"ill-conditioning", "gradient noise", "batch size"}
_SIGNAL = {"vanishing gradients", "exploding gradients", "signal propagation"}

# In this order they are named, where nothing else decides: the data, the units, the signal, the curvature, the steps.
AT_ONCE: dict[str, set[str]] = {
    "sorted data": {
        "gradient spikes", "plateau", "gradient noise", "overfitting", "resampling bias", "noise floor",
        "batch size", "batch too large", "lr above the stability limit", "lr far too low", "cliff", "update ratio",
    },
    "duplicated data": {"overfitting", "resampling bias", "gradient noise", "batch size", "batch too large"},
    "label noise": {"overfitting", "resampling bias", "gradient noise", "noise floor", "plateau", "batch size"},
    "symmetric units": {*_SIGNAL, *_STALLED, *_STILL, *_VIOLENT, *_UNITS, *_MEASURED_TOO},
    "dead units": {*_SIGNAL, *_STALLED, *_STILL, *_MEASURED_TOO, "sharpness"},
    "saturated units": {*_SIGNAL, *_STALLED, *_STILL, *_VIOLENT, *_MEASURED_TOO},
    "vanishing gradients": {*_STALLED, *_STILL, *_VIOLENT, *_MEASURED_TOO, "signal propagation"},
    "exploding gradients": {*_VIOLENT, *_STALLED, *_MEASURED_TOO, "signal propagation"},
    "ill-conditioning": {*_VIOLENT, "plateau", "lr far too low"},
    "lr above the stability limit": {
        "sharpness", "gradient spikes", "cliff", "plateau", "update ratio", "noise floor", "gradient noise",
        "resampling bias", "overfitting", "batch size", "lr far too low",
    },
    "lr far too low": {*_STALLED - {"lr far too low"}, *_STILL, "gradient noise", "overfitting"},
    "gradient noise": {"noise floor", "plateau", "gradient spikes", "update ratio", "batch size"},
    "overfitting": {"resampling bias"},
    "cliff": {"gradient spikes"},
}  # fmt: skip

_TRAINED = {*_UNITS, *_SIGNAL, *_STILL, *_STALLED, "ill-conditioning", "lr above the stability limit", "gradient noise"}
LATER: dict[str, set[str]] = {
    "sorted data": _TRAINED,
    "label noise": {"lr above the stability limit", "ill-conditioning", "gradient-flat region"},
    "exploding gradients": _TRAINED,
    "vanishing gradients": _TRAINED,
    "ill-conditioning": _TRAINED,
    "lr above the stability limit": _TRAINED,
    "gradient noise": {"lr above the stability limit", "dead units", "saturated units"},
}


class Seen(NamedTuple):
    """A finding and when it was made: one of `STAGES`."""

    finding: Finding
    stage: str


class Cause(NamedTuple):
    """A finding that no other explains: where else it was seen, and what it explains."""

    finding: Finding
    stage: str
    also: tuple[Finding, ...] = ()  # of the same name: other layers, other moments
    explains: tuple[Finding, ...] = ()

    @property
    def alarming(self) -> bool:
        """Whether it is a warning or worse."""
        return self.finding.severity in ALARMS


def causes(seen: Iterable[Seen]) -> list[Cause]:
    """What was seen, with symptoms under their causes; the worst first, and of equals the one that is further up.

    Findings of one name are one cause, its worst finding in front. Only an alarm explains others, and only alarms and
    what is unclear are explained; a note stands for itself. Pure.

    >>> from thalweg.core.measured import exactly
    >>> def found(name, severity):
    ...     return Finding(name, "", severity, exactly(1.0), "", "", "8.2", "")
    >>> seen = [Seen(found("plateau", "critical"), "run"), Seen(found("sorted data", "warning"), "start")]
    >>> [(cause.finding.name, [symptom.name for symptom in cause.explains]) for cause in causes(seen)]
    [('sorted data', ['plateau'])]
    """
    grouped: dict[str, list[Seen]] = {}
    for each in seen:
        grouped.setdefault(each.finding.name, []).append(each)
    groups = {name: sorted(group, key=_worst_first) for name, group in grouped.items()}
    since = {name: _since(group) for name, group in groups.items()}
    effects = {name: {other for other in groups if _explains(name, other, groups, since)} for name in groups}
    explained = set().union(*effects.values()) if effects else set()
    roots = [name for name in groups if name not in explained]
    found = [_cause(groups[name], [groups[n][0].finding for n in sorted(_below(name, effects))]) for name in roots]
    return sorted(found, key=_rank)


def _worst_first(seen: Seen) -> tuple[int, int]:
    return -SEVERITIES.index(seen.finding.severity), STAGES.index(seen.stage)


def _since(group: list[Seen]) -> int:
    """When it was first as bad as to be an alarm, or first seen where it never was."""
    alarms = [each for each in group if each.finding.severity in ALARMS]
    return min(STAGES.index(each.stage) for each in alarms or group)


def _explains(name: str, other: str, groups: dict[str, list[Seen]], since: dict[str, int]) -> bool:
    if groups[name][0].finding.severity not in ALARMS or groups[other][0].finding.severity == "note":
        return False
    at_once = since[name] <= since[other] and other in AT_ONCE.get(name, ())
    return at_once or (since[name] < since[other] and other in LATER.get(name, ()))


def _below(name: str, effects: dict[str, set[str]]) -> set[str]:
    """Everything that follows from a cause, and from what follows from it."""
    below: set[str] = set()
    waiting = [name]
    while waiting:
        further = effects[waiting.pop()] - below
        below |= further
        waiting.extend(further)
    return below


def _cause(group: list[Seen], explains: list[Finding]) -> Cause:
    first, *others = group
    return Cause(first.finding, first.stage, tuple(each.finding for each in others), tuple(explains))


def _rank(cause: Cause) -> tuple[int, int, str]:
    """By the worst of it and of what it explains, then by its place in the graph."""
    worst = max(SEVERITIES.index(each.severity) for each in (cause.finding, *cause.explains))
    worst = worst if cause.alarming else SEVERITIES.index(cause.finding.severity)
    order = [*AT_ONCE]
    name = cause.finding.name
    return -worst, order.index(name) if name in order else len(order), name
