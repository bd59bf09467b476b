import math

import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.challenges.cliffs import Power, findings, profile
from thalweg.challenges.spectrum import Quadratic
from thalweg.core.derivatives import gradient
from thalweg.core.errors import DiagnosisError

F = nn.functional


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def along_the_gradient(f, theta, lr):
    return profile(f, theta, -lr * gradient(f, theta))


@pytest.mark.parametrize(("w", "slope"), [(0.9, 0.2863), (1.0, 50.0), (1.1, 5335.9)])
def test_the_cliff_is_as_steep_as_known(w, slope):
    assert along_the_gradient(Power(50), double(w), 0.01).norm == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("w", [0.9, 1.0])
def test_below_the_cliff_there_is_nothing_to_clip(w):
    found = along_the_gradient(Power(50), double(w), 0.01)
    assert found.rise < 1 and not findings(found)


def test_on_the_cliff_gradients_are_to_be_clipped_to_where_the_slope_can_be_trusted():
    w = double(1.1)
    (finding,) = findings(along_the_gradient(Power(50), w, 0.01))
    assert (finding.name, finding.severity, finding.section) == ("cliff", "critical", "8.2.4")
    clip = finding.remedy["clip_norm"]
    assert Power(50)(w - 0.01 * clip) < 0.7 * Power(50)(w)  # what was 53 long and led to 1e86 is now a step down


def test_a_cliff_stands_at_w_of_one_too_for_an_lr_that_is_ten_times_as_high():
    assert findings(along_the_gradient(Power(50), double(1.0), 0.1))


@pytest.mark.parametrize("lr", [0.3, 1.9, 2.1, 10.0, 1e4])
@pytest.mark.parametrize("eigenvalues", [[1.0], [1.0, 0.01], [1.0, 0.9, 0.5]])
def test_a_valley_is_no_cliff_however_high_the_lr(eigenvalues, lr):
    for seed in range(10):
        f = Quadratic(eigenvalues, seed)
        theta = drawn(len(eigenvalues), seed=seed).double()
        found = along_the_gradient(f, theta, lr)
        assert not found.wall and not findings(found)


def test_the_parts_are_halves_and_the_losses_are_those_along_the_step():
    w = double(1.1)
    step = -0.01 * gradient(Power(50), w)
    found = profile(Power(50), w, step)
    assert found.parts[:3] == (1.0, 0.5, 0.25) and found.trusted == found.parts[-1]
    for part, loss in zip(found.parts, found.losses, strict=True):
        assert loss == float(Power(50)(w + part * step))
    assert found.along == pytest.approx(1.0)


def test_a_step_that_leads_down_costs_one_value():
    assert len(along_the_gradient(Power(50), double(0.9), 0.01).losses) == 1


def test_another_step_than_the_gradients_asks_for_another_lr():
    f = lambda w: w[:1].pow(50).sum() + w[1] ** 2  # noqa: E731
    (finding,) = findings(profile(f, double(1.1, 0.0), double(-30.0, 30.0)))
    assert set(finding.remedy) == {"lr_factor"} and finding.remedy["lr_factor"] < 0.01


def test_a_step_off_the_end_of_the_numbers_is_a_cliff_too():
    f = lambda w: torch.exp(-w).sum() + torch.where(w > 5, math.inf, 0.0).sum()  # noqa: E731
    found = along_the_gradient(f, double(-3.0), 10.0)
    assert found.rise == math.inf and found.thrown and findings(found)


def test_no_step_of_a_healthy_network_leads_off_a_cliff():
    inputs, targets = drawn(64, 20), drawn(64, 20, seed=1)[:, :5].argmax(1)
    for seed in range(10):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
        network = Network(module, F.cross_entropy)
        f = network.on(Batch(inputs, targets))
        for _ in range(20):
            g = gradient(f, network.theta)
            found = profile(f, network.theta, -0.1 * g)
            assert not found.thrown and not findings(found)
            network.theta.sub_(0.1 * g)


def test_looking_changes_nothing():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 1))
    network = Network(module, F.mse_loss)
    f = network.on(Batch(drawn(16, 8), drawn(16, 1)))
    before, random = {n: t.clone() for n, t in module.state_dict().items()}, torch.get_rng_state()
    first = along_the_gradient(f, network.theta, 100.0)
    assert first == along_the_gradient(f, network.theta, 100.0)
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(
    ("f", "step", "said"),
    [
        (lambda w: w.log().sum(), -1.0, "the loss is nan"),
        (lambda w: w.square().sum(), 0.0, "a step of length 0.0"),
        (lambda w: w.square().sum(), math.nan, "a step of length nan"),
    ],
)
def test_where_there_is_no_way_to_look_along_it_is_refused(f, step, said):
    with pytest.raises(DiagnosisError, match=said):
        profile(f, double(-1.0), double(step))
