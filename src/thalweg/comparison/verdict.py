"""The verdict: what the fresh seeds say, with intervals and a corrected test, and what remains doubtful."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from thalweg.algorithms import algorithm
from thalweg.comparison.study import Trial
from thalweg.core.rule import Rule
from thalweg.learning.risk import Metric
from thalweg.training.recipe import Recipe

LEVEL = 0.05


@dataclass(frozen=True)
class Standing:
    """How an algorithm did on fresh seeds. `values` are the metric at each run's best point; the interval is 95 %."""

    algorithm: str
    recipe: Recipe
    values: list[float]
    mean: float
    low: float
    high: float
    p: float  # of being as good as the best, Holm-corrected; 1 for the best itself
    tied: bool  # with the best: the test cannot tell them apart
    diverged: int  # of its confirmation runs
    reached: int  # of its runs, the target
    steps_to_target: float | None  # median over its runs; None where half of them or more never came there
    cpu_seconds: float  # median of a run
    vectors: int  # remembered beside theta: what it costs in memory, and in time on a large model


@dataclass(frozen=True)
class Verdict:
    """Who won. `winner` is None for a tie; `recommended` is then the cheapest of the tied that are within a standard
    error of the best: a test of few seeds that cannot tell two apart is no reason to give away what was seen.
    """

    winner: str | None
    recommended: str
    tied: list[str]
    target: float  # that every tied algorithm comes to: the worst of their medians
    standings: list[Standing]  # best first
    sentence: str

    @property
    def timed(self) -> bool:
        """Whether time is what compares them: runs have different numbers of steps, for steps cost differently."""
        return len({standing.recipe.steps for standing in self.standings}) > 1


def judge(confirmations: list[Trial], metric: Metric) -> Verdict:
    """The verdict of the confirmation runs: Welch tests against the best mean, corrected by Holm's method.

    >>> from thalweg.learning.risk import accuracy
    >>> def runs(name, values):
    ...     made = Recipe(name, steps=10)
    ...     return [Trial(f"{name}{i}", "confirmation", name, made, i, "finished", 10, [Point(10, 0.1, 0.1, v)])
    ...             for i, v in enumerate(values)]
    >>> from thalweg.training.run import Point
    >>> judge(runs("adam", [0.97, 0.98, 0.97]) + runs("sgd", [0.90, 0.91, 0.92]), accuracy).winner
    'adam'
    """
    by_algorithm: dict[str, list[Trial]] = defaultdict(list)
    for trial in sorted(confirmations, key=lambda t: t.key):
        by_algorithm[trial.algorithm].append(trial)
    values = {name: _values(trials, metric) for name, trials in by_algorithm.items()}
    resolution = _resolution([v for each in values.values() for v in each])
    means = {name: float(np.mean(v)) if v else math.nan for name, v in values.items()}
    failures = {name: sum(t.outcome != "finished" for t in trials) for name, trials in by_algorithm.items()}
    order = sorted(means, key=lambda name: (failures[name] > 0, metric.cost(means[name]), name))
    best = order[0]
    p = _holm({name: _welch(values[name], values[best], resolution) for name in order[1:]})
    tied = [name for name in order if p.get(name, 1.0) > LEVEL and not failures[name]] or [best]
    target = max((float(np.median(values[name])) for name in tied if values[name]), key=metric.cost, default=math.nan)
    standings = [
        _standing(by_algorithm[name], values[name], metric, target, p.get(name, 1.0), resolution) for name in order
    ]
    near = metric.cost(means[best]) + _standard_error(values[best], resolution)
    close = [s for s in standings if s.algorithm in tied and metric.cost(s.mean) <= near] or standings[:1]
    cheapest = min(close, key=lambda s: s.vectors)  # the better of equally cheap ones: standings come best first
    winner = best if tied == [best] and not failures[best] else None
    recommended = winner or cheapest.algorithm
    return Verdict(winner, recommended, tied, target, standings, _sentence(winner, cheapest, tied, standings, metric))


def _values(trials: list[Trial], metric: Metric) -> list[float]:
    points = [t.best(metric) for t in trials if t.outcome == "finished"]
    return [p.valid_metric for p in points if p is not None]


def _resolution(values: list[float]) -> float:
    """The smallest step between measured values: an accuracy over N examples cannot resolve less than 1/N."""
    gaps = np.diff(np.unique(np.round(values, 12)))
    return float(gaps.min()) if len(gaps) else 0.0


def _variance(values: list[float], resolution: float) -> float:
    return max(float(np.var(values, ddof=1)), resolution**2 / 12)  # that of rounding to the resolution


def _standard_error(values: list[float], resolution: float) -> float:
    return math.sqrt(_variance(values, resolution) / len(values)) if len(values) > 1 else 0.0


def _welch(a: list[float], b: list[float], resolution: float) -> float:
    """Welch's two-sided p, with variances no smaller than the metric's resolution allows."""
    if len(a) < 2 or len(b) < 2:
        return 1.0
    va, vb = _variance(a, resolution) / len(a), _variance(b, resolution) / len(b)
    difference = abs(float(np.mean(a)) - float(np.mean(b)))
    if va + vb == 0:
        return 1.0 if difference == 0 else 0.0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return float(2 * stats.t.sf(difference / math.sqrt(va + vb), freedom))


def _holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction for so many tests."""
    corrected, running = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda n: p[n])):
        running = max(running, min(1.0, p[name] * (len(p) - rank)))
        corrected[name] = running
    return corrected


def _standing(
    trials: list[Trial], values: list[float], metric: Metric, target: float, p: float, resolution: float
) -> Standing:
    mean = float(np.mean(values)) if values else math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1)) * _standard_error(values, resolution) if values[1:] else math.inf
    arrivals = [math.inf if (t := steps_to(trial, metric, target)) is None else t for trial in trials]
    median = float(np.median(arrivals))
    rule = algorithm(trials[0].algorithm).rule
    return Standing(
        trials[0].algorithm,
        trials[0].recipe,
        values,
        mean,
        max(mean - half, metric.low),
        min(mean + half, metric.high),
        p,
        tied=p > LEVEL,
        diverged=sum(t.outcome != "finished" for t in trials),
        reached=int(np.isfinite(arrivals).sum()),
        steps_to_target=median if math.isfinite(median) else None,
        cpu_seconds=float(np.median([t.cpu_seconds for t in trials])),
        vectors=_vectors(rule),
    )


def _vectors(rule: Rule) -> int:
    """What a rule remembers beside theta, in vectors of its size; of a model of a hundred parameters, for matrices."""
    started = rule.start(torch.zeros(100)).items() if rule.per == "vector" else {}.items()
    sizes = {name: value.numel() // 100 for name, value in started if isinstance(value, Tensor) and value.dim()}
    return sum(max(1, sizes.get(name, 1)) for name, start in rule.remembers.items() if not start.scalar)


def steps_to(trial: Trial, metric: Metric, target: float) -> int | None:
    """The first measured step at which a run was at least as good as the target."""
    hits = (p.t for p in trial.curve if metric.cost(p.valid_metric) <= metric.cost(target))
    return min(hits, default=None)


def _sentence(
    winner: str | None, cheapest: Standing, tied: list[str], standings: list[Standing], metric: Metric
) -> str:
    best = next(s for s in standings if s.algorithm == (winner or cheapest.algorithm))
    figure = f"{metric.name} {best.mean:.4g} ({interval(best)}, {len(best.values)} fresh seeds)"
    if len(standings) == 1:
        return f"{best.algorithm} was raced alone: {figure}."
    if winner:
        failed = " or did not finish every fresh seed" if any(s.diverged for s in standings) else ""
        return f"{winner} validates best: {figure}; every other algorithm is worse by a corrected test{failed}."
    if best.diverged:
        return f"No algorithm finished every fresh seed; {best.algorithm} comes nearest: {figure}."
    others = ", ".join(name for name in tied if name != best.algorithm)
    n = len(standings)
    who = f"none of the {n} algorithms can" if len(tied) == n else f"{len(tied)} of the {n} algorithms cannot"
    return (
        f"A tie: {who} be told apart on fresh seeds. {best.algorithm} is "
        f"recommended, the cheapest within a standard error of the best (it remembers {best.vectors} "
        f"vector{'s' * (best.vectors != 1)} beside the parameters): {figure}. Tied with it: {others}."
    )


def interval(standing: Standing) -> str:
    """The 95 % interval as people read it."""
    return f"95 % interval {standing.low:.4g} to {standing.high:.4g}"
