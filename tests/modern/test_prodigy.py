import numpy as np
import pytest
import torch

from thalweg.modern.prodigy import prodigy

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_4(x, gradients, lr, beta1, beta2, eps, d, d_coef=1.0):
    """Mishchenko and Defazio 2023, the Adam version."""
    x0, x = np.array(x), np.array(x)
    m, v, r, s, ds = 0.0, 0.0, 0.0, 0.0, []
    for g in gradients:
        m = beta1 * m + (1 - beta1) * d * g
        v = beta2 * v + (1 - beta2) * d**2 * g**2
        r = np.sqrt(beta2) * r + (1 - np.sqrt(beta2)) * lr * d**2 * np.dot(g, x0 - x)
        s = np.sqrt(beta2) * s + (1 - np.sqrt(beta2)) * lr * d**2 * g
        d_hat = d_coef * r / np.sum(np.abs(s))
        x = x - lr * d * m / (np.sqrt(v) + d * eps)
        d = max(d, d_hat)
        ds.append(d)
    return x, ds


KNOBS = [(1.0, 0.9, 0.999, 1e-8, 1e-6), (0.5, 0.7, 0.9, 1e-3, 0.1), (1.0, 0.9, 0.999, 1e-8, 1e-3, 2.0)]
NAMES = ("lr", "beta1", "beta2", "eps", "d0", "d_coef")


@pytest.mark.parametrize("n", [12, 5])
@pytest.mark.parametrize("knobs", KNOBS)
def test_it_is_algorithm_4(n, knobs):
    theta, gradients = drawn(n), drawn(40, n, seed=1) + drawn(n, seed=2)
    mine, memory = run(prodigy, theta, gradients, **dict(zip(NAMES, knobs, strict=False)))
    expected, ds = algorithm_4(theta.numpy(), gradients.numpy(), *knobs)
    assert ds[-1] > ds[0]
    assert np.abs((mine.numpy() - expected) / np.abs(expected).max()).max() < 1e-10
    assert memory["d"] == pytest.approx(ds[-1], rel=1e-10)


def descended(theta, steps, **knobs):
    """Along f(x) = |x| in every component, from theta; the memory, and the largest d."""
    memory, knobs = prodigy.start(theta, **knobs), prodigy.with_defaults(knobs)
    for _ in range(steps):
        delta, memory = prodigy.step({"g": theta.sign(), "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


@pytest.mark.parametrize("distance", [0.01, 1.0, 100.0])
def test_d_finds_the_order_of_the_distance_and_does_not_exceed_it(distance):
    _, memory = descended(torch.full((4,), distance, dtype=DOUBLE), 300, beta2=0.99)
    assert 0.05 * distance < memory["d"] <= distance


def test_it_moves_with_the_scale_of_theta():
    start, scaled = drawn(5), 1024 * drawn(5)
    mine, _ = descended(start, 50, d0=2.0**-20, eps=0.0)
    other, _ = descended(scaled, 50, d0=2.0**-10, eps=0.0)
    torch.testing.assert_close(other, 1024 * mine, rtol=1e-9, atol=1e-9)


def test_while_no_gradient_came_it_stays_and_d_with_it():
    theta, zero = drawn(5), torch.zeros(5, dtype=DOUBLE)
    after, memory = run(prodigy, theta, [zero, zero])
    assert torch.equal(after, theta) and memory["d"] == 1e-6


def test_weight_decay_is_by_the_lr_that_it_found():
    theta, g = drawn(5), drawn(5, seed=1)
    with_it, without = (run(prodigy, theta, [g], d0=0.25, lr=0.5, weight_decay=decay)[0] for decay in (0.4, 0.0))
    torch.testing.assert_close(with_it - without, -0.25 * 0.5 * 0.4 * theta, rtol=1e-12, atol=1e-14)
