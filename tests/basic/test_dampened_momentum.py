import numpy as np
import pytest
import torch

from thalweg.basic.dampened_momentum import dampened_momentum
from thalweg.basic.momentum import momentum


def velocities(gradients, **knobs):
    velocity, started, seen = 0.0, 0, []
    for g in gradients:
        _, velocity, started = dampened_momentum(g, velocity, started, **knobs)
        seen.append(velocity)
    return seen


def test_the_velocity_is_the_one_of_torchs_docs():
    gradients, mu, tau = np.random.default_rng(0).standard_normal(25), 0.8, 0.3
    expected, b = [], 0.0
    for t, g in enumerate(gradients, 1):
        b = mu * b + (1 - tau) * g if t > 1 else g
        expected.append(b)
    assert velocities(gradients.tolist(), momentum=mu, dampening=tau) == pytest.approx(expected, rel=1e-12)


def test_without_dampening_it_is_momentum():
    gradients = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    velocity, plain, started = torch.zeros(3), torch.zeros(3), 0
    for g in gradients:
        delta, velocity, started = dampened_momentum(g, velocity, started, lr=0.1)
        expected, plain = momentum(g, plain, lr=0.1)
        assert torch.equal(delta, expected)


def test_dampened_by_its_momentum_the_velocity_stays_a_mean_of_the_gradients():
    assert velocities([7.0] * 9, momentum=0.75, dampening=0.75) == pytest.approx([7.0] * 9)


def test_started_becomes_one_and_stays_so():
    assert [dampened_momentum(1.0, 0.0, started)[2] for started in (0, 1)] == [1, 1]
