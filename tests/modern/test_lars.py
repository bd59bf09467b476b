import numpy as np
import pytest
import torch

from thalweg import momentum
from thalweg.modern.lars import lars

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_1(w, gradients, lr, mu, beta, eta):
    """You et al. 2017."""
    w, v = np.array(w), 0.0
    for g in gradients:
        local = eta * np.sqrt(np.sum(w**2)) / (np.sqrt(np.sum(g**2)) + beta * np.sqrt(np.sum(w**2)))
        v = mu * v + lr * local * (g + beta * w)
        w = w - v
    return w


@pytest.mark.parametrize("shape", [(4, 3), (5,), (4, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("knobs", [(1.0, 0.9, 0.0, 0.001), (0.5, 0.7, 0.3, 0.1)])
def test_it_is_algorithm_1(shape, knobs):
    theta, gradients = drawn(*shape), drawn(25, *shape, seed=1)
    lr, mu, beta, eta = knobs
    mine, _ = run(lars, theta, gradients, lr=lr, momentum=mu, weight_decay=beta, trust_coefficient=eta)
    assert np.abs(mine.numpy() - algorithm_1(theta.numpy(), gradients.numpy(), *knobs)).max() < 1e-10


def test_a_new_lr_acts_on_new_gradients_only():
    seen = {"g": torch.zeros(3), "theta": torch.ones(3)}
    delta, _ = lars.step(seen, {"v": torch.ones(3)}, lars.with_defaults({"lr": 1e9, "momentum": 0.5}))
    assert torch.equal(delta, torch.full((3,), -0.5))


def test_it_does_not_see_the_scale_of_the_gradients():
    theta, gradients = drawn(4, 3), drawn(10, 4, 3, seed=1)
    mine, scaled = (run(lars, theta, factor * gradients)[0] for factor in (1, 1024))
    torch.testing.assert_close(mine, scaled, rtol=1e-13, atol=1e-13)


def test_from_zero_the_first_step_is_sgds_with_the_trust_coefficient():
    zero, g = torch.zeros(5, dtype=DOUBLE), drawn(5, seed=1)
    mine, _ = run(lars, zero, [g], lr=0.5, trust_coefficient=0.01)
    torch.testing.assert_close(mine, run(momentum, zero, [g], lr=0.005)[0], rtol=1e-14, atol=0)
    assert torch.equal(run(lars, drawn(5), [zero])[0], drawn(5))
