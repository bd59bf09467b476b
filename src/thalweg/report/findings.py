"""A diagnosis on a terminal: causes first, the worst in front, what to do in each."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from thalweg.diagnose.causes import Cause
from thalweg.diagnose.diagnosis import Diagnosis, rows, where

COLOURS = {"critical": "bold red", "warning": "yellow", "unclear": "magenta", "note": "dim"}


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Prints what was found, what could not be told, what could not be measured, and what it cost."""
    console.print(Text(diagnosis.headline, style="bold"))
    for cause in diagnosis.causes:
        if cause.finding.severity != "note":
            console.print()
            console.print(_heading(cause))
            console.print(_table(diagnosis, cause))
    notes = [cause.finding for cause in diagnosis.causes if cause.finding.severity == "note"]
    _print_list(console, "noted", [(where(finding), finding.what) for finding in notes])
    _print_list(console, "not measured", list(diagnosis.refusals.items()))
    console.print(Text(f"\nit took {diagnosis.cost}", style="dim"))


def _heading(cause: Cause) -> Text:
    finding = cause.finding
    heading = Text.assemble((f"{finding.severity}  ", COLOURS[finding.severity]), (where(finding), "bold"))
    return heading.append(f"  section {finding.section}", "dim")


def _table(diagnosis: Diagnosis, cause: Cause) -> Padding:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, said in rows(cause, diagnosis.tried.get(cause.finding.name)):
        table.add_row(name, Text(said))
    return Padding(table, (0, 0, 0, 2))


def _print_list(console: Console, heading: str, lines: list[tuple[str, str]]) -> None:
    if lines:
        console.print(Text(f"\n{heading}", style="dim"))
    for name, said in lines:
        console.print(Padding(Text(f"{name}: {said}", style="dim"), (0, 0, 0, 2)))
