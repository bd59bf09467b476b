import pytest
import torch
from torch import nn

from thalweg import adam, rmsprop, sgd
from thalweg.challenges.conditioning import along, criterion, criterion_of, findings, inputs
from thalweg.challenges.spectrum import Quadratic
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network
from thalweg.training.builtin import autoencoder, breast_cancer, diabetes, digits

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def test_the_curvature_along_the_gradient_of_a_quadratic():
    f = lambda w: (torch.tensor([100.0, 1.0]) * w * w).sum() / 2  # noqa: E731
    found = criterion_of(f, torch.ones(2), lr=0.02)
    assert found.along.value == pytest.approx(1_000_001 / 10_001) and round(found.along.value, 2) == 99.99
    assert found.squared.value == 10_001 and found.along.low == found.along.high


def test_the_criterion_flips_where_a_step_no_longer_lowers_a_quadratic():
    f, w = Quadratic([100.0, 1.0, -3.0, 7.0]), drawn(4)
    flip = 2 / criterion_of(f, w, lr=1.0).along.value
    for factor, alarmed in ((0.99, False), (1.01, True)):
        found = criterion_of(f, w, lr=factor * flip)
        rises = f(w - factor * flip * (f.A @ w)) > f(w)
        assert bool(rises) is (found.harm.value > 1) is bool(findings(found)) is alarmed


def test_the_curvature_along_the_gradient_may_be_negative():
    found = criterion_of(Quadratic([-1.0, -4.0]), drawn(2), lr=0.1)
    assert -4 <= found.along.value <= -1 and not findings(found)


def test_the_criterion_has_an_interval_over_batches_that_covers():
    """Linear regression on white inputs: at a far theta, g is near to along it and the curvature along it is 1."""
    module = nn.Linear(5, 1, bias=False).double()
    network = Network(module, lambda z, y: (z - y).square().mean() / 2)
    network.theta.copy_(torch.full((5,), 3.0))
    covered = 0
    for seed in range(40):
        batches = [Batch(drawn(400, 5, seed=20 * seed + k), torch.zeros(400, 1, dtype=DOUBLE)) for k in range(12)]
        found = criterion(network, batches, lr=0.1).along
        covered += not found.excludes(1 + 3 * 4 / 400)  # the sample's curvature, squared and once more
    assert covered >= 34


def test_no_batch_is_refused():
    network = Network(nn.Linear(5, 1), nn.functional.mse_loss)
    with pytest.raises(DiagnosisError, match="no batch"):
        criterion(network, [], lr=0.1)


def test_an_ill_conditioned_quadratic_is_found_and_a_well_conditioned_one_is_not():
    far = torch.ones(3, dtype=DOUBLE)
    ill = along(Quadratic([1e6, 10.0, 1.0]), far)
    assert ill.condition.value == pytest.approx(1e6) and findings(ill)[0].severity == "warning"
    for eigenvalues in ([100.0, 10.0, 1.0], [1.0, 1.0, 1.0], [1e3, 1e3, 1.0]):
        assert not findings(along(Quadratic(eigenvalues), far))


def test_an_ill_conditioned_quadratic_whose_flat_directions_are_done_is_fine():
    def f(w):
        return (torch.tensor([1e6, 1.0], dtype=DOUBLE) * w * w).sum() / 2

    harmed, done = along(f, torch.tensor([1e-4, 1.0], dtype=DOUBLE)), along(f, torch.tensor([1.0, 1e-4], dtype=DOUBLE))
    assert [bool(findings(x)) for x in (harmed, done)] == [True, False]
    assert harmed.condition.value == done.condition.value == pytest.approx(1e6)


def test_a_model_without_a_minimum_has_no_such_figure():
    assert along(Quadratic([1.0, -1.0]), torch.ones(2, dtype=DOUBLE)) is None
    assert along(lambda w: (w * w).sum(), torch.ones(100)) is None


def stretched(sample, kappa):
    """Principal components whose variances fall from 1 to 1 / kappa."""
    centred = sample.inputs - sample.inputs.mean(0)
    _, s, v = torch.linalg.svd(centred, full_matrices=False)
    white = centred @ v[:32].T / s[:32] * len(centred) ** 0.5
    return Batch(white * torch.logspace(0, -0.5 * torch.tensor(kappa).log10().item(), 32), sample.targets)


def sample_of(problem, n=512, start=0):
    return problem.train.take(torch.arange(start, min(start + n, len(problem.train))))


@pytest.mark.parametrize("seed", range(10))
def test_stretched_inputs_are_found_and_those_of_healthy_problems_are_not(seed):
    sample = sample_of(digits(seed))
    (said,) = findings(inputs(stretched(sample, 1e6), sgd))
    assert said.name == "ill-conditioning" and said.severity == "warning" and "standardise" in said.advice
    assert not findings(inputs(stretched(sample, 30.0), sgd))
    for rule in (sgd, adam):
        assert not findings(inputs(sample, rule))
        assert not findings(inputs(stretched(sample, 1.0), rule))


@pytest.mark.parametrize("make", [breast_cancer, diabetes, autoencoder])
def test_other_healthy_problems_have_no_warning(make):
    found = inputs(sample_of(make(0)), sgd)
    assert found is None or not findings(found)


def test_adam_makes_good_what_sgd_does_not():
    sample = stretched(sample_of(digits(0)), 1e5)
    assert findings(inputs(sample, sgd)) and not findings(inputs(sample, adam))
    assert inputs(sample, adam).condition.value == pytest.approx(inputs(sample, sgd).condition.value ** 0.5, rel=0.02)
    assert inputs(sample, rmsprop).slow == inputs(sample, adam).slow


def test_small_features_that_say_nothing_do_no_harm():
    x = drawn(400, 4)
    noise = Batch(x * torch.tensor([1.0, 1.0, 1e-4, 0.0]), (x[:, 0] > 0).long())
    assert not findings(inputs(noise, sgd)) and inputs(noise, sgd).slow.high < 0.1
    told = Batch(x * torch.tensor([1e-4, 1.0, 1.0, 0.0]), (x[:, 0] > 0).long())
    assert findings(inputs(told, sgd)) and inputs(told, sgd).slow.value > 0.95


def test_words_and_few_examples_have_no_scales():
    assert inputs(Batch(torch.zeros(100, 3, dtype=torch.int64), torch.zeros(100)), sgd) is None
    assert inputs(Batch(torch.randn(5, 3), torch.zeros(5)), sgd) is None
    assert inputs(Batch(torch.ones(100, 3), torch.zeros(100)), sgd) is None
