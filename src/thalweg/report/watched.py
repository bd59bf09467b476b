"""Pictures of a run that was watched: its loss and gradients, and how noisy they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from thalweg.core.measured import Measured
from thalweg.report.panels import Figure, Guide, Line, Mark, Panel, Series, Table, Variant, path
from thalweg.report.readings import loss_scale
from thalweg.report.scales import Scale, linear, logarithmic
from thalweg.report.words import number, spoken

MARKS = 80  # along a run: more would lie on top of each other
SMOOTH = 21  # steps, of the running median
_BEYOND = 30.0  # times the largest figure: where an interval that has no end leaves the picture


class Noise(NamedTuple):
    """The noise scale, in examples, after so many steps."""

    step: int
    scale: Measured


class Judged(NamedTuple):
    """Losses of the same examples after so many steps: of some that are trained on, and of some that are not."""

    step: int
    train: float
    valid: float


def noise(course: Sequence[Noise], batch_size: int) -> Figure:
    """The noise scale over a run, beside the batch size in use.

    >>> from thalweg.core.measured import exactly
    >>> noise([Noise(10, exactly(20.0)), Noise(20, exactly(80.0))], batch_size=32).variants[0].panels[0].says
    'from 20 at step 10 to 80 at step 20; the batch size is 32'
    """
    x = linear([each.step for each in course], zero=True, padding=0.02)
    y = _upright([each.scale for each in course], batch_size)
    seen = [each for each in course if not math.isnan(each.scale.value)]
    lower = [(x.at(each.step), y.at(each.scale.low)) for each in seen]
    upper = [(x.at(each.step), y.at(each.scale.high)) for each in seen]
    middle = [(x.at(each.step), y.at(each.scale.value)) for each in seen]
    lines = [Line(path([*upper, *reversed(lower)]) + "Z", "area"), Line(path(middle), "thick")] if len(seen) > 1 else []
    lines += [Line(path(ends), "interval") for ends in zip(lower, upper, strict=True)]
    marks = [Mark(*at, f"step {e.step}: {spoken(e.scale)}", "large") for at, e in zip(middle, seen, strict=True)]
    said = [f"{number(each.scale.value, 3)} at step {each.step}" for each in (course[0], course[-1])]
    says = f"from {said[0]} to {said[1]}; the batch size is {batch_size}"
    guide = Guide(y.at(batch_size), f"batch size {batch_size}", flat=True)
    panel = Panel("", x.ticks, y.ticks, [Series("noise scale", 0, lines, marks)], [guide], says=says)
    caption = (
        "How many examples a batch needs for a gradient that is as long as its noise (McCandlish et al. 2018). A batch "
        "far below it is mostly noise, one far above it spends examples for little. It grows as training goes on. The "
        "band is the 95 % interval; where that has no upper end, it leaves the picture."
    )
    table = Table(["step", "noise scale"], [[str(each.step), spoken(each.scale)] for each in course])
    return Figure("noise", "Gradient noise", caption, "wide", [Variant("", [panel], "step", "examples")], table)


def _upright(scales: Sequence[Measured], batch_size: int) -> Scale:
    values = [s.value for s in scales if 0 < s.value < math.inf] or [float(batch_size)]
    low, high = min(*values, batch_size) / _BEYOND, max(*values, batch_size) * _BEYOND
    ends = [min(max(v, low), high) for s in scales for v in (s.low, s.high) if not math.isnan(v)]
    return logarithmic([*values, *ends, float(batch_size)], start=100, end=0)


def course(steps: Sequence[int], losses: Sequence[float], gradient_norms: Sequence[float]) -> Figure:
    """The loss and the length of the gradient of every step's batch, and their running medians.

    >>> course([1, 2, 3], [2.0, 1.0, 0.5], [1.0, 1.0, 0.5]).table.rows[-1]
    ['3', '0.5', '0.5']
    """
    readings = {"loss": losses, "gradient norm": gradient_norms}
    variants = [Variant(name, [_run(name, steps, values)], "step", name) for name, values in readings.items()]
    rows = [[str(steps[i]), number(losses[i]), number(gradient_norms[i])] for i in _some(len(steps), MARKS)]
    caption = f"Of the batch of each step: thin as it was, thick the median of {SMOOTH} steps about it."
    table = Table(["step", "loss", "gradient norm"], rows)
    return Figure("course", "The run that was watched", caption, "wide", variants, table, each="line")


def _run(name: str, steps: Sequence[int], values: Sequence[float]) -> Panel:
    x, y = linear(steps, zero=True, padding=0.02), loss_scale(values, start=100, end=0)
    kept = [i for i, value in enumerate(values) if math.isfinite(value)]
    smooth = {
        i: median(values[j] for j in kept[max(0, k - SMOOTH // 2) : k + SMOOTH // 2 + 1]) for k, i in enumerate(kept)
    }
    lines = []
    if len(kept) > 1:
        lines.append(Line(path((x.at(steps[i]), y.at(values[i])) for i in kept), "thin"))
        lines.append(Line(path((x.at(steps[i]), y.at(smooth[i])) for i in kept), "thick"))
    chosen = [kept[i] for i in _some(len(kept), MARKS)]
    marks = [
        Mark(x.at(steps[i]), y.at(smooth[i]), f"step {steps[i]}: {number(smooth[i])}, this batch {number(values[i])}")
        for i in chosen
    ]
    says = f"from {number(smooth[kept[0]], 3)} to {number(smooth[kept[-1]], 3)}" if kept else "no finite value"
    return Panel("", x.ticks, y.ticks, [Series(name, 0, lines, marks)], says=says)


def judged(course: Sequence[Judged]) -> Figure:
    """The loss of examples that are trained on beside that of examples which are not.

    >>> judged([Judged(0, 2.0, 2.0), Judged(10, 0.5, 1.0)]).table.rows[-1]
    ['10', '0.5', '1']
    """
    panel = _both(course)
    rows = [[str(each.step), number(each.train), number(each.valid)] for each in course]
    caption = "Of the same examples over and over. Where validation turns up while training falls, it overfits."
    table = Table(["step", "training loss", "validation loss"], rows)
    variants = [Variant("", [panel], "step", "loss")]
    return Figure("judged", "Training and validation", caption, "wide", variants, table, each="line")


def _both(judged: Sequence[Judged]) -> Panel:
    x = linear([each.step for each in judged], zero=True, padding=0.02)
    y = loss_scale([v for each in judged for v in (each.train, each.valid)], start=100, end=0)
    series = []
    for colour, name in enumerate(("training", "validation")):
        values = [(each.step, each.train if name == "training" else each.valid) for each in judged]
        points = [(step, v) for step, v in values if math.isfinite(v)]
        at = [(x.at(step), y.at(v)) for step, v in points]
        lines = [Line(path(at), "thick")] if len(at) > 1 else []
        marks = [Mark(*place, f"step {step}: {number(v)}") for place, (step, v) in zip(at, points, strict=True)]
        series.append(Series(name, colour, lines, marks))
    last = judged[-1]
    says = f"at step {last.step} {number(last.train, 3)} in training and {number(last.valid, 3)} in validation"
    return Panel("", x.ticks, y.ticks, series, says=says)


def _some(n: int, most: int) -> list[int]:
    """Indices below n, evenly apart, both ends among them.

    >>> _some(5, 3), _some(2, 3)
    ([0, 2, 4], [0, 1])
    """
    return list(range(n)) if n <= most else sorted({round(i * (n - 1) / (most - 1)) for i in range(most)})
