import math

import pytest
import torch

from thalweg.core.measured import Measured, exactly, jackknife, mean, proportion


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
