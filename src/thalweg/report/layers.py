"""Pictures with a row per layer, from the input down to the output: signal, gradients, updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from thalweg.core.measured import Measured
from thalweg.report.panels import Figure, Guide, Line, Mark, Panel, Series, Table, Variant, path
from thalweg.report.scales import Scale, Tick, label, logarithmic
from thalweg.report.words import number, spoken

USUAL = 1e-3  # of the weights that a step changes (Karpathy, cs231n)
_ROOM = 19  # characters of a layer's name
_TICKS = 5  # beside such a name, on a phone


class Signal(NamedTuple):
    """What comes through a layer: the second moment of its outputs, and the length of the gradient by them."""

    layer: str
    forward: Measured
    backward: Measured | None = None


class Update(NamedTuple):
    """The length of a step over that of the weights, of a layer."""

    layer: str
    ratio: Measured


def signal(views: Mapping[str, Sequence[Signal]]) -> Figure:
    """The signal through the layers and the gradient back through them, each on a logarithmic axis.

    >>> from thalweg.core.measured import exactly
    >>> figure = signal({"at the start": [Signal("0", exactly(1.0), exactly(0.1)), Signal("2", exactly(0.5))]})
    >>> [panel.says for panel in figure.variants[0].panels][0]
    'from 1 in the first layer to 0.5 in the last'
    """
    variants, rows = [], []
    for view, layers in views.items():
        forward = [(each.layer, each.forward) for each in layers]
        backward = [(each.layer, each.backward) for each in layers if each.backward is not None]
        panels = [_panel("Second moment of the outputs", "outputs", 0, forward)]
        panels += [_panel("Gradient by the outputs", "gradient", 1, backward)] if backward else []
        variants.append(Variant(view, panels, ""))
        rows += [[view, each.layer, spoken(each.forward), spoken(each.backward)] for each in layers]
    caption = (
        "From the first layer, on top, to the last. Where a line runs to one side, signal or gradients grow or fade "
        "from layer to layer; upright is healthy. Bars are 95 % intervals."
    )
    head = ["seen", "layer", "second moment of the outputs", "gradient by the outputs"]
    return Figure("signal", "Signal through the layers", caption, "layers", variants, Table(head, rows), each="panel")


def updates(views: Mapping[str, Sequence[Update]]) -> Figure:
    """How much of each layer's weights a step changes, on a logarithmic axis.

    >>> from thalweg.core.measured import exactly
    >>> updates({"along the run": [Update("0.weight", exactly(0.002))]}).table.rows
    [['along the run', '0.weight', '0.002']]
    """
    variants, rows = [], []
    for view, layers in views.items():
        figures = [(each.layer, each.ratio) for each in layers]
        variants.append(Variant(view, [_panel("Step over weights", "ratio", 0, figures, USUAL)], ""))
        rows += [[view, name, spoken(ratio)] for name, ratio in figures]
    caption = (
        f"The length of a step over that of the weights it changes: the median of the run's steps with its 95 % "
        f"interval. About {label(USUAL)} is usual; far less learns slowly, far more is unsteady (Karpathy, cs231n)."
    )
    head = ["seen", "layer", "step over weights"]
    return Figure("updates", "Updates by layer", caption, "layers", variants, Table(head, rows), each="panel")


def _panel(
    title: str, name: str, colour: int, figures: Sequence[tuple[str, Measured]], usual: float | None = None
) -> Panel:
    height = 100 / len(figures)
    places = [round((i + 0.5) * height, 2) for i in range(len(figures))]
    x = _axis([figure for _, figure in figures], usual)
    lines, marks = [], []
    trail = [(x.at(f.value), y) for (_, f), y in zip(figures, places, strict=True) if not math.isnan(f.value)]
    if len(trail) > 1:
        lines.append(Line(path(trail), "thin"))
    for (layer, figure), y in zip(figures, places, strict=True):
        if math.isnan(figure.value):
            continue
        if figure.low < figure.high:
            lines.append(Line(path((x.at(v), y) for v in (figure.low, figure.high)), "interval"))
        marks.append(Mark(x.at(figure.value), y, f"{layer}: {spoken(figure)}", "large"))
    ticks = [Tick(y, _short(layer)) for (layer, _), y in zip(figures, places, strict=True)]
    guides = [] if usual is None else [Guide(x.at(usual), label(usual))]
    first, last = figures[0][1], figures[-1][1]
    says = f"from {number(first.value)} in the first layer to {number(last.value)} in the last"
    return Panel(title, x.ticks, ticks, [Series(name, colour, lines, marks)], guides, says=says)


def _axis(figures: Sequence[Measured], usual: float | None) -> Scale:
    """Around the values; of the intervals, that may go down to 0, two decades to each side."""
    values = [f.value for f in figures if f.value > 0 and math.isfinite(f.value)]
    low, high = min(values, default=1.0) / 100, max(values, default=1.0) * 100
    ends = [min(max(v, low), high) for f in figures for v in (f.low, f.high) if not math.isnan(v)]
    return logarithmic([*values, *ends, *([] if usual is None else [usual])], ticks=_TICKS)


def _short(layer: str) -> str:
    """The end of a name, which tells layers apart.

    >>> _short("encoder.layers.11.self_attn.out_proj")
    '…self_attn.out_proj'
    """
    return layer if len(layer) <= _ROOM else "…" + layer[1 - _ROOM :].lstrip(".")
