import pytest
import torch
from torch import nn

from thalweg.challenges.critical_points import findings, point, point_of
from thalweg.challenges.saddles import DeepLinear, MatrixFactors, Saturated, monkey_saddle, ridge
from thalweg.challenges.spectrum import Quadratic
from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network

DOUBLE = torch.float64


def zeros(n):
    return torch.zeros(n, dtype=DOUBLE)


def ones(n):
    return torch.ones(n, dtype=DOUBLE)


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


KNOWN = {
    "a bowl": (Quadratic([3.0, 1.0]), zeros(2), "minimum"),
    "a hill": (Quadratic([-3.0, -1.0]), zeros(2), "maximum"),
    "x² - y²": (ridge, zeros(2), "saddle"),
    "two factors at 0": (DeepLinear(), zeros(2), "saddle"),
    "three factors at 0": (DeepLinear(), zeros(3), "degenerate saddle"),
    "five factors at 0": (DeepLinear(), zeros(5), "degenerate saddle"),
    "three factors at 1": (DeepLinear(), ones(3), "degenerate"),
    "the monkey saddle": (monkey_saddle, zeros(2), "degenerate saddle"),
    "x⁴": (lambda w: w.pow(4).sum(), zeros(2), "degenerate"),
    "a constant": (lambda w: 0 * w.sum() + 1, ones(2), "degenerate"),
    "a flat valley": (lambda w: 1 + w[0] ** 2, zeros(2), "degenerate"),
    "matrix factors at 0": (MatrixFactors(torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()), zeros(18), "saddle"),
    "a slope": (Quadratic([3.0, 1.0]), ones(2), "slope"),
    "a tilted gutter": (lambda w: 50 * w[0] ** 2 + w[1], zeros(2), "gradient-flat region"),
}


@pytest.mark.parametrize(("f", "theta", "kind"), KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_points_of_known_kind_are_told_whatever_the_scale_of_f(f, theta, kind, scale):
    assert point_of(lambda w: scale * f(w), theta).kind == kind


def test_only_a_minimum_is_called_one():
    named = {name: [x.name for x in findings(point_of(f, theta))] for name, (f, theta, _) in KNOWN.items()}
    assert [name for name, names in named.items() if "minimum" in names] == ["a bowl"]


def test_two_factors_at_the_origin_have_the_eigenvalues_1_and_minus_1():
    ends = point_of(DeepLinear(), zeros(2)).spectrum.ends
    assert (ends.largest.value, ends.smallest.value) == pytest.approx((1, -1))


@pytest.mark.parametrize("d", [2, 3, 6])
def test_factors_of_1_have_sharpness_d_and_nothing_else(d):
    found = point_of(DeepLinear(), ones(d)).spectrum
    assert found.ends.largest.value == pytest.approx(d) == pytest.approx(found.trace.value)


def test_matrix_factors_have_each_singular_value_with_both_signs_three_times():
    found = point_of(MatrixFactors(torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()), zeros(18)).spectrum
    expected = torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0], dtype=DOUBLE).repeat_interleave(3)
    torch.testing.assert_close(found.values[0], expected)
    assert found.negative.value == 0.5  # an index of 9 of 18


@pytest.mark.parametrize("z", [10.0, 15.0, 20.0])
def test_a_saturated_unit_is_on_a_plateau_and_its_gradient_falls_exponentially(z):
    batch = Batch(torch.zeros(16, 1), torch.zeros(16, 1))
    network = Network(Saturated(z), Saturated.loss)
    found = point(network, batch)
    assert found.kind == "plateau" and findings(found)[0].severity == "warning"
    assert found.length.value == pytest.approx(float(torch.exp(torch.tensor(-z))), rel=1e-3)
    assert point(Network(Saturated(1.0), Saturated.loss), batch).kind == "slope"


def means(away, spread):
    """The mean of examples x: f = ½|w - x|², at w so far from it."""
    module = nn.Linear(1, 4, bias=False).double()
    network = Network(module, lambda z, x: (z - x).square().sum(1).mean() / 2)
    x = drawn(64, 4)
    x = spread * (x - x.mean(0))
    network.theta.copy_(torch.full((4,), away))
    return network, Batch(torch.ones(64, 1, dtype=DOUBLE), x)


def test_a_gradient_within_the_scatter_of_its_examples_is_the_noise_floor():
    assert point(*means(0.01, 1.0)).kind == "noise floor"
    assert point(*means(1.0, 1.0)).kind == "slope"
    assert [f.severity for f in findings(point(*means(0.01, 1.0)))] == ["note"]


def test_a_healthy_network_is_on_a_slope_at_first_and_no_alarm_later():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3)), nn.CrossEntropyLoss())
    x = drawn(256, 8).float()
    batch = Batch(x, x[:, :3].argmax(1))
    for _ in range(4):
        before = network.theta.clone()
        found = findings(point(network, batch))
        assert torch.equal(network.theta, before)
        assert not [f for f in found if f.severity in ("warning", "critical")]
        for _ in range(100):
            network.theta.sub_(0.5 * network.gradient(batch)[1])


def test_descent_from_beside_a_saddle_is_found():
    found = point_of(DeepLinear(), zeros(2))
    assert found.descent > 0.3 and findings(found)[0].severity == "warning"
    _, g = value_and_gradient(DeepLinear(), zeros(2))
    assert not g.any()


def test_few_examples_and_numbers_that_are_none_are_refused():
    network, batch = means(1.0, 1.0)
    with pytest.raises(DiagnosisError, match="16 or more"):
        point(network, Batch(batch.inputs[:5], batch.targets[:5]))
    with pytest.raises(DiagnosisError, match="not finite"):
        point_of(lambda w: w.log().sum(), -ones(2))
