"""Slices of the loss against what they must be on quadratics, and how they leave a module."""

import math

import pytest
import torch
from torch import nn

from thalweg.challenges.slices import PARTS, doubling, line, plane
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network

D = torch.tensor([100.0, 1.0], dtype=torch.float64)
WAYS = ("steep", "flat")


def bowl(w):
    return (D * w * w).sum() / 2


def test_the_loss_along_a_gradient_step_is_the_parabola_of_the_book():
    theta, lr = torch.ones(2, dtype=torch.float64), 0.004
    g = D * theta
    found = line(bowl, theta, -lr * g)
    s = lr * found.parts
    expected = bowl(theta) - s * (g @ g) + s * s * (g @ (D * g)) / 2  # (8.9), exact on a quadratic
    assert torch.allclose(found.losses, expected) and found.parts.tolist() == list(PARTS)


def test_where_the_quadratic_is_twice_as_high_is_found_along_its_steepest_direction():
    theta = torch.tensor([0.0, 1.0], dtype=torch.float64)
    loss = float(bowl(theta))
    reach = doubling(loss, 100.0)
    found = plane(bowl, theta, *torch.eye(2, dtype=torch.float64), reach, WAYS, points=3)
    assert found.losses[1, 1] == loss
    assert found.losses[0, 1] == pytest.approx(2 * loss) and found.losses[2, 1] == pytest.approx(2 * loss)


def test_the_second_direction_is_made_orthogonal_and_lengths_do_not_count():
    theta, (x, y) = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    straight = plane(bowl, theta, x, y, 0.5, WAYS)
    slanted = plane(bowl, theta, 7 * x, 3 * y - 2 * x, 0.5, WAYS)
    assert torch.allclose(straight.losses, slanted.losses)


def test_beyond_the_finite_it_says_so_and_goes_on():
    theta = torch.ones(1, dtype=torch.float64)
    found = line(lambda w: w.log().sum(), theta, -torch.full((1,), 0.5, dtype=torch.float64))
    assert found.losses[:6].isfinite().all() and not found.losses[-1].isfinite()


def test_what_spans_nothing_is_refused():
    theta, x = torch.ones(2), torch.tensor([1.0, 0.0])
    with pytest.raises(DiagnosisError, match="the two directions are one"):
        plane(bowl, theta, x, -2 * x, 1.0, WAYS)
    with pytest.raises(DiagnosisError, match="must lead somewhere"):
        line(bowl, theta, torch.zeros(2))
    with pytest.raises(DiagnosisError, match="nothing to see around"):
        line(lambda w: w.sum() * math.nan, theta, x)
    with pytest.raises(DiagnosisError, match="both must be > 0"):
        doubling(1.0, -1.0)


def test_a_module_is_left_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    network = Network(module, nn.functional.mse_loss)
    f, theta = network.on(Batch(torch.randn(16, 3), torch.zeros(16, 1))), network.theta.clone()
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    line(f, theta, torch.ones_like(theta))
    plane(f, theta, torch.ones_like(theta), torch.arange(len(theta)).float(), 0.1, WAYS, points=3)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items()) and module.training
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in module.parameters())
