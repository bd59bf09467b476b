"""What a diagnosis finds: a difficulty, where it is, how it was measured, and what to do (section 8.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from thalweg.core.measured import Measured

Severity = Literal["note", "unclear", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("note", "unclear", "warning", "critical")  # from what is only said to the worst


@dataclass(frozen=True)
class Finding:
    """A difficulty that was looked for and seen, or could not be told.

    `name` is the difficulty, one of a fixed set ("sorted data"); `what` says it in a sentence with its figure; `where`
    is a layer or a parameter, "" for the whole. `rule` is what the figure was held against, `source` who says so,
    `section` the book's. `advice` is what to do, and `remedy` the same as changes to a recipe, where it is that.

    A note is no alarm; what is unclear is "cannot tell", and says what would be needed to tell.

    >>> found = Finding("sorted data", "batches repeat each other: 64 examples count as 1.1", "warning",
    ...                 Measured(60.0, 55.0, 66.0, 90), "a design effect above 2", "Kish 1965", "8.1.3",
    ...                 "shuffle the examples before each epoch")
    >>> print(found)
    warning: sorted data: batches repeat each other: 64 examples count as 1.1
        measured 60.0 (55.0 to 66.0), against a design effect above 2 (Kish 1965; section 8.1.3)
        do: shuffle the examples before each epoch
    """

    name: str
    what: str
    severity: Severity
    measured: Measured
    rule: str
    source: str
    section: str
    advice: str
    where: str = ""
    remedy: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        where = f" in {self.where}" if self.where else ""
        return (
            f"{self.severity}: {self.name}{where}: {self.what}\n"
            f"    measured {self.measured}, against {self.rule} ({self.source}; section {self.section})\n"
            f"    do: {self.advice}"
        )
