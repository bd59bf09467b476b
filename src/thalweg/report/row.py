"""A row of a figure, and the panel that rows make: one below the other on a common axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thalweg.report.panels import Guide, Line, Mark, Panel, Series, path
from thalweg.report.scales import TICKS, Scale, Tick, linear
from thalweg.report.words import number


@dataclass(frozen=True)
class Row:
    """A row: seeds' values (small), the one that counts (large), perhaps an interval, and what is written beside."""

    name: str
    values: Sequence[float]
    centre: float | None
    beside: str
    interval: tuple[float, float] | None = None
    text: str = ""


def panel(title: str, rows: Sequence[Row], colours: Mapping[str, int], x: Scale, guides: Sequence[Guide] = ()) -> Panel:
    """Rows from top to bottom, each a series of its own."""
    height = 100 / len(rows)
    series, y_ticks, ends = [], [], []
    for i, row in enumerate(rows):
        y = round((i + 0.5) * height, 2)
        marks = [Mark(x.at(v), y, f"a seed at {number(v)}") for v in row.values if math.isfinite(v)]
        lines = []
        if row.interval is not None:
            lines.append(Line(path((x.at(v), y) for v in row.interval), "interval"))
        if row.centre is not None and math.isfinite(row.centre):
            marks.append(Mark(x.at(row.centre), y, row.text or row.beside, "large"))
        series.append(Series(row.name, colours[row.name], lines, marks))
        y_ticks.append(Tick(y, row.name))
        ends.append((Tick(y, row.beside), colours[row.name]))
    return Panel(title, x.ticks, y_ticks, series, list(guides), ends)


def around(rows: Sequence[Row], zero: bool = False, ticks: int = TICKS) -> Scale:
    """A linear scale around all that rows show; from 0 where `zero`."""
    values = [v for row in rows for v in (*row.values, *(row.interval or ()))]
    return linear([*values, *(row.centre for row in rows if row.centre is not None)], zero=zero, ticks=ticks)
