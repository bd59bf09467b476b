"""What cutting trials early may have lost, as far as those that were cut and run to their end all the same tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from thalweg.comparison.study import Trial
from thalweg.learning.risk import Metric


@dataclass(frozen=True)
class Pruning:
    """How many `controls` would have beaten their algorithm's survivors; (`low`, `high`) bound that share at 95 %."""

    text: str
    controls: int = 0
    would_have_won: int = 0
    low: float = 0.0
    high: float = 1.0


def pruning(trials: Sequence[Trial], metric: Metric) -> Pruning:
    """The risk of a study's halving; the interval is Clopper and Pearson's."""
    controls = [t for t in trials if t.control and t.outcome == "finished"]
    cut = sum(t.outcome == "cut" for t in trials) + len(controls)
    if not cut:
        return Pruning("No trial was cut early.")
    if not controls:
        return Pruning(f"{cut} trials were cut early; none was run to its end to check.")
    won = sum(_beats_the_survivors(control, trials, metric) for control in controls)
    low, high = stats.binomtest(won, len(controls)).proportion_ci(0.95)
    text = (
        f"{cut} trials were cut early. {len(controls)} of them, drawn at random, were run to their end all the "
        f"same: {won} would have beaten the survivors of its algorithm (95 % interval of the share: "
        f"{low:.0%} to {high:.0%})."
    )
    return Pruning(text, len(controls), won, float(low), float(high))


def _beats_the_survivors(control: Trial, trials: Sequence[Trial], metric: Metric) -> bool:
    rivals = [
        t.cost(metric)
        for t in trials
        if (t.stage, t.algorithm, t.outcome, t.control) == (control.stage, control.algorithm, "finished", False)
    ]
    return bool(rivals) and control.cost(metric) < min(rivals)
