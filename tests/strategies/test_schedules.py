import math

import pytest
import torch
from torch.optim import lr_scheduler

from thalweg.core.errors import AlgorithmError
from thalweg.strategies.schedules import (
    SCHEDULES,
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    inverse_time,
    linear_decay,
    scaled,
    stable_decay,
    step_decay,
    then,
    warm_restarts,
    warmed_up,
    warmup_stable_decay,
)


def torchs(make, n, lr=0.3):
    """The lr of the first n steps under one of torch's schedulers."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, values = make(optimizer), []
    for _ in range(n):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


PAIRS = {
    "constant": (constant(0.3), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    "linear_decay": (linear_decay(0.3, 20, 0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=20)),
    "step_decay": (step_decay(0.3, 7, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 7, gamma=0.5)),
    "exponential": (exponential(0.3, 0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "inverse_time": (inverse_time(0.3, 5.0), lambda o: lr_scheduler.LambdaLR(o, lambda t: 5 / (5 + t))),
    "inverse_sqrt": (inverse_sqrt(0.3), lambda o: lr_scheduler.LambdaLR(o, lambda t: (t + 1) ** -0.5)),
    "cosine": (cosine(0.3, 40, 0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.03)),
    "warm_restarts": (warm_restarts(0.3, 6), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6)),
    "longer and longer warm restarts": (
        warm_restarts(0.3, 4, mult=2, end_factor=0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4, T_mult=2, eta_min=0.03),
    ),
    "warmed_up": (
        warmed_up(cosine(0.3, 35), 4),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.2, 1.0, total_iters=4), lr_scheduler.CosineAnnealingLR(o, 35)], [4]
        ),
    ),
    "stable_decay": (
        stable_decay(0.3, 40, decay=0.25),
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.ConstantLR(o, factor=1.0), lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=10)], [30]
        ),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_schedule_is_torchs(name):
    schedule, make = PAIRS[name]
    assert [schedule(t) for t in range(40)] == pytest.approx(torchs(make, 40), abs=1e-15)


def test_linear_decay_is_equation_8_14():
    epsilon_0, epsilon_tau, tau = 0.5, 0.005, 20
    for k in range(40):
        alpha = min(k / tau, 1)
        assert linear_decay(epsilon_0, tau)(k) == pytest.approx((1 - alpha) * epsilon_0 + alpha * epsilon_tau)


def test_one_over_t_meets_both_conditions_for_convergence_and_one_over_sqrt_t_only_the_first():
    """Equations 8.12 and 8.13: the sum of lr grows beyond all bounds, that of its squares does not."""

    def sums(schedule, n):
        values = [schedule(t) for t in range(n)]
        return sum(values), sum(v * v for v in values)

    assert sums(inverse_time(1.0), 20_000)[0] == pytest.approx(math.log(20_000) + 0.57722, abs=1e-3)
    assert sums(inverse_time(1.0), 20_000)[1] == pytest.approx(math.pi**2 / 6, abs=1e-3)
    assert sums(inverse_sqrt(1.0), 20_000)[1] == pytest.approx(math.log(20_000) + 0.57722, abs=1e-3)


def test_what_has_decayed_stays_where_it_is():
    for schedule in (cosine(1.0, 10, 0.1), linear_decay(1.0, 10, 0.1), stable_decay(1.0, 10, end_factor=0.1)):
        assert [schedule(t) for t in (10, 11, 25, 10_000)] == pytest.approx([0.1] * 4)


def test_a_trapezoid_rises_stays_and_falls():
    schedule = warmup_stable_decay(1.0, 100, warmup=0.1, decay=0.3)
    values = [schedule(t) for t in range(101)]
    assert values[:10] == pytest.approx([(t + 1) / 11 for t in range(10)])
    assert values[10:71] == [1.0] * 61
    assert values[70:] == pytest.approx([1 - i / 30 for i in range(31)])


def test_a_schedule_that_follows_another_begins_at_its_own_beginning():
    schedule = then(constant(2.0), 3, then(exponential(1.0, 0.5), 2, constant(7.0)))
    assert [schedule(t) for t in range(7)] == [2.0, 2.0, 2.0, 1.0, 0.5, 7.0, 7.0]


def test_a_scaled_schedule_is_that_many_times_itself():
    assert [scaled(exponential(1.0, 0.5), 3)(t) for t in range(3)] == [3.0, 1.5, 0.75]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 999])
def test_every_schedule_of_a_recipe_stays_between_0_and_lr_and_ends_low(name, steps):
    schedule = SCHEDULES[name](0.5, steps)
    values = [schedule(t) for t in range(steps)]
    assert all(isinstance(v, float) and 0 < v <= 0.5 for v in values)
    assert name == "constant" or schedule(steps) <= 0.5 * 0.1 + 1e-12 or name == "warm_restarts"
    assert [schedule(t) for t in reversed(range(steps))] == values[::-1]


def test_the_last_of_the_warm_restarts_of_a_recipe_ends_with_the_run():
    schedule = SCHEDULES["warm_restarts"](1.0, 700)
    assert [schedule(t) for t in (0, 100, 300)] == pytest.approx([1.0] * 3)
    assert max(schedule(t) for t in (99, 299, 699)) < 1e-3


@pytest.mark.parametrize(
    "make",
    [
        lambda: cosine(0.1, 0),
        lambda: linear_decay(0.1, -1),
        lambda: step_decay(0.1, 0),
        lambda: inverse_time(0.1, 0),
        lambda: warm_restarts(0.1, 10, mult=0),
        lambda: warmup_stable_decay(0.1, 10, decay=0),
    ],
)
def test_a_length_that_is_none_is_refused(make):
    with pytest.raises(AlgorithmError, match="it must be positive"):
        make()
