"""What a figure is made of: panels with axes, lines and marks, in percent of the panel; the template draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from thalweg.report.scales import Tick


class Mark(NamedTuple):
    """A point that can be pointed at: where (percent from the left and the top), and what it says of its algorithm.

    `shape` is "dot", "large" (a mean or median), "hollow" (cut early), "cross" (diverged) or "chosen".
    """

    x: float
    y: float
    text: str
    shape: str = "dot"


class Cell(NamedTuple):
    """A rectangle in percent, filled with a level from 0 (low) to `LEVELS` - 1, and what it says where it says any."""

    x: float
    y: float
    width: float
    height: float
    level: int
    text: str = ""


LEVELS = 12  # colours between the lowest and the highest: page.css has as many


class Line(NamedTuple):
    """A path in percent; `kind` is "thin" (a seed), "thick" (a median), "interval", "area" (a closed one) or "bar"."""

    path: str
    kind: str


class Guide(NamedTuple):
    """A line across a panel, upright at `at` percent, or level where it is `flat`; it may say what it is."""

    at: float
    label: str = ""
    flat: bool = False


@dataclass(frozen=True)
class Series:
    """What belongs together in a panel: an algorithm's, say; `colour` counts from 0, the best algorithm's."""

    name: str
    colour: int
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `ends` label things at the right border, `band` names a strip that is kept free on top;
    `says` is the panel in words, for who cannot see it."""

    title: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    series: list[Series]
    guides: list[Guide] = field(default_factory=list)
    ends: list[tuple[Tick, int]] = field(default_factory=list)
    band: str = ""
    says: str = ""


@dataclass(frozen=True)
class Variant:
    """One way of looking at a figure; `key` is a narrow panel that says what its colours mean."""

    label: str
    panels: list[Panel]
    x_label: str
    y_label: str = ""
    key: Panel | None = None


class Table(NamedTuple):
    """The figures behind a figure."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A figure. `layout` is "wide" (one panel), "facets" (one per algorithm), "rows" (a row per algorithm), "measures"
    (a panel of rows per measure), "layers" (two panels of rows) or "map" (a square panel).

    `each` is what its series are, `picked` the row that is set off; its table is `shown` or has to be opened.
    """

    key: str
    title: str
    caption: str
    layout: str
    variants: list[Variant]
    table: Table
    each: str = "algorithm"
    picked: str = ""
    shown: bool = False

    @property
    def together(self) -> bool:
        """Whether some of its series share a panel."""
        return any(len(panel.series) > 1 for variant in self.variants for panel in variant.panels)

    @property
    def legend(self) -> list[tuple[str, int]]:
        """Its series with their colours, each once."""
        series = (s for variant in self.variants for panel in variant.panels for s in panel.series)
        return sorted({(s.name, s.colour) for s in series}, key=lambda named: named[1])


def path(points: Iterable[tuple[float, float]]) -> str:
    """An SVG path through points, to a tenth of a percent.

    >>> path([(0, 10), (50, 20.54)])
    'M0 10L50 20.5'
    """
    return "M" + "L".join(f"{round(x, 1):g} {round(y, 1):g}" for x, y in points)


def spread(ticks: Sequence[Tick], gap: float) -> list[Tick]:
    """Ticks moved apart as little as makes them `gap` percent distant, in their order.

    >>> [tick.at for tick in spread([Tick(50, "a"), Tick(50, "b")], 10)]
    [45.0, 55.0]
    """
    order = sorted(range(len(ticks)), key=lambda i: ticks[i].at)
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _top(groups[-1], ticks, gap) < _top(groups[-2], ticks, gap) + gap * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    at = {i: _top(group, ticks, gap) + k * gap for group in groups for k, i in enumerate(group)}
    return [Tick(at[i], tick.label) for i, tick in enumerate(ticks)]


def _top(group: list[int], ticks: Sequence[Tick], gap: float) -> float:
    height = gap * (len(group) - 1)
    middle = sum(ticks[i].at for i in group) / len(group)
    return min(max(middle - height / 2, 0.0), 100.0 - height)
