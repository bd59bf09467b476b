import numpy as np
import pytest

from thalweg.comparison.study import Trial
from thalweg.comparison.verdict import _holm, judge
from thalweg.learning.risk import Metric
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

higher = Metric("accuracy", max, higher_is_better=True)
lower = Metric("RMSE", max, higher_is_better=False)


def runs(name, values, outcome="finished"):
    return [
        Trial(f"confirmation/{name}/{i:02d}", "confirmation", name, Recipe(name, steps=100), i, outcome, 100,
              [Point(50, 1.0, 1.0, v * 0.9), Point(100, 0.5, 0.5, v)], cpu_seconds=1.0)
        for i, v in enumerate(values)
    ]  # fmt: skip


def test_a_clear_winner_wins_whichever_way_the_metric_points():
    good, bad = [0.97, 0.971, 0.969], [0.90, 0.91, 0.905]
    assert judge(runs("adam", good) + runs("sgd", bad), higher).winner == "adam"
    assert judge([*runs("adam", good), *runs("sgd", bad)], lower).winner == "sgd"


def test_a_tie_recommends_the_one_that_remembers_least():
    verdict = judge(runs("adam", [0.97, 0.96, 0.98]) + runs("sgd", [0.965, 0.96, 0.97]), higher)
    assert verdict.winner is None and set(verdict.tied) == {"adam", "sgd"}
    assert verdict.recommended == "sgd"
    assert "A tie" in verdict.sentence and "0 vectors" in verdict.sentence


def test_the_interval_is_students():
    standing = judge(runs("adam", [0.90, 0.92, 0.94]), higher).standings[0]
    assert standing.mean == pytest.approx(0.92)
    assert standing.high - standing.mean == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-5)


def test_equal_values_leave_the_uncertainty_of_their_rounding():
    verdict = judge(runs("adam", [0.97, 0.97, 0.97]) + runs("sgd", [0.96, 0.97, 0.96]), higher)
    best = verdict.standings[0]
    assert best.low < best.mean < best.high  # the metric resolves 0.01, so three equal figures prove little


def test_an_algorithm_that_diverges_on_a_fresh_seed_neither_wins_nor_ties():
    lost = Trial("confirmation/adam/02", "confirmation", "adam", Recipe("adam", steps=100), 2, "diverged", 30)
    verdict = judge([*runs("adam", [0.99, 0.99]), lost, *runs("sgd", [0.9, 0.91, 0.9])], higher)
    assert verdict.recommended == "sgd" and "adam" not in verdict.tied
    assert "or did not finish every fresh seed" in verdict.sentence
    alone = judge([*runs("adam", [0.99, 0.99]), lost], higher)
    assert alone.winner is None
    assert next(s for s in verdict.standings if s.algorithm == "adam").diverged == 1


def test_time_to_target_counts_the_runs_that_reach_it():
    good, tied, bad = [0.9, 0.91, 0.92], [0.8, 0.9, 0.94], [0.5, 0.51, 0.52]
    verdict = judge(runs("adam", good) + runs("rmsprop", tied) + runs("sgd", bad), higher)
    assert verdict.tied == ["adam", "rmsprop"] and verdict.target == 0.9  # the worse of the two medians
    adam, rmsprop, sgd = verdict.standings
    assert (adam.reached, adam.steps_to_target) == (3, 100)
    assert (rmsprop.reached, rmsprop.steps_to_target) == (2, 100)
    assert (sgd.reached, sgd.steps_to_target) == (0, None)


def test_holms_correction_on_a_known_case():
    assert _holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_algorithms_rarely_look_different(seeds):
    """The rate at which a world of five equal algorithms gets a winner must stay under the level."""
    names = ["adam", "sgd", "momentum", "rmsprop", "adagrad"]
    generator = np.random.default_rng(0)
    draws = generator.normal(0.95, 0.01, (300, len(names), seeds))
    verdicts = [judge([t for n, v in zip(names, d, strict=True) for t in runs(n, v.tolist())], higher) for d in draws]
    assert np.mean([v.winner is not None for v in verdicts]) < 0.01
    assert np.mean([len(v.tied) < len(names) for v in verdicts]) < 0.15  # some one is called worse
