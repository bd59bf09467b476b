import math

import pytest
import torch

from thalweg.core.measured import Measured, difference, exactly, jackknife, mean, proportion, quotient, ratio


def drawn(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covered(interval, truth):
    return interval.low <= truth <= interval.high


def test_intervals_of_means_cover_in_95_of_100():
    assert 182 <= sum(covered(mean(1 + drawn(8, seed=seed)), 1.0) for seed in range(200)) <= 198


def test_intervals_of_a_ratio_of_means_cover_and_it_is_nearly_without_bias():
    def ratio(x):
        return float(x[:, 0].mean() / x[:, 1].mean())

    found = [jackknife(ratio, torch.tensor([2.0, 1.0]) + 0.5 * drawn(20, 2, seed=seed)) for seed in range(200)]
    assert sum(covered(interval, 2.0) for interval in found) >= 180
    assert sum(interval.value for interval in found) / 200 == pytest.approx(2.0, abs=0.05)


def test_a_jackknifed_mean_is_the_mean():
    draws = drawn(9, seed=0)
    assert jackknife(lambda x: float(x.mean()), draws) == pytest.approx(mean(draws))


def test_intervals_of_a_proportion_stay_between_0_and_1():
    assert proportion(0, 10).low == 0 and proportion(0, 10).high < 0.35
    assert proportion(10, 10).high == 1
    assert math.isnan(proportion(0, 0).value)


def test_of_one_draw_the_error_is_not_known():
    assert mean(torch.ones(1)) == Measured(1.0, -math.inf, math.inf, 1)
    assert not mean(torch.ones(1)).excludes(100.0)


def test_an_exact_figure_is_a_point():
    assert str(exactly(0.12345)) == "0.123"
    assert exactly(2.0).excludes(1.999)


def test_intervals_of_a_ratio_cover_where_what_is_below_may_be_nothing():
    """Of the ratio of 2 and b: 5 and infinity have nothing in common but that they are covered."""
    for b, least in ((0.4, 180), (0.0, 180)):
        found = [ratio(2 + drawn(10, seed=seed), b + drawn(10, seed=1000 + seed)) for seed in range(200)]
        assert sum(covered(interval, 2 / b if b else math.inf) for interval in found) >= least
        assert all(interval.low >= 0 and interval.value >= 0 for interval in found)


def test_a_ratio_of_means_is_no_mean_of_ratios():
    assert ratio(torch.tensor([1.0, 9.0, 2.0]), torch.tensor([1.0, 3.0, 2.0])).value == pytest.approx(2.0)
    assert ratio(torch.zeros(3), torch.zeros(3))[:3] == (math.inf, 0.0, math.inf)
    assert ratio(torch.ones(1), torch.ones(1))[:3] == (1.0, 0.0, math.inf)


def test_a_ratio_of_draws_that_are_proportional_is_known_exactly():
    b = 5 + drawn(6, seed=0)
    assert ratio(3 * b, b)[:3] == pytest.approx((3.0, 3.0, 3.0))


def test_intervals_of_a_difference_cover_where_both_scatter_differently():
    found = [difference(1 + 5 * drawn(4, seed=seed), drawn(20, seed=500 + seed)) for seed in range(200)]
    assert 182 <= sum(covered(interval, 1.0) for interval in found) <= 198
    assert difference(torch.ones(4), torch.zeros(3))[:3] == (1.0, 1.0, 1.0)
    assert difference(torch.ones(1), torch.zeros(3))[:3] == (1.0, -math.inf, math.inf)


def test_an_increasing_function_takes_the_ends_along():
    assert Measured(4.0, 1.0, math.inf, 3).through(math.sqrt) == Measured(2.0, 1.0, math.inf, 3)


def test_a_quotient_of_positive_figures_covers_and_of_others_is_not_known():
    found = [
        quotient(mean(4 + drawn(10, seed=seed)), mean(2 + 0.2 * drawn(10, seed=1000 + seed))) for seed in range(200)
    ]
    assert 180 <= sum(covered(interval, 2.0) for interval in found) <= 199
    assert quotient(Measured(1.0, -1.0, 3.0), exactly(2.0))[:3] == (0.5, 0.0, math.inf)
    assert math.isnan(quotient(exactly(0.0), exactly(0.0)).value)
