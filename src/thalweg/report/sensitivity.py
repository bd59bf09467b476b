"""What an algorithm makes of each learning rate: the sensitivity that decides how much care it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from thalweg.comparison.result import Study
from thalweg.comparison.study import Trial
from thalweg.report.panels import Figure, Guide, Mark, Panel, Series, Table, Variant
from thalweg.report.readings import Reading, validation
from thalweg.report.scales import Scale, logarithmic
from thalweg.report.words import NOTHING, knobs, number, rate
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

SEARCH = ("screening", "refinement", "widening")
_LOST = ("diverged", "failed")
_BAND = 14.0  # percent of a panel, on top, that are kept for the lost

Groups = Mapping[str, Sequence[Trial]]  # the trials of each algorithm


def sensitivity(study: Study, colours: Mapping[str, int]) -> Figure | None:
    """The best metric or loss of each trial of the search against its lr, a panel per algorithm on shared axes."""
    tried = [t for t in study.trials if t.stage in SEARCH and (t.curve or t.outcome in _LOST)]
    if not tried:
        return None
    names = sorted({t.algorithm for t in tried}, key=colours.__getitem__)
    groups = {name: sorted((t for t in tried if t.algorithm == name), key=lambda t: rate(t.recipe)) for name in names}
    variants = [
        Variant(r.label, _panels(study, groups, colours, r), "learning rate", r.name) for r in validation(study)
    ]
    caption = (
        "Each point is a trial of the search: its best value against its learning rate. A broad optimum forgives a "
        "careless lr, a narrow one does not. Filled points are runs of full length, hollow ones were shorter or cut "
        "early, crosses diverged; the ring is the recipe that was confirmed."
    )
    return Figure("sensitivity", "Sensitivity", caption, "facets", variants, _table(study, groups))


def _panels(study: Study, groups: Groups, colours: Mapping[str, int], reading: Reading) -> list[Panel]:
    trials = [t for group in groups.values() for t in group]
    best = {t.key: p for t in trials if t.outcome not in _LOST and (p := t.best(study.metric)) is not None}
    lost = len(best) < len(trials)
    x = logarithmic([rate(t.recipe) for t in trials])
    y = reading.upwards([reading.of(p) for p in best.values()], top=_BAND if lost else 0.0)
    confirmed = {t.algorithm: t.recipe for t in study.of("confirmation")}
    panels = []
    for name, group in groups.items():
        chosen = confirmed.get(name)
        whole = max((t.recipe.steps for t in group), default=0)
        marks = [_mark(t, best.get(t.key), _shape(t, chosen, whole), reading, x, y) for t in group]
        guides = [] if chosen is None else [Guide(x.at(rate(chosen)))]
        series = [Series(name, colours[name], [], marks)]
        knob, _ = group[0].recipe.leading if group else ("lr", 0.0)
        title = name if knob == "lr" else f"{name} ({knob})"
        panels.append(Panel(title, x.ticks, y.ticks, series, guides, band="diverged" if lost else ""))
    return panels


def _mark(trial: Trial, point: Point | None, shape: str, reading: Reading, x: Scale, y: Scale) -> Mark:
    value = math.nan if point is None else reading.of(point)
    others = knobs(trial.recipe)
    said = f"{trial.recipe.leading[0]} {number(rate(trial.recipe))}" + (f", {others}" if others else "")
    if not math.isfinite(value):
        return Mark(x.at(rate(trial.recipe)), _BAND / 2, f"{said}: {trial.outcome} at step {trial.steps}", "cross")
    how = f" after {trial.steps} steps" if shape == "hollow" else ""
    return Mark(x.at(rate(trial.recipe)), y.at(value), f"{said}: {reading.label} {number(value)}{how}", shape)


def _shape(trial: Trial, chosen: Recipe | None, whole: int) -> str:
    if trial.outcome != "finished" or trial.recipe.steps < whole:
        return "hollow"
    return "chosen" if trial.recipe == chosen else "dot"


def _table(study: Study, groups: Groups) -> Table:
    """An algorithm a row: each trial has its own in the table of everything that was tried."""
    rows = []
    for name, group in groups.items():
        rates = [rate(t.recipe) for t in group]
        lost = [rate(t.recipe) for t in group if t.outcome in _LOST]
        ended = [t for t in group if t.outcome == "finished" and t.curve]
        best = min(ended, key=lambda t: (-t.recipe.steps, t.cost(study.metric)), default=None)
        point = best and best.best(study.metric)
        rows.append([
            name, str(len(group)), f"{number(min(rates))} to {number(max(rates))}",
            number(rate(best.recipe)) if best else NOTHING, number(point.valid_metric) if point else NOTHING,
            str(len(lost)), number(min(lost)) if lost else NOTHING,
        ])  # fmt: skip
    head = [
        "algorithm", "trials", "lr tried", "best lr", f"{study.metric.name} there", "diverged or failed",
        "smallest such lr",
    ]  # fmt: skip
    return Table(head, rows)
