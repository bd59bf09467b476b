import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd
from thalweg.strategies.averaging import averaged, averaged_exponentially, averaged_late
from thalweg.strategies.clipping import clipped


def trajectory(rule, steps=12, **knobs):
    """All the points that a rule visits after its start, and its last memory."""
    theta, points = torch.tensor([3.0, -1.0], dtype=torch.float64), []
    knobs = rule.with_defaults({"lr": 0.1, **knobs})
    memory = rule.start(theta, **knobs)
    for t in range(steps):
        delta, memory = rule.step({"g": theta + t % 3, "theta": theta}, memory, knobs)
        theta = theta + delta
        points.append(theta)
    return torch.stack(points), memory


def test_polyaks_average_is_the_mean_of_all_points_after_the_start():
    points, memory = trajectory(averaged(adam))
    assert torch.allclose(memory["average"], points.mean(dim=0), rtol=1e-14)


def test_the_exponential_average_weighs_a_point_by_its_age_and_the_weights_sum_to_one():
    points, memory = trajectory(averaged_exponentially(adam), ema_decay=0.8)
    weights = 0.8 ** torch.arange(len(points) - 1, -1, -1, dtype=torch.float64)
    assert torch.allclose(memory["average"], (weights / weights.sum()) @ points, rtol=1e-14)


def test_the_exponential_average_with_bias_correction_is_adams_first_moment_of_theta():
    points, memory = trajectory(averaged_exponentially(sgd), ema_decay=0.8)
    moment = torch.zeros(2, dtype=torch.float64)
    for point in points:
        moment = 0.8 * moment + (1 - 0.8) * point
    assert torch.allclose(memory["average"], moment / (1 - 0.8 ** len(points)))


@pytest.mark.parametrize("combine", [averaged, averaged_exponentially, averaged_late])
def test_averaging_leaves_the_trajectory_alone_and_is_the_answer(combine):
    rule = combine(clipped(adam))
    points, memory = trajectory(rule)
    assert torch.equal(points, trajectory(clipped(adam))[0])
    assert rule.answer(points[-1], memory) is memory["average"]


@pytest.mark.parametrize("combine", [averaged, averaged_exponentially, averaged_late])
def test_after_one_step_the_average_is_theta(combine):
    points, memory = trajectory(combine(sgd), steps=1)
    assert torch.allclose(memory["average"], points[0], rtol=1e-15)


def test_the_exponential_average_forgets_nothing_when_its_decay_is_one_step_from_one():
    points, memory = trajectory(averaged_exponentially(sgd), ema_decay=1 - 1e-9)
    assert torch.allclose(memory["average"], points.mean(dim=0), rtol=1e-6)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (0, 4), (5, 1), (5, 3), (1, 2), (11, 1)])
def test_a_late_average_is_the_mean_of_every_so_manieth_point_after_its_start(start, every):
    points, memory = trajectory(averaged_late(adam), average_from=start, average_every=every)
    chosen = points[start + every - 1 :: every]  # points[t - 1] is theta after t steps
    assert memory["counted"] == len(chosen)
    assert torch.allclose(memory["average"], chosen.mean(dim=0), rtol=1e-14)


def test_until_a_late_average_begins_the_answer_is_theta():
    for steps in range(1, 6):
        points, memory = trajectory(averaged_late(adam), steps, average_from=5, average_every=2)
        assert torch.equal(memory["average"], points[-1])
    points, memory = trajectory(averaged_late(adam), 6, average_from=5, average_every=2)
    assert torch.equal(memory["average"], points[4]) and memory["counted"] == 0  # the last theta before its first


def test_a_late_average_from_the_first_step_on_is_polyaks():
    late, polyak = trajectory(averaged_late(adam))[1], trajectory(averaged(adam))[1]
    assert torch.equal(late["average"], polyak["average"]) and late["counted"] == polyak["n"]
