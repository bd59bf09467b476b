import numpy as np
import pytest
import torch

from thalweg.modern.dadapt_adam import dadapt_adam

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_5(x, gradients, lr, beta1, beta2, eps, d):
    """Defazio and Mishchenko 2023, Adam with D-Adaptation."""
    x, s = np.array(x), np.zeros_like(x)
    m, v, r, ds = 0.0, 0.0, 0.0, []
    for g in gradients:
        m = beta1 * m + (1 - beta1) * d * lr * g
        v = beta2 * v + (1 - beta2) * g**2
        a = np.sqrt(v) + eps
        x = x - m / a
        r = np.sqrt(beta2) * r + (1 - np.sqrt(beta2)) * d * lr * np.sum(g * s / a)
        s = np.sqrt(beta2) * s + (1 - np.sqrt(beta2)) * d * lr * g
        d_hat = r / ((1 - np.sqrt(beta2)) * np.sum(np.abs(s)))
        d = max(d, d_hat)
        ds.append(d)
    return x, ds


@pytest.mark.parametrize("n", [12, 5])
@pytest.mark.parametrize("knobs", [(1.0, 0.9, 0.999, 1e-8, 1e-6), (0.5, 0.7, 0.9, 1e-3, 0.1)])
def test_it_is_algorithm_5(n, knobs):
    theta, gradients = drawn(n), drawn(40, n, seed=1) + drawn(n, seed=2)
    names = ("lr", "beta1", "beta2", "eps", "d0")
    mine, memory = run(dadapt_adam, theta, gradients, **dict(zip(names, knobs, strict=True)))
    expected, ds = algorithm_5(theta.numpy(), gradients.numpy(), *knobs)
    assert ds[-1] > ds[0]
    assert np.abs((mine.numpy() - expected) / np.abs(expected).max()).max() < 1e-10
    assert memory["d"] == pytest.approx(ds[-1], rel=1e-10)


@pytest.mark.parametrize("distance", [0.01, 1.0, 100.0])
def test_d_finds_the_order_of_the_distance(distance):
    theta = torch.full((4,), distance, dtype=DOUBLE)
    knobs, memory = dadapt_adam.with_defaults({"beta2": 0.99}), dadapt_adam.start(theta)
    for _ in range(500):
        delta, memory = dadapt_adam.step({"g": theta.sign(), "theta": theta}, memory, knobs)
        theta = theta + delta
    assert 0.05 * distance < memory["d"] < 4 * distance


def test_it_does_not_see_the_scale_of_the_gradients():
    theta, gradients = drawn(5), drawn(20, 5, seed=1)
    mine, scaled = (run(dadapt_adam, theta, factor * gradients, eps=0.0, d0=0.1)[0] for factor in (1, 1024))
    torch.testing.assert_close(mine, scaled, rtol=1e-12, atol=1e-12)


def test_while_no_gradient_came_it_stays_and_d_with_it():
    theta, zero = drawn(5), torch.zeros(5, dtype=DOUBLE)
    after, memory = run(dadapt_adam, theta, [zero, zero])
    assert torch.equal(after, theta) and memory["d"] == 1e-6


def test_weight_decay_is_by_the_lr_that_it_found():
    theta, g = drawn(5), drawn(5, seed=1)
    with_it, without = (run(dadapt_adam, theta, [g], d0=0.25, lr=0.5, weight_decay=decay)[0] for decay in (0.4, 0.0))
    torch.testing.assert_close(with_it - without, -0.25 * 0.5 * 0.4 * theta, rtol=1e-12, atol=1e-14)
