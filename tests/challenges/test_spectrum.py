import pytest
import torch
from torch import nn

from thalweg.challenges.sharpness import findings, sharpness
from thalweg.challenges.spectrum import Quadratic, ends, spectrum, trace
from thalweg.core.derivatives import Product, hessian, hessian_at
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def symmetric(n, seed):
    a = drawn(n, n, seed=seed)
    return (a + a.T) / 2


@pytest.mark.parametrize("eigenvalues", [[5, -10, 1], [10, -10, 1], [-3, -2, -1], [7, 7, 7], [0, 0, 0], [4]])
def test_both_ends_have_their_sign(eigenvalues):
    f, w = Quadratic(eigenvalues, seed=1), torch.ones(len(eigenvalues), dtype=DOUBLE)
    for found in (ends(hessian_at(f, w), w), spectrum(f, w).ends):
        expected = max(eigenvalues), min(eigenvalues)
        assert (found.largest.value, found.smallest.value) == pytest.approx(expected, abs=1e-9)
        for value, y in ((found.largest.value, found.top), (found.smallest.value, found.bottom)):
            torch.testing.assert_close(f.A @ y, value * y)
            assert float(y.norm()) == pytest.approx(1)


def test_a_quadratic_is_known_exactly():
    found = spectrum(Quadratic([100.0, 1.0, 1e-4, -2.0, 0.0]), torch.zeros(5, dtype=DOUBLE))
    assert found.whole and found.condition.value == pytest.approx(1e6, rel=1e-6)
    assert found.trace.value == pytest.approx(99.0001) and found.negative.value == pytest.approx(0.2)
    assert found.trace.low == found.trace.high


def test_the_ends_of_a_long_matrix_are_within_their_intervals_and_those_are_narrow():
    """Eigenvalues crowd at both ends (Wigner's semicircle): the residual of the last Ritz value would be too small."""
    within = 0
    for seed in range(30):
        A = symmetric(300, seed)
        w = torch.linalg.eigvalsh(A)
        found = ends(Product(A.mv), torch.zeros(300, dtype=DOUBLE), most=300)
        for end, true in ((found.largest, w[-1]), (found.smallest, w[0])):
            within += end.low - 1e-9 <= true <= end.high + 1e-9
            assert end.high - end.low <= 0.01 * abs(end.value)
        assert found.products < 100
    assert within >= 56


@pytest.mark.parametrize("most", [4, 8, 16])
def test_few_products_give_wide_intervals_that_still_hold(most):
    within = 0
    for seed in range(50):
        A = symmetric(100, seed)
        w = torch.linalg.eigvalsh(A)
        found = ends(Product(A.mv), torch.zeros(100, dtype=DOUBLE), most=most, seed=seed)
        assert found.products == most and found.largest.high > 1.002 * found.largest.value
        within += bool(found.largest.low <= w[-1] <= found.largest.high)
        within += bool(found.smallest.low <= w[0] <= found.smallest.high)
    assert within >= 92


def test_a_small_negative_end_beside_a_large_positive_one_is_found():
    values = torch.cat([torch.linspace(0, 1, 298), torch.tensor([100.0, -0.5])]).double()
    found = ends(Product(values.mul), torch.zeros(300, dtype=DOUBLE))
    assert found.largest.value == pytest.approx(100, rel=1e-3) and found.smallest.value == pytest.approx(-0.5, rel=0.02)


def test_the_interval_of_the_trace_covers_in_95_of_100():
    """A random symmetric matrix of n = 200: a mean of samples without an error misleads by several times itself."""
    A = symmetric(200, 3)
    covered = 0
    for seed in range(100):
        found = trace(Product(A.mv), torch.zeros(200, dtype=DOUBLE), seed=seed)
        covered += found.low <= float(A.trace()) <= found.high
    assert 90 <= covered <= 99


def test_the_saddle_index_and_the_density_of_a_long_matrix():
    values = torch.cat([torch.full((300,), 1.0), torch.full((60,), -2.0), torch.full((40,), 5.0)]).double()
    found = spectrum(lambda w: (values * w * w).sum() / 2, torch.ones(400, dtype=DOUBLE))
    assert not found.whole and found.negative.value == pytest.approx(0.15)
    assert found.trace.value == pytest.approx(float(values.sum()))
    at, height = found.curve()
    assert float(torch.trapezoid(height, at)) == pytest.approx(1, abs=1e-3)
    assert abs(float(at[height.argmax()]) - 1) < 0.1


def test_the_condition_number_of_a_long_matrix_is_that_of_its_bulk_or_more():
    values = torch.logspace(0, -3, 400, dtype=DOUBLE)
    found = spectrum(lambda w: (values * w * w).sum() / 2, torch.ones(400, dtype=DOUBLE), steps=60)
    assert found.condition.value == pytest.approx(10**2.7, rel=0.3) and found.condition.high == torch.inf


def test_a_small_network_has_the_spectrum_of_its_dense_hessian():
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double(), nn.CrossEntropyLoss())
    batch = Batch(drawn(40, 6), torch.arange(40) % 3)
    w = torch.linalg.eigvalsh(hessian(network.on(batch), network.theta))
    found = ends(hessian_at(network.on(batch), network.theta), network.theta, rtol=1e-6, most=123)
    assert len(w) == 123 and found.largest.value == pytest.approx(float(w[-1])) and found.rung == "double backward"
    assert found.smallest.value == pytest.approx(float(w[0]), rel=1e-4)


@pytest.mark.parametrize(("n", "resolved"), [(64, False), (256, False), (1024, False), (20_000, True)])
def test_the_sharpness_of_a_sample_is_resolved_only_where_half_of_it_has_the_same(n, resolved):
    """White inputs, d = 200: the true sharpness is 1, that of a sample (1 + sqrt(d/n))²."""
    network = Network(nn.Linear(200, 1, bias=False).double(), lambda z, y: (z - y).square().mean() / 2)
    found = sharpness(network, Batch(drawn(n, 200), torch.zeros(n, 1, dtype=DOUBLE)))
    assert found.whole.value == pytest.approx((1 + (200 / n) ** 0.5) ** 2, rel=0.1)
    assert found.resolved is resolved
    said = findings(found)
    assert [f.name for f in said] == ([] if resolved else ["curvature not resolved"])
    assert all(f.severity == "unclear" for f in said)


def test_what_is_not_finite_or_too_small_is_refused():
    with pytest.raises(DiagnosisError, match="not finite"):
        spectrum(lambda w: (w.sqrt()).sum(), -torch.ones(100))
    with pytest.raises(DiagnosisError, match="not finite"):
        spectrum(lambda w: (w.sqrt()).sum(), -torch.ones(10))
    network = Network(nn.Linear(3, 1), nn.functional.mse_loss)
    with pytest.raises(DiagnosisError, match="1 example"):
        sharpness(network, Batch(torch.ones(1, 3), torch.ones(1, 1)))
