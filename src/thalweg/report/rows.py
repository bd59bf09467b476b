"""Figures with a row per algorithm: the ranking with its intervals, time to target, and the three-way trade-off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median, stdev

from thalweg.comparison.result import Study
from thalweg.comparison.study import Trial
from thalweg.comparison.verdict import Standing, Verdict, steps_to
from thalweg.report.panels import Figure, Table, Variant
from thalweg.report.row import Row, around, panel
from thalweg.report.words import NOTHING, number, probability, share


def ranking(verdict: Verdict, name: str, colours: dict[str, int]) -> Figure:
    """The metric of each algorithm's best recipe on fresh seeds, with 95 % intervals."""
    rows = [_ranked(s, name) for s in verdict.standings]
    label = f"validation {name}"
    variants = [Variant("all", [panel("", rows, colours, around(rows))], label)]
    near = rows[: max(3, math.ceil(len(rows) / 2))]
    if len(near) < len(rows) and _width(near) < _width(rows) / 3:
        variants.insert(0, Variant(f"the best {len(near)}", [panel("", near, colours, around(near))], label))
    head = ["algorithm", f"mean {name}", "95 % interval", "seeds", "p (corrected)", "as good as the best", "diverged"]
    table = [
        [
            s.algorithm, number(s.mean), f"{number(s.low)} to {number(s.high)}", str(len(s.values)),
            NOTHING if s is verdict.standings[0] else probability(s.p), "yes" if s.algorithm in verdict.tied else "no",
            share(s.diverged, s.diverged + len(s.values)),
        ]
        for s in verdict.standings
    ]  # fmt: skip
    caption = "The large point is the mean over fresh seeds, the bar its 95 % interval, the small points the seeds."
    best = verdict.recommended
    return Figure("ranking", "Ranking", caption, "rows", variants, Table(head, table), picked=best, shown=True)


def _ranked(s: Standing, name: str) -> Row:
    interval = (s.low, s.high) if math.isfinite(s.low) else None
    said = f", 95 % interval {number(s.low)} to {number(s.high)}" if interval else ""
    text = f"mean {name} {number(s.mean)} over {len(s.values)} seeds{said}"
    return Row(s.algorithm, s.values, s.mean, number(s.mean), interval, text)


def targets(study: Study, verdict: Verdict, colours: dict[str, int]) -> Figure | None:
    """How soon each algorithm's runs are as good as the target, in steps and in CPU seconds."""
    runs = _confirmations(study, verdict)
    if not any(s.reached for s in verdict.standings):
        return None
    variants, columns = [], []
    for unit, name in enumerate(("steps", "CPU seconds")):
        rows = [_timed(algorithm, _hits(trials, study, verdict, unit), name) for algorithm, trials in runs.items()]
        axis = around(rows, zero=True)
        variants.append(Variant(name, [panel("", rows, colours, axis)], f"{name} to the target"))
        columns.append([number(row.centre) for row in rows])
    table = [
        [s.algorithm, share(s.reached, len(runs[s.algorithm])), *cells]
        for s, *cells in zip(verdict.standings, *columns, strict=True)
    ]
    caption = (
        f"When a run first validates at {study.metric.name} {number(verdict.target)}, which every tied algorithm comes "
        "to. Large points are medians over seeds, a seed that never got there counting as infinitely late; small "
        "points are the seeds. Further left is faster."
    )
    head = ["algorithm", "seeds that reached it", "median steps", "median CPU seconds"]
    best = verdict.recommended
    return Figure("target", "Time to target", caption, "rows", variants, Table(head, table), picked=best)


def _timed(algorithm: str, hits: Sequence[float], unit: str) -> Row:
    reached = [hit for hit in hits if math.isfinite(hit)]
    middle = median(hits) if reached else None
    middle = middle if middle is not None and math.isfinite(middle) else None
    few = share(len(reached), len(hits))
    beside = "never" if not reached else f"only {few}" if middle is None else number(middle)
    if middle is not None and len(reached) < len(hits):
        beside = f"{beside} ({few})"
    return Row(algorithm, reached, middle, beside, None, f"median {number(middle)} {unit}, reached by {few} seeds")


def _hits(trials: Sequence[Trial], study: Study, verdict: Verdict, unit: int) -> list[float]:
    """Steps (unit 0) or CPU seconds (unit 1) until each run reached the target; inf where it did not."""
    hits = []
    for trial in trials:
        t = steps_to(trial, study.metric, verdict.target)
        spent = math.inf if t is None else trial.cpu_seconds * t / max(trial.steps, 1)
        hits.append(spent if unit else float(t or math.inf))
    return hits


def trade_offs(study: Study, verdict: Verdict, colours: dict[str, int]) -> Figure:
    """Speed, stability and generalisation beside each other: the three that no algorithm has all of."""
    runs = _confirmations(study, verdict)
    ends = {a: [p for t in trials if (p := t.best(study.metric)) is not None] for a, trials in runs.items()}
    steps, seconds = ({a: _hits(trials, study, verdict, unit) for a, trials in runs.items()} for unit in (0, 1))
    spent = {s.algorithm: [t for t in study.trials if t.algorithm == s.algorithm] for s in verdict.standings}
    failed = {a: sum(t.outcome in ("diverged", "failed") for t in trials) for a, trials in spent.items()}
    measures: dict[str, dict[str, float | None]] = {
        "Speed: steps to target": {a: median(hits) for a, hits in steps.items()},
        "Speed: CPU seconds to target": {a: median(hits) for a, hits in seconds.items()},
        "Stability: spread over seeds": {
            s.algorithm: stdev(s.values) if len(s.values) > 1 else None for s in verdict.standings
        },
        "Stability: diverged trials": {a: failed[a] / len(spent[a]) for a in spent},
        "Generalisation: loss gap": {a: _median([p.valid_loss - p.train_loss for p in ends[a]]) for a in runs},
        "Generalisation: validation loss": {a: _median([p.valid_loss for p in ends[a]]) for a in runs},
    }
    panels = []
    for title, of in measures.items():
        rows = [_lollipop(algorithm, value, title) for algorithm, value in of.items()]
        panels.append(panel(title, rows, colours, around(rows, zero=True, ticks=3)))
    table = [[a, *(number(of[a]) for of in measures.values())] for a in runs]
    caption = (
        f"Less is better in each. Spread: the standard deviation of {study.metric.name} over fresh seeds. Diverged: "
        "the share of all trials that diverged or failed. Loss gap: validation minus training loss at a run's best."
    )
    head = ["algorithm", *measures]
    whole, best = [Variant("", panels, "")], verdict.recommended
    return Figure("tradeoffs", "Trade-offs", caption, "measures", whole, Table(head, table), picked=best)


def _lollipop(algorithm: str, value: float | None, title: str) -> Row:
    value = value if value is not None and math.isfinite(value) else None
    stem = None if value is None else (0.0, value)
    beside = number(value, 3)
    return Row(algorithm, [], value, beside, stem, f"{title[0].lower()}{title[1:]}: {beside}")


def _confirmations(study: Study, verdict: Verdict) -> dict[str, list[Trial]]:
    """The confirmation runs that the verdict judged, best algorithm first."""
    ended = [t for t in study.of("confirmation") if t.outcome != "running"]
    return {s.algorithm: [t for t in ended if t.algorithm == s.algorithm] for s in verdict.standings}


def _median(values: Sequence[float]) -> float | None:
    """Of the finite ones."""
    finite = [v for v in values if math.isfinite(v)]
    return median(finite) if finite else None


def _width(rows: Sequence[Row]) -> float:
    values = [v for row in rows for v in row.values if math.isfinite(v)]
    return max(values) - min(values) if values else 0.0
