import math

import pytest
import torch

from thalweg.basic.momentum import momentum
from thalweg.basic.nesterov import nesterov
from thalweg.basic.sgd import sgd


def rosenbrock(theta):
    x, y = theta
    return torch.stack([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def start():
    return torch.tensor([-1.0, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("rule", [momentum, nesterov])
def test_momentum_without_momentum_is_sgd(rule):
    g = torch.randn(5, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        delta, _ = rule(g, torch.ones(5), lr=0.1, momentum=0.0)
        assert torch.equal(delta, sgd(g, lr=0.1))


@pytest.mark.parametrize("rule", [momentum, nesterov])
def test_under_a_constant_gradient_the_step_grows_to_lr_over_one_minus_momentum(rule):
    velocity = 0.0
    for _ in range(300):
        delta, velocity = rule(1.0, velocity, lr=0.1, momentum=0.9)
    assert delta == pytest.approx(-0.1 / (1 - 0.9))


def test_momentum_is_algorithm_8_2_with_v_as_minus_lr_times_the_velocity():
    epsilon, alpha = 1e-4, 0.9
    theta, v = start(), torch.zeros(2, dtype=torch.float64)
    mine, velocity = start(), v.clone()
    for _ in range(200):
        v = alpha * v - epsilon * rosenbrock(theta)
        theta = theta + v
        delta, velocity = momentum(rosenbrock(mine), velocity, lr=epsilon, momentum=alpha)
        mine = mine + delta
        assert torch.allclose(mine, theta, rtol=1e-10) and torch.allclose(v, -epsilon * velocity, rtol=1e-8)


def test_nesterov_is_algorithm_8_3_seen_from_the_look_ahead_point():
    epsilon, alpha = 1e-4, 0.9
    theta, v = start(), torch.zeros(2, dtype=torch.float64)
    mine, velocity = start(), v.clone()
    for _ in range(200):
        ahead = theta + alpha * v
        assert torch.allclose(mine, ahead, rtol=1e-10)
        v = alpha * v - epsilon * rosenbrock(ahead)
        theta = theta + v
        delta, velocity = nesterov(rosenbrock(mine), velocity, lr=epsilon, momentum=alpha)
        mine = mine + delta
    assert not torch.allclose(mine, theta, rtol=1e-4)  # the two are different points of one trajectory


def test_momentum_at_polyaks_choice_contracts_a_quadratic_by_its_rate():
    """By (sqrt(kappa) - 1) / (sqrt(kappa) + 1) a step, where the best SGD manages (kappa - 1) / (kappa + 1)."""
    low, high = 1.0, 100.0
    lr = 4 / (math.sqrt(high) + math.sqrt(low)) ** 2
    rate = (math.sqrt(high) - math.sqrt(low)) / (math.sqrt(high) + math.sqrt(low))
    curvature = torch.tensor([low, 10.0, high], dtype=torch.float64)
    theta, velocity, sizes = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), []
    for _ in range(150):
        delta, velocity = momentum(curvature * theta, velocity, lr=lr, momentum=rate**2)
        theta = theta + delta
        sizes.append(float(theta.norm()))
    assert sizes[149] / sizes[49] == pytest.approx(150 / 50 * rate**100, rel=0.02)  # a double root: t * rate**t
