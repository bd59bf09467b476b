"""Slices of the loss against what they must be on quadratics, and how they leave a module."""

import math

import pytest
import torch
from torch import nn

from thalweg.challenges.slices import PARTS, doubling, filter_normalised, line, plane
from thalweg.challenges.spectrum import Quadratic, ends
from thalweg.core.derivatives import hessian_at
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network

D = torch.tensor([100.0, 1.0], dtype=torch.float64)
WAYS = ("steep", "flat")


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


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


def test_the_profile_of_a_quadratic_is_a_parabola():
    f, w, u = Quadratic([3.0, -1.0, 0.5]), drawn(3), drawn(3, seed=1)
    at = torch.linspace(-2, 2, 9, dtype=torch.float64)
    g, h = float(u @ f.A @ w), float(u @ f.A @ u)
    torch.testing.assert_close(line(f, w, u, tuple(at.tolist())).losses, f(w) + at * g + at * at * h / 2)


def test_downhill_has_its_minimum_where_the_curvature_along_the_gradient_says():
    f, w = Quadratic([10.0, 1.0]), drawn(2)
    g = f.A @ w
    best = float(g @ g / (g @ f.A @ g))
    parts = torch.linspace(-1, 2, 301, dtype=torch.float64)
    found = line(f, w, -best * g, tuple(parts.tolist()))
    assert float(found.parts[found.losses.argmin()]) == pytest.approx(1, abs=0.01)
    assert float(found.losses[100]) == pytest.approx(float(f(w)))


def test_a_cliff_is_steep_on_one_side():
    """w^50 near 1: a step of 0.1 along -g leads to the flat, the same step back into the wall."""
    found = line(lambda w: w[0] ** 50, torch.ones(1).double(), -0.002 * torch.tensor([50.0]).double(), (-1.0, 0.0, 1.0))
    before, here, after = found.losses.tolist()
    assert before > 100 * here and here == 1 and 0 <= after < 0.01


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 3))
    return Network(module.double(), nn.CrossEntropyLoss()), Batch(drawn(20, 1, 6), torch.arange(20) % 3)


def test_every_filter_of_a_direction_is_as_long_as_thetas():
    net, _ = network()
    u = filter_normalised(net.theta, net.shapes, torch.Generator().manual_seed(0))
    for name, piece in net.views(u).items():
        mine = dict(net.module.named_parameters())[name].detach()
        if mine.dim() < 2:
            assert not piece.any()
        else:
            torch.testing.assert_close(piece.flatten(1).norm(dim=1), mine.flatten(1).norm(dim=1))


def test_a_plane_of_a_quadratic_is_right_at_every_point():
    f, w, (u, v) = Quadratic([3.0, -1.0, 0.5]), drawn(3), torch.linalg.qr(drawn(3, 2, seed=1))[0].T
    found = plane(f, w, u, v, 2.0, WAYS, points=5)
    for i, a in enumerate((-2, -1, 0, 1, 2)):
        for j, b in enumerate((-2, -1, 0, 1, 2)):
            assert float(found.losses[i, j]) == pytest.approx(float(f(w + a * u + b * v)))


def test_the_plane_of_the_ends_of_the_spectrum_bends_by_them():
    f = Quadratic([5.0, -2.0, 0.5, 0.1])
    w = drawn(4)
    found = ends(hessian_at(f, w), w)
    values = plane(f, w, found.top, found.bottom, 1.0, WAYS, points=3).losses
    bends = [float(values[a] - 2 * values[1, 1] + values[b]) for a, b in (((0, 1), (2, 1)), ((1, 0), (1, 2)))]
    assert bends == pytest.approx([5, -2])


def test_a_plane_along_filters_has_the_loss_in_its_middle_and_changes_nothing():
    net, batch = network()
    before, random = net.state(), torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    u, v = (filter_normalised(net.theta, net.shapes, generator) for _ in range(2))
    found = plane(net.on(batch), net.theta.clone(), u, v, 1.0, WAYS, points=5)
    assert float(found.losses[2, 2]) == pytest.approx(float(net.on(batch)(net.theta)))
    assert torch.equal(torch.get_rng_state(), random) and net.module.training
    assert all(torch.equal(value, net.state()[name]) for name, value in before.items())
    assert len(found.losses.unique()) == 25
