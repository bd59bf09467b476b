"""diagnosis.html: one file that holds a whole diagnosis."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from thalweg.challenges.finding import SEVERITIES
from thalweg.diagnose.causes import Cause
from thalweg.diagnose.diagnosis import MOMENTS, Diagnosis
from thalweg.diagnose.trying import Tried
from thalweg.report.frame import filled, write
from thalweg.report.interval import attempt, interval
from thalweg.report.panels import Panel
from thalweg.report.pictures import pictures
from thalweg.report.words import spoken

MOST = 300_000  # characters of JSON


class Card(NamedTuple):
    """A cause as the page shows it: what was measured as a picture, and its advice before and after."""

    cause: Cause
    measured: str
    interval: Panel | None
    tried: str
    attempt: Panel | None
    also: list[str]  # where else it was seen


def write_diagnosis(diagnosis: Diagnosis, path: Path) -> None:
    """Writes a diagnosis as one self-contained HTML page.

    What users wrote (names of layers and files, errors) is escaped; a content security policy lets nothing run or load
    but the page's own style and script, by their hashes. Raises StorageError where it cannot be written.
    """
    write(render_diagnosis(diagnosis), path)


def render_diagnosis(diagnosis: Diagnosis) -> str:
    """The page as text.

    >>> from thalweg.training.recipe import Recipe
    >>> "No difficulty was found." in render_diagnosis(Diagnosis("digits", Recipe("adam", 100), 0, []))
    True
    """
    return filled("diagnosis.html", content(diagnosis))


def content(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the page says, by the names that the template uses."""
    cards = [_card(cause, diagnosis.tried.get(cause.finding.name)) for cause in diagnosis.causes]
    whole = diagnosis.json()
    text = _json(whole)
    counts = {severity: 0 for severity in reversed(SEVERITIES)}
    for cause in diagnosis.causes:
        counts[cause.finding.severity] += 1
    return {
        "diagnosis": diagnosis,
        "alarms": [card for card in cards if card.cause.alarming],
        "unclear": [card for card in cards if card.cause.finding.severity == "unclear"],
        "notes": [card for card in cards if card.cause.finding.severity == "note"],
        "counts": counts,
        "moments": MOMENTS,
        "figures": pictures(diagnosis),
        "looked": [(MOMENTS[moment], _names(found)) for moment, found in diagnosis.measurements.items()],
        "whole": len(text) <= MOST,
        "json": text if len(text) <= MOST else _json({**whole, "measurements": {}}),
        "version": version("thalweg"),
    }


def _names(measured: dict[str, Any]) -> list[str]:
    return [name for name, each in measured.items() if each is not None]


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def _card(cause: Cause, tried: Tried | str | None) -> Card:
    finding = cause.finding
    also = list(dict.fromkeys(other.where for other in cause.also if other.where not in ("", finding.where)))
    said = "" if tried is None else str(tried).removeprefix("tried ")
    drawn = attempt(tried) if isinstance(tried, Tried) else None
    return Card(cause, spoken(finding.measured), interval(finding.measured), said, drawn, also)
