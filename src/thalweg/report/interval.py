"""A measured figure drawn with its interval, and a trial of advice before and after."""

from __future__ import annotations

import math
from statistics import fmean

import torch

from thalweg.core.measured import Measured, mean
from thalweg.diagnose.trying import Tried
from thalweg.report.panels import Line, Mark, Panel, Series, path
from thalweg.report.row import Row, around, panel
from thalweg.report.scales import linear, logarithmic
from thalweg.report.words import number, spoken

_DECADES = 20.0  # an interval whose ends are that many times apart is drawn on a logarithmic axis
_TICKS = 4


def interval(measured: Measured) -> Panel | None:
    """The figure as a point on its interval; None where there is none to draw: a point to three digits, or unknown.

    An end that is infinite runs out of the picture.

    >>> interval(Measured(2.0, 1.0, 3.0, 8)).says
    '2 (1 to 3)'
    """
    ends = [v for v in (measured.low, measured.value, measured.high) if math.isfinite(v)]
    if len(ends) < 2 or number(measured.low, 3) == number(measured.high, 3):
        return None
    low, high = min(ends), max(ends)
    x = (
        logarithmic(ends, padding=0.25)
        if low > 0 and high > _DECADES * low
        else linear(ends, padding=0.25, ticks=_TICKS)
    )
    left = x.at(measured.low) if math.isfinite(measured.low) else 0.0
    right = x.at(measured.high) if math.isfinite(measured.high) else 100.0
    marks = [Mark(x.at(measured.value), 50, spoken(measured), "large")] if math.isfinite(measured.value) else []
    lines = [Line(path([(left, 50), (right, 50)]), "interval")]
    lines += [Line(path([(99, 25), (100, 50), (99, 75)]), "interval")] if measured.high == math.inf else []
    lines += [Line(path([(1, 25), (0, 50), (1, 75)]), "interval")] if measured.low == -math.inf else []
    series = Series("", 0, lines, marks)
    return Panel("", x.ticks, [], [series], says=spoken(measured))


def attempt(tried: Tried) -> Panel:
    """The losses without a remedy and with it: seeds small, their mean large with its interval.

    >>> [tick.label for tick in attempt(Tried({"clip_norm": 1.0}, 200, (1.9, 2.0), (0.4, 0.6))).y_ticks]
    ['without it', 'with it']
    """
    rows = [_row("without it", tried.without), _row("with it", tried.having)]
    whole = panel("", rows, {"without it": 9, "with it": 0}, around(rows, ticks=_TICKS))
    return Panel(whole.title, whole.x_ticks, whole.y_ticks, whole.series, ends=whole.ends, says=str(tried))


def _row(name: str, losses: tuple[float, ...]) -> Row:
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return Row(name, [], None, "diverged")
    low, high = mean(torch.tensor(finite))[1:3]
    ends = (low, high) if math.isfinite(low) else None
    return Row(name, finite, fmean(finite), number(fmean(finite), 3), ends)
