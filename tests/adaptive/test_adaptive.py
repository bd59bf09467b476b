import math

import pytest
import torch

from thalweg.adaptive.adagrad import adagrad
from thalweg.adaptive.adam import adam
from thalweg.adaptive.adamw import adamw
from thalweg.adaptive.nadam import nadam
from thalweg.adaptive.rmsprop import rmsprop
from thalweg.adaptive.rmsprop_nesterov import rmsprop_nesterov

DOUBLE = torch.float64


def rosenbrock(theta):
    x, y = theta
    return torch.stack([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def steps(rule, gradients, theta=0.0, **knobs):
    """The steps that a rule takes on numbers, one for each gradient."""
    knobs, taken = rule.with_defaults(knobs), []
    memory = rule.start(torch.zeros(()), **knobs)
    memory = {n: float(v) if isinstance(v, torch.Tensor) else v for n, v in memory.items()}
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta += delta
        taken.append(delta)
    return taken


def test_adagrads_steps_shrink_as_one_over_sqrt_t_under_a_constant_gradient():
    expected = [-0.1 / math.sqrt(t) for t in range(1, 10)]
    assert steps(adagrad, [7.0] * 9, lr=0.1, eps=0.0) == pytest.approx(expected)


def test_adagrads_lr_decay_divides_by_the_steps_before():
    expected = [-0.1 / math.sqrt(t) / (1 + 0.5 * (t - 1)) for t in range(1, 10)]
    assert steps(adagrad, [7.0] * 9, lr=0.1, eps=0.0, lr_decay=0.5) == pytest.approx(expected)


def test_rmsprop_forgets_a_gradient_that_adagrad_remembers():
    gradients = [1000.0] + [1.0] * 2000
    assert steps(rmsprop, gradients, lr=0.1, alpha=0.9)[-1] == pytest.approx(-0.1)
    assert steps(adagrad, gradients, lr=0.1)[-1] == pytest.approx(-0.1 / math.sqrt(1e6 + 2000))


def test_the_books_eps_inside_the_root_is_its_root_outside_where_gradients_are_tiny():
    g, rho, delta = 1e-7, 0.9, 1e-6
    book = -0.1 * g / math.sqrt(delta + (1 - rho) * g * g)
    assert steps(rmsprop, [g], lr=0.1, alpha=rho, eps=math.sqrt(delta)) == pytest.approx([book], rel=1e-3)


def test_rmsprop_nesterov_is_algorithm_8_6_seen_from_the_look_ahead_point():
    epsilon, rho, alpha = 1e-3, 0.95, 0.9
    theta = torch.tensor([-1.0, 1.5], dtype=DOUBLE)
    r, v = torch.zeros(2, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)
    mine, velocity, mine_r = theta.clone(), v.clone(), r.clone()
    for _ in range(200):
        ahead = theta + alpha * v
        assert torch.allclose(mine, ahead, rtol=1e-9)
        g = rosenbrock(ahead)
        r = rho * r + (1 - rho) * g * g
        v = alpha * v - epsilon / r.sqrt() * g
        theta = theta + v
        delta, mine_r, velocity = rmsprop_nesterov(
            rosenbrock(mine), mine_r, velocity, lr=epsilon, alpha=rho, momentum=alpha, eps=0.0
        )
        mine = mine + delta


def test_rmsprop_nesterov_without_momentum_is_rmsprop():
    gradients = [1.0, -2.0, 0.5]
    assert steps(rmsprop_nesterov, gradients, momentum=0.0) == pytest.approx(steps(rmsprop, gradients))


def test_adams_corrected_moments_make_every_step_lr_under_a_constant_gradient():
    assert steps(adam, [-7.0] * 50, lr=0.1, eps=0.0) == pytest.approx([0.1] * 50)


@pytest.mark.parametrize("rule", [adagrad, rmsprop, rmsprop_nesterov, adam, nadam])
def test_without_eps_the_scale_of_the_gradients_does_not_matter(rule):
    gradients = [1.0, -2.0, 0.5, 3.0]
    scaled = steps(rule, [1e6 * g for g in gradients], eps=0.0)
    assert scaled == pytest.approx(steps(rule, gradients, eps=0.0))


def test_adam_without_first_moments_is_rmsprop_with_bias_correction():
    gradients, beta2 = [1.0, -2.0, 0.5, 3.0], 0.9
    corrected = [
        step * math.sqrt(1 - beta2**t) for t, step in enumerate(steps(rmsprop, gradients, alpha=beta2, eps=0.0), 1)
    ]
    assert steps(adam, gradients, lr=0.01, beta1=0.0, beta2=beta2, eps=0.0) == pytest.approx(corrected)


def test_nadam_without_first_moments_is_adam_without_them():
    gradients = [1.0, -2.0, 0.5, 3.0]
    assert steps(nadam, gradients, beta1=0.0, lr=0.1) == pytest.approx(steps(adam, gradients, beta1=0.0, lr=0.1))


def test_nadam_leads_adam_when_the_gradient_turns():
    gradients = [1.0] * 20 + [-1.0]
    assert steps(nadam, gradients, lr=0.1, momentum_decay=10.0)[-1] > steps(adam, gradients, lr=0.1)[-1]


def test_adamw_without_decay_is_adam_and_with_it_shrinks_theta_whatever_the_gradients_size():
    gradients = [1.0, -2.0, 0.5, 3.0]
    assert steps(adamw, gradients, theta=5.0, weight_decay=0.0) == steps(adam, gradients)
    assert steps(adamw, [0.0], theta=5.0, lr=0.1, weight_decay=0.5) == pytest.approx([-0.1 * 0.5 * 5.0])


def test_adamw_decays_as_torch_does_by_default():
    assert adamw.name == "adamw" and adamw.knobs["weight_decay"] == 0.01
