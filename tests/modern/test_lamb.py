import numpy as np
import pytest
import torch

from thalweg import adam
from thalweg.modern.lamb import lamb

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_2(x, gradients, lr, beta1, beta2, eps, decay):
    """You et al. 2020, φ the identity."""
    x, m, v = np.array(x), 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        x = x - lr * np.sqrt(np.sum(x**2)) / np.sqrt(np.sum((r + decay * x) ** 2)) * (r + decay * x)
    return x


@pytest.mark.parametrize("shape", [(4, 3), (5,), (4, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("knobs", [(1e-3, 0.9, 0.999, 1e-6, 0.0), (0.1, 0.7, 0.8, 0.01, 0.3)])
def test_it_is_algorithm_2(shape, knobs):
    theta, gradients = drawn(*shape), drawn(25, *shape, seed=1)
    lr, beta1, beta2, eps, decay = knobs
    mine, _ = run(lamb, theta, gradients, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)
    assert np.abs(mine.numpy() - algorithm_2(theta.numpy(), gradients.numpy(), *knobs)).max() < 1e-10


def test_a_step_is_as_long_as_lr_times_the_tensor():
    theta, g = drawn(4, 3), drawn(4, 3, seed=1)
    delta, _ = run(lamb, theta, [g], lr=0.1, weight_decay=0.5)
    assert (delta - theta).norm() == pytest.approx(0.1 * float(theta.norm()), rel=1e-12)


def test_from_zero_the_first_step_is_adams():
    g = drawn(5, seed=1)
    mine, _ = run(lamb, torch.zeros(5, dtype=DOUBLE), [g], lr=0.1, eps=0.01)
    adams, _ = run(adam, torch.zeros(5, dtype=DOUBLE), [g], lr=0.1, eps=0.01)
    torch.testing.assert_close(mine, adams, rtol=1e-14, atol=0)


def test_where_the_gradient_is_zero_it_stays():
    theta = drawn(4, 3)
    assert torch.equal(run(lamb, theta, [torch.zeros(4, 3, dtype=DOUBLE)])[0], theta)


def test_a_scaled_tensor_takes_scaled_steps():
    theta, gradients = drawn(4, 3), drawn(10, 4, 3, seed=1)
    mine, _ = run(lamb, 8 * theta, gradients / 8, lr=0.1, eps=0.0)
    torch.testing.assert_close(mine, 8 * run(lamb, theta, gradients, lr=0.1, eps=0.0)[0], rtol=1e-12, atol=1e-12)
