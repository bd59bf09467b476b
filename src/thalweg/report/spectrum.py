"""The spectrum of the Hessian as a picture: how its eigenvalues are spread, and where the step becomes too long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from thalweg.core.measured import Measured
from thalweg.report.panels import Figure, Guide, Line, Mark, Panel, Series, Table, Variant, path
from thalweg.report.scales import Scale, logarithmic, symmetric
from thalweg.report.words import number, percent, spoken

BINS = 40  # along the axis
_TOP = 16.0  # percent of the panel, on top, where the ends of the spectrum are drawn


class Density(NamedTuple):
    """Eigenvalues with their shares of the spectrum (which sum to 1), its ends, and the stability limit."""

    values: Sequence[float]
    weights: Sequence[float]
    largest: Measured | None = None
    smallest: Measured | None = None
    limit: float | None = None


class _Bin(NamedTuple):
    left: float  # percent of the axis
    right: float
    low: float  # eigenvalues
    high: float
    share: float


def spectrum(views: Mapping[str, Density]) -> Figure:
    """The density of eigenvalues, on an axis that is logarithmic to both sides of 0; a view per moment.

    >>> figure = spectrum({"at the start": Density([-0.1, 0.0, 4.0], [0.1, 0.7, 0.2], limit=20.0)})
    >>> figure.table.rows[-1]
    ['at the start', '4', '4', '20 %']
    """
    binned = {label: (density, _axis(density)) for label, density in views.items()}
    variants = [
        Variant(label, [_panel(density, x)], "eigenvalue of the Hessian", "share of the eigenvalues")
        for label, (density, x) in binned.items()
    ]
    rows = [
        [label, number(b.low), number(b.high), percent(b.share)]
        for label, (density, x) in binned.items()
        for b in _bins(density, x)
    ]
    caption = (
        "How many directions have which curvature. Left of 0 the loss curves down, right of it up; what lies right of "
        "the dashed line is too steep for the recipe's full lr. The bars on top are the intervals of both ends."
    )
    head = ["seen", "from eigenvalue", "to eigenvalue", "share"]
    return Figure("spectrum", "Spectrum", caption, "wide", variants, Table(head, rows), each="line")


def _axis(density: Density) -> Scale:
    ends = [v for end in (density.largest, density.smallest) if end is not None for v in (end.low, end.high)]
    limit = [] if density.limit is None else [density.limit]
    largest = max((abs(v) for v in density.values if math.isfinite(v)), default=0.0)
    return symmetric([*density.values, *ends, *limit], smallest=1e-4 * largest)


def _bins(density: Density, x: Scale) -> list[_Bin]:
    """What is not empty, from left to right."""
    width, bins = 100 / BINS, dict[int, list[tuple[float, float]]]()
    for value, weight in zip(density.values, density.weights, strict=True):
        if math.isfinite(value) and weight > 0:
            bins.setdefault(min(int(x.at(value) / width), BINS - 1), []).append((value, weight))
    return [
        _Bin(i * width, (i + 1) * width, min(v for v, _ in b), max(v for v, _ in b), sum(w for _, w in b))
        for i, b in sorted(bins.items())
    ]


def _panel(density: Density, x: Scale) -> Panel:
    bins = _bins(density, x)
    y = logarithmic([min((b.share for b in bins), default=1.0) / 3, 1.0], start=100, end=_TOP)
    lines, marks = [], []
    for b in bins:
        top = y.at(b.share)
        lines.append(Line(path([(b.left, 100), (b.left, top), (b.right, top), (b.right, 100)]) + "Z", "area"))
        where = number(b.low) if b.low == b.high else f"{number(b.low)} to {number(b.high)}"
        marks.append(Mark((b.left + b.right) / 2, top, f"{where}: {percent(b.share)} of them"))
    both = {"smallest": density.smallest, "largest": density.largest}
    ends = {name: end for name, end in both.items() if end is not None and math.isfinite(end.value)}
    bars = [Line(path((x.at(v), _TOP / 2) for v in (end.low, end.high)), "interval") for end in ends.values()]
    tips = [Mark(x.at(end.value), _TOP / 2, f"the {name}: {spoken(end)}", "large") for name, end in ends.items()]
    series = [Series("eigenvalues", 0, lines, marks), *([Series("ends", 1, bars, tips)] if ends else [])]
    guides = [] if density.limit is None else [Guide(x.at(density.limit), f"stable up to {number(density.limit, 3)}")]
    negative = sum(w for v, w in zip(density.values, density.weights, strict=True) if v < 0)
    said = [f"{name} eigenvalue {spoken(end)}" for name, end in ends.items()]
    said.append(f"{percent(negative)} of the weight is below 0")
    said += [] if density.limit is None else [f"the step is stable up to {number(density.limit, 3)}"]
    return Panel("", x.ticks, y.ticks, series, guides, says="; ".join(said))
