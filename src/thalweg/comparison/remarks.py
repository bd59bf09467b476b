"""The honest remarks on a verdict, each computed from the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.comparison.race import WHOLE
from thalweg.comparison.search import Search
from thalweg.comparison.study import Trial
from thalweg.comparison.verdict import LEVEL, Standing, Verdict
from thalweg.learning.risk import Metric
from thalweg.training.problem import Problem

EARLY, LATE = 0.10, 0.75  # of a run: where a best step says that it was too long, or perhaps too short
FITTED = 0.25  # training loss over validation loss, under which more optimisation cannot be what is missing
UNFITTED = 0.7  # training loss over chance, above which hardly anything was learnt
SPREAD_OUT = 0.75  # of the whole runs of screening as good as the best: then no knob matters much

# A rule and the more general one that contains it: tuned enough, the general one cannot be worse (Choi et al. 2019).
INCLUSIONS = (
    ("sgd", "momentum"),
    ("sgd", "nesterov"),
    ("momentum", "adam"),
    ("momentum", "nadam"),
    ("adam", "adamw"),
    ("rmsprop", "rmsprop_nesterov"),
)


@dataclass(frozen=True)
class Remark:
    """A doubt or an advice: its kind, a sentence with the figures, and the algorithm that it is about, if one."""

    kind: str
    text: str
    algorithm: str | None = None


def remarks(
    verdict: Verdict, trials: Sequence[Trial], searches: Mapping[str, Search], problem: Problem
) -> list[Remark]:
    """All that should be said beside the verdict."""
    metric, examples = problem.metric, len(problem.valid)
    by_name = {s.algorithm: s for s in verdict.standings}
    recommended = by_name[verdict.recommended]
    confirmations = [t for t in trials if t.stage == "confirmation" and t.algorithm == verdict.recommended]
    insensitive = _insensitive(verdict, trials, recommended, metric)
    found = [
        *_lost(verdict, searches),
        *_diverging(verdict),
        *(insensitive or _edges(trials, searches, metric)),  # where nothing matters, no edge does
        *_inclusions(by_name, metric),
        *_length(confirmations, metric),
        *_limited(confirmations, problem.chance),
    ]
    if metric.name == "accuracy" and 0 < recommended.mean < 1:
        error = 1.96 * (recommended.mean * (1 - recommended.mean) / examples) ** 0.5
        found.append(
            Remark(
                "validation set",
                f"{examples} validation examples pin an accuracy down to ±{error:.2g} at best: on new data, "
                "differences smaller than this may turn round, however many seeds agree.",
            )
        )
    return found


def _lost(verdict: Verdict, searches: Mapping[str, Search]) -> list[Remark]:
    ranked = {s.algorithm for s in verdict.standings}
    return [
        Remark("never finished", f"{name}: no trial came through; its space may lie too high for this problem.", name)
        for name in searches
        if name not in ranked
    ]


def _diverging(verdict: Verdict) -> list[Remark]:
    return [
        Remark(
            "unstable",
            f"{s.algorithm}: {s.diverged} of {s.diverged + len(s.values)} fresh seeds did not finish with the recipe "
            "that screening chose: it lies too near the edge of stability to be relied on.",
            s.algorithm,
        )
        for s in verdict.standings
        if s.diverged
    ]


def _edges(trials: Sequence[Trial], searches: Mapping[str, Search], metric: Metric) -> list[Remark]:
    found = []
    for name, search in searches.items():
        whole = [t for t in trials if t.algorithm == name and t.outcome == "finished" and t.stage in WHOLE]
        ranked = sorted(whole, key=lambda t: (t.cost(metric), t.key))
        if ranked and (side := search.edge(ranked)):
            where = "largest" if side > 0 else "smallest"
            knob, value = ranked[0].recipe.leading
            text = f"{name}: its best {knob}, {value:.3g}, is the {where} that was tried"
            found.append(Remark("edge", f"{text}; a still better one may lie beyond. Give it more budget.", name))
    return found


def _inclusions(by_name: Mapping[str, Standing], metric: Metric) -> list[Remark]:
    found = []
    for special, general in INCLUSIONS:
        if special not in by_name or general not in by_name:
            continue
        a, b = by_name[special], by_name[general]
        apart = metric.cost(a.high) < metric.cost(b.low) if not metric.higher_is_better else a.low > b.high
        if apart and min(a.p, b.p) <= LEVEL:
            text = (
                f"{general} lost to {special}, its special case ({b.mean:.4g} against {a.mean:.4g}): with enough "
                f"trials it cannot, so {general} is under-tuned here, not refuted."
            )
            found.append(Remark("under-tuned", text, general))
    return found


def _insensitive(verdict: Verdict, trials: Sequence[Trial], recommended: Standing, metric: Metric) -> list[Remark]:
    points = [t.best(metric) for t in trials if t.stage == "screening" and t.outcome == "finished"]
    costs = [metric.cost(p.valid_metric) for p in points if p is not None]
    if len(costs) < 6 or len(recommended.values) < 2 or len(verdict.tied) < len(verdict.standings):
        return []
    noise = 2 * float(np.std(recommended.values, ddof=1))
    share = float(np.mean([cost <= metric.cost(recommended.mean) + noise for cost in costs]))
    if share < SPREAD_OUT:
        return []
    text = (
        f"Nothing matters here: {share:.0%} of the whole runs of screening are within the noise of the best, and every "
        "algorithm ties. Spend your effort on data, model or features; any of these recipes will do."
    )
    return [Remark("insensitive", text)]


def _length(confirmations: Sequence[Trial], metric: Metric) -> list[Remark]:
    bests = [p for t in confirmations if (p := t.best(metric)) is not None]
    if not bests:
        return []
    steps = confirmations[0].recipe.steps
    where = float(np.median([p.t / steps for p in bests]))
    if where <= EARLY:
        text = f"The best point comes after {where:.0%} of the run: a budget of fewer steps would do as well."
        return [Remark("too long", text)]
    gains = []
    for trial, best in zip(confirmations, bests, strict=False):
        before = trial.best(metric, until=round(LATE * steps))
        if before is not None:
            gains.append(metric.cost(before.valid_metric) - metric.cost(best.valid_metric))
    if where < LATE or len(gains) < 2:
        return []
    mean, error = float(np.mean(gains)), float(np.std(gains, ddof=1)) / len(gains) ** 0.5
    if mean <= 2 * error or mean <= 0:
        return []
    text = (
        f"The best point comes at {where:.0%} of the run and the last quarter still gained {mean:.3g} ± {error:.2g} "
        f"{metric.name}: a longer run (twice the epochs) may do better, its lr decay stretched to match."
    )
    return [Remark("too short", text)]


def _limited(confirmations: Sequence[Trial], chance: float | None) -> list[Remark]:
    lasts = [t.curve[-1] for t in confirmations if t.curve]
    if not lasts:
        return []
    train, valid = (float(np.median(v)) for v in zip(*((p.train_loss, p.valid_loss) for p in lasts), strict=True))
    if valid > 0 and train <= FITTED * valid:
        text = (
            f"The training loss ({train:.3g}) is fitted far below the validation loss ({valid:.3g}): what limits this "
            "is data or the model's regularisation, not the optimizer."
        )
        return [Remark("data-limited", text)]
    if chance is not None and train > UNFITTED * chance:
        text = (
            f"Even the training loss ({train:.3g}) stays near what chance gives ({chance:.3g}): the model or its "
            "inputs cannot express these targets, or need a longer run; no optimizer will make up for it."
        )
        return [Remark("model-limited", text)]
    return []
