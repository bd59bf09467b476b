import pytest

from thalweg.comparison.plan import (
    LEAST_STEPS,
    REFINEMENT,
    SCREENING,
    SEEDS,
    Plan,
    duration,
    fixed,
    planned,
    seconds,
    survivors,
)
from thalweg.core.errors import BudgetError


def test_a_plan_costs_what_its_halving_runs():
    plan = Plan(steps=960, batch_size=32, trials=18, seeds=3)
    assert plan.rounds == (12, 6)
    assert plan.rungs(SCREENING) == [40, 160] and plan.rungs(REFINEMENT) == [240, 960]
    screening = (12 * 40 + 3 * 120) / 960
    refinement = (6 * 240 + 2 * 720) / 960
    assert plan.equivalents() == pytest.approx(screening + refinement + 3)


def test_the_fewest_trials_still_come_to_a_whole_run():
    assert [fixed(100, 32, trials).rounds for trials in (2, 3, 6)] == [(1, 1), (2, 1), (4, 2)]


def test_every_rung_is_a_measured_step():
    for steps in (1, 7, 24, 100, 999, 5000):
        plan = Plan(steps, 32, trials=8, seeds=3)
        for fractions in (SCREENING, REFINEMENT):
            rungs = plan.rungs(fractions)
            assert all(rung % plan.every == 0 or rung == steps for rung in rungs)
            assert rungs == sorted(rungs) and rungs[-1] <= steps
            assert len(rungs) == len(fractions)
        assert plan.rungs(REFINEMENT)[-1] == steps


def test_a_quarter_goes_on_and_never_none():
    assert [survivors(n) for n in (1, 2, 4, 8, 16, 64)] == [1, 1, 1, 2, 4, 16]


def test_a_longer_budget_buys_more_trials_and_fits():
    def plan(budget):
        return planned(budget, steps=1000, batch_size=32, algorithms=8, seconds_per_step=1e-3, workers=2)

    bought = [plan(budget) for budget in (60, 120, 300, 1200)]
    assert [p.trials for p in bought] == sorted(p.trials for p in bought)
    assert bought[0].trials < bought[-1].trials
    for budget, p in zip((60, 120, 300, 1200), bought, strict=True):
        assert 8 * p.equivalents() * p.steps * 1e-3 / 2 < budget
        assert p.seeds >= SEEDS


def test_a_short_budget_shortens_the_runs_before_it_gives_up():
    short = planned(20, steps=1000, batch_size=32, algorithms=10, seconds_per_step=1e-3, workers=2)
    assert LEAST_STEPS <= short.steps < 1000


def test_a_budget_that_buys_nothing_says_how_much_it_needs():
    with pytest.raises(BudgetError, match=r"too small to try anything here: 10 algorithms need about"):
        planned(1, steps=1000, batch_size=32, algorithms=10, seconds_per_step=1e-3, workers=2)
    with pytest.raises(BudgetError, match="2 are the least"):
        fixed(100, 32, trials=1)


@pytest.mark.parametrize("text", ["", "5", "m5", "5 minutes", "0s", "-3m", "1h30"])
def test_a_duration_that_is_none_is_refused(text):
    with pytest.raises(BudgetError):
        seconds(text)


def test_durations_read_and_speak():
    assert [seconds(t) for t in ("90s", "5m", "1h30m", "0.5h", 7)] == [90, 300, 5400, 1800, 7]
    assert [duration(s) for s in (1, 59, 60, 3600)] == ["1 s", "59 s", "1 min", "1 h"]
