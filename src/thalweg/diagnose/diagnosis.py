"""What a diagnosis says: causes with their symptoms, what could not be measured, what it cost."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.challenges.finding import Finding
from thalweg.core.errors import StorageError
from thalweg.diagnose.causes import MOMENTS as MOMENTS
from thalweg.diagnose.causes import Cause
from thalweg.diagnose.trying import Tried
from thalweg.training.checkpoint import write
from thalweg.training.recipe import Recipe

VERSION = 1  # of the JSON
LONG = 20_000  # numbers in a tensor, beyond which it is a direction in parameter space and only its shape is told


class Cost(NamedTuple):
    """What a diagnosis took: seconds, the run among them, and as how many gradients of a batch that is."""

    seconds: float
    gradients: float
    trained: int  # steps of the run that was watched

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, as long as {self.gradients:,.0f} gradients, of which {self.trained:,} were steps"


NOTHING = Cost(0.0, 0.0, 0)


@dataclass(frozen=True)
class Diagnosis:
    """What was found of a problem and a recipe; going over it gives the findings, causes first, the worst in front.

    `measurements` are what was measured, by moment ("start", "run", "end") and name; `refusals` say of what could not
    be measured why; `tried` holds, by the name of a finding, what came of its advice.
    """

    problem: str
    recipe: Recipe
    seed: int
    causes: list[Cause]
    measurements: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    tried: dict[str, Tried | str] = field(default_factory=dict)
    cost: Cost = NOTHING

    def __iter__(self) -> Iterator[Finding]:
        return (cause.finding for cause in self.causes)

    @property
    def alarms(self) -> list[Cause]:
        """The causes that are warnings or worse."""
        return [cause for cause in self.causes if cause.alarming]

    @property
    def headline(self) -> str:
        """It in a sentence."""
        names = [cause.finding.name for cause in self.alarms]
        unclear = sum(cause.finding.severity == "unclear" for cause in self.causes)
        rest = f"; {unclear} could not be told" if unclear else ""
        if not names:
            return f"No difficulty was found{rest}."
        count = "One difficulty was" if len(names) == 1 else f"{len(names)} difficulties were"
        return f"{count} found: {', '.join(names)}{rest}."

    def text(self) -> str:
        """It for people, as lines of at most 100 characters."""
        parts = [self.headline]
        notes = [(where(finding), finding.what) for finding in self if finding.severity == "note"]
        for cause in self.causes:
            if cause.finding.severity != "note":
                parts.append(_cause_text(cause, self.tried.get(cause.finding.name)))
        for heading, lines in (("noted", notes), ("not measured", list(self.refusals.items()))):
            if lines:
                said = [_wrapped(f"- {name}: {what}", "  ", "    ") for name, what in lines]
                parts.append("\n".join([heading, *said]))
        return "\n\n".join([*parts, f"it took {self.cost}"])

    def json(self) -> dict[str, Any]:
        """It as plain data: numbers that are none are null."""
        found: dict[str, Any] = plain(
            {
                "version": VERSION,
                "problem": self.problem,
                "recipe": asdict(self.recipe),
                "seed": self.seed,
                "headline": self.headline,
                "causes": [_cause_json(cause, self.tried.get(cause.finding.name)) for cause in self.causes],
                "measurements": self.measurements,
                "refusals": self.refusals,
                "cost": self.cost,
            }
        )
        return found


def where(finding: Finding) -> str:
    """The name of a finding with its place."""
    return f"{finding.name} in {finding.where}" if finding.where else finding.name


def rows(cause: Cause, tried: Tried | str | None = None) -> list[tuple[str, str]]:
    """What there is to say of a cause: what it is called, and the sentence."""
    finding = cause.finding
    said = [
        ("seen", f"{finding.what} ({MOMENTS[cause.stage]})"),
        ("measured", f"{finding.measured}, against {finding.rule} ({finding.source})"),
        ("do", finding.advice),
    ]
    if tried is not None:
        said.append(("tried", str(tried).removeprefix("tried ")))
    if also := list(dict.fromkeys(other.where for other in cause.also if other.where not in ("", finding.where))):
        said.append(("also in", ", ".join(also)))
    if cause.explains:
        said.append(("explains", ", ".join(dict.fromkeys(other.name for other in cause.explains))))
    return said


def _cause_text(cause: Cause, tried: Tried | str | None) -> str:
    finding = cause.finding
    said = [_wrapped(what, f"  {name:<9} ", " " * 12) for name, what in rows(cause, tried)]
    return "\n".join([f"{finding.severity}: {where(finding)} (section {finding.section})", *said])


def _wrapped(text: str, first: str, further: str) -> str:
    return textwrap.fill(text, 100, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)


def _cause_json(cause: Cause, tried: Tried | str | None) -> dict[str, Any]:
    trial: Any = tried
    if isinstance(tried, Tried):
        trial = {**asdict(tried), "difference": tried.difference, "helped": tried.helped, "said": str(tried)}
    return {
        **asdict(cause.finding),
        "measured": cause.finding.measured,
        "stage": cause.stage,
        "also": [{"where": other.where, "severity": other.severity, "what": other.what} for other in cause.also],
        "explains": [
            {"name": o.name, "where": o.where, "severity": o.severity, "what": o.what} for o in cause.explains
        ],
        "tried": trial,
    }


def save(diagnosis: Diagnosis, folder: Path) -> None:
    """Writes it into a folder, made if need be, as diagnosis.json and diagnosis.txt."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {(error.strerror or str(error)).lower()}") from error
    write(folder / "diagnosis.json", json.dumps(diagnosis.json(), indent=1, allow_nan=False).encode())
    write(folder / "diagnosis.txt", f"{diagnosis.text()}\n".encode())


def plain(value: Any) -> Any:
    """A value as strict JSON has it: named tuples by their names, tensors as lists, what is no number as null.

    >>> from thalweg.core.measured import Measured
    >>> plain({"lr": Measured(1.0, 0.5, math.inf, 3)})
    {'lr': {'value': 1.0, 'low': 0.5, 'high': None, 'n': 3}}
    """
    if isinstance(value, Tensor):
        return plain(value.tolist()) if value.numel() <= LONG else {"shape": list(value.shape)}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
