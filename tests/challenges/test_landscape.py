import pytest
import torch
from torch import nn

from thalweg.challenges.landscape import downhill, filter_normalised, plane, profile, random_plane, sharpest_plane
from thalweg.challenges.spectrum import Quadratic, ends
from thalweg.core.derivatives import hessian_at
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv1d(1, 3, 3), nn.BatchNorm1d(3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 3))
    return Network(module.double(), nn.CrossEntropyLoss()), Batch(drawn(20, 1, 6), torch.arange(20) % 3)


def test_the_profile_of_a_quadratic_is_a_parabola():
    f, w, u = Quadratic([3.0, -1.0, 0.5]), drawn(3), drawn(3, seed=1)
    at = torch.linspace(-2, 2, 9, dtype=DOUBLE)
    g, h = float(u @ f.A @ w), float(u @ f.A @ u)
    torch.testing.assert_close(profile(f, w, u, at).values, f(w) + at * g + at * at * h / 2)


def test_downhill_has_its_minimum_where_the_curvature_along_the_gradient_says():
    f, w = Quadratic([10.0, 1.0]), drawn(2)
    g = f.A @ w
    best = float(g @ g / (g @ f.A @ g))
    found = downhill(f, w, lr=best, steps=2, points=301)
    assert float(found.at[found.values.argmin()]) == pytest.approx(1, abs=0.01)
    assert float(found.values[100]) == pytest.approx(float(f(w)))


def test_a_cliff_is_steep_on_one_side():
    """w^50 near 1: a step of 0.01 along -g leads to the flat, the same step back into the wall."""
    found = downhill(lambda w: w[0] ** 50, torch.ones(1, dtype=DOUBLE), lr=0.002, steps=1, points=3)
    before, here, after = found.values.tolist()
    assert before > 100 * here and here == 1 and 0 <= after < 0.01


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
    f, w, u, v = Quadratic([3.0, -1.0, 0.5]), drawn(3), drawn(3, seed=1), drawn(3, seed=2)
    found = plane(f, w, u, v, torch.tensor([-1.0, 0.0, 2.0]))
    for i, a in enumerate((-1, 0, 2)):
        for j, b in enumerate((-1, 0, 2)):
            assert float(found.values[i, j]) == pytest.approx(float(f(w + a * u + b * v)))


def test_the_sharpest_plane_bends_by_the_ends_of_the_spectrum():
    f = Quadratic([5.0, -2.0, 0.5, 0.1])
    w = drawn(4)
    found = ends(hessian_at(f, w), w)
    at = torch.tensor([-1.0, 0.0, 1.0], dtype=DOUBLE)
    values = plane(f, w, found.top, found.bottom, at).values
    bends = [float(values[a] - 2 * values[1, 1] + values[b]) for a, b in (((0, 1), (2, 1)), ((1, 0), (1, 2)))]
    assert bends == pytest.approx([5, -2])


@pytest.mark.parametrize("slice_of", [
    lambda net, batch: random_plane(net, batch, torch.Generator().manual_seed(0), points=5),
    lambda net, batch: sharpest_plane(net, batch, points=5),
], ids=["random", "sharpest"])  # fmt: skip
def test_a_slice_has_the_loss_in_its_middle_and_changes_nothing(slice_of):
    net, batch = network()
    before, random = net.state(), torch.get_rng_state()
    found = slice_of(net, batch)
    assert float(found.values[2, 2]) == pytest.approx(float(net.on(batch)(net.theta)))
    assert torch.equal(torch.get_rng_state(), random) and net.module.training
    assert all(torch.equal(value, net.state()[name]) for name, value in before.items())
    assert len(found.values.unique()) == 25


def test_no_direction_is_refused():
    with pytest.raises(DiagnosisError, match="zero"):
        downhill(lambda x: (x * x).sum(), torch.zeros(2), lr=0.1)
