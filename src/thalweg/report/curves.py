"""Learning curves: what each run on a fresh seed made of its steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from thalweg.comparison.result import Study
from thalweg.comparison.study import Trial
from thalweg.report.panels import Figure, Line, Mark, Panel, Series, Table, Variant, path, spread
from thalweg.report.readings import Reading, everything
from thalweg.report.scales import Tick, linear
from thalweg.report.words import number
from thalweg.training.run import Point

_LABEL = 4.6  # percent of the height that a label at a curve's end takes

Runs = Mapping[str, Sequence[Trial]]  # the runs of each algorithm


def learning_curves(study: Study, colours: Mapping[str, int]) -> Figure | None:
    """The validation metric and losses over the steps of the confirmation runs: seeds thin, their median thick.

    Where algorithms have runs of different lengths, as their steps cost differently, it is over CPU seconds.
    """
    runs: dict[str, list[Trial]] = defaultdict(list)
    for trial in study.of("confirmation"):
        if trial.curve:
            runs[trial.algorithm].append(trial)
    if not runs:
        return None
    ordered = {name: runs[name] for name in sorted(runs, key=colours.__getitem__)}
    timed = len({trial.recipe.steps for trials in runs.values() for trial in trials}) > 1
    lengths = {name: _seconds(trials) if timed else 1.0 for name, trials in ordered.items()}
    axis = "CPU seconds" if timed else "step"
    return Figure(
        "curves",
        "Learning curves",
        "Thin lines are the runs on fresh seeds, the thick line their median.",
        "wide",
        [Variant(r.label, [_curves(ordered, lengths, colours, r)], axis, r.name) for r in everything(study)],
        _table(ordered, study.metric.name),
    )


def _curves(runs: Runs, lengths: Mapping[str, float], colours: Mapping[str, int], reading: Reading) -> Panel:
    """`lengths` is how long a step of each algorithm is along the axis."""
    of = reading.of
    points = [(name, p) for name, trials in runs.items() for trial in trials for p in trial.curve]
    x = linear([p.t * lengths[name] for name, p in points], zero=True, padding=0)
    y = reading.upwards([of(p) for _, p in points])
    series, ends = [], []
    for algorithm, trials in runs.items():
        step = lengths[algorithm]
        seeds = [[(x.at(p.t * step), y.at(of(p))) for p in trial.curve if math.isfinite(of(p))] for trial in trials]
        middle = _median_curve(trials, of)
        lines = [Line(path(seed), "thin") for seed in seeds if len(seed) > 1]
        lines.append(Line(path((x.at(t * step), y.at(median(v))) for t, v in middle), "thick"))
        marks = [Mark(x.at(t * step), y.at(median(v)), _said(reading.name, t, v)) for t, v in middle]
        series.append(Series(algorithm, colours[algorithm], lines, marks))
        if middle:
            ends.append((Tick(y.at(median(middle[-1][1])), algorithm), colours[algorithm]))
    apart = spread([tick for tick, _ in ends], _LABEL)
    return Panel("", x.ticks, y.ticks, series, ends=list(zip(apart, (c for _, c in ends), strict=True)))


def _seconds(trials: Sequence[Trial]) -> float:
    """CPU seconds of a step, measuring included."""
    return median([trial.cpu_seconds / max(trial.steps, 1) for trial in trials])


def _median_curve(trials: Sequence[Trial], of: Callable[[Point], float]) -> list[tuple[int, list[float]]]:
    at: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        for point in trial.curve:
            if math.isfinite(of(point)):
                at[point.t].append(of(point))
    return sorted(at.items())


def _said(name: str, t: int, values: Sequence[float]) -> str:
    seeds = f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
    return f"step {t}: {name} {number(median(values))}{seeds}"


def _table(runs: Runs, name: str) -> Table:
    rows = [
        [algorithm, str(t), number(median(values)), number(min(values)), number(max(values))]
        for algorithm, trials in runs.items()
        for t, values in _median_curve(trials, lambda p: p.valid_metric)
    ]
    return Table(["algorithm", "step", f"median {name}", "lowest seed", "highest seed"], rows)
