import math

import pytest
import torch
from torch import nn

from thalweg import adam, adamw, dampened_momentum, lbfgs, lion, momentum, muon, nesterov, rmsprop, sgd
from thalweg.challenges.stability import Stability, edge, filled, findings, limit, refused, stability, trial
from thalweg.core.errors import CurvatureError, DiagnosisError
from thalweg.core.measured import exactly
from thalweg.core.network import Batch, Network
from thalweg.strategies.clipping import clipped

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_the_limits_are_those_of_theory(beta):
    assert limit(sgd, lr=0.3) == pytest.approx(2)
    assert limit(momentum, lr=0.3, momentum=beta) == pytest.approx(2 + 2 * beta)
    assert limit(nesterov, lr=0.3, momentum=beta) == pytest.approx((2 + 2 * beta) / (1 + 2 * beta))
    assert limit(adam, lr=0.3, beta1=beta) == pytest.approx(2 * (1 + beta) / (1 - beta), rel=1e-3)
    dampened = limit(dampened_momentum, momentum=beta, dampening=beta)
    assert dampened == pytest.approx((2 + 2 * beta) / (1 - beta))
    assert limit(rmsprop, lr=0.3) == pytest.approx(2, rel=0.01)


def parabola(h):
    return lambda x: h * x.square().sum() / 2


@pytest.mark.parametrize("rule", [sgd, momentum, nesterov])
def test_a_rule_descends_a_quadratic_below_its_limit_and_not_above(rule):
    for factor, rises in ((0.98, False), (1.02, True)):
        h = factor * limit(rule, lr=0.1) / 0.1
        losses = trial(parabola(h), torch.ones(1, dtype=DOUBLE), rule, rule.with_defaults({"lr": 0.1}), steps=600)
        assert (losses[-1] > losses[0]) is rises


def test_adam_diverges_where_its_preconditioned_sharpness_is_38_over_lr():
    """Far on, with a second moment that hardly changes: steps are divided by its root, which is 2.

    Far above it the second moment grows, and it converges after all.
    """
    knobs = adam.with_defaults({"lr": 0.01, "beta2": 1 - 1e-8})
    for factor, rises in ((0.98, False), (1.02, True)):
        memory = {"m": torch.zeros(1, dtype=DOUBLE), "v": torch.full((1,), 4.0, dtype=DOUBLE), "t": 10**11}
        f, start = parabola(factor * 2 * 38 / 0.01), torch.full((1,), 1e-12, dtype=DOUBLE)
        losses = trial(f, start, adam, knobs, memory, steps=1000)
        assert (max(losses) > 100 * losses[0]) is rises


def test_the_gains_of_adam_are_its_preconditioner():
    g = torch.tensor([1.0, -10.0, 0.0, 0.1], dtype=DOUBLE)
    memory = filled(adam, torch.zeros_like(g), [g], adam.knobs, 400)
    found = edge(adam, torch.zeros_like(g), g, memory, adam.knobs)
    expected = 1e-3 * 0.1 / g.abs()
    torch.testing.assert_close(found.gains[[0, 1, 3]], expected[[0, 1, 3]], rtol=2e-3, atol=0.0)
    assert found.gains[2] == 0 and found.limit == pytest.approx(3.8, rel=1e-3)


def test_clipping_does_not_change_the_limit_and_decay_hardly():
    assert limit(clipped(sgd)) == pytest.approx(2)
    assert limit(adamw) == pytest.approx(38, rel=0.01)


@pytest.mark.parametrize("rule", [lion, muon, lbfgs])
def test_a_rule_without_a_limit_is_refused(rule):
    with pytest.raises(DiagnosisError, match="limit"):
        limit(rule)


def classifier(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 3))
    x = drawn(256, 8, seed=seed).float()
    return Network(module, nn.CrossEntropyLoss()), Batch(x, x[:, :3].argmax(1))


@pytest.mark.parametrize("rule", [sgd, momentum, nesterov, adam])
def test_far_above_the_limit_the_loss_rises_and_below_it_nothing_is_said(rule):
    network, batch = classifier()
    before = network.theta.clone()
    share = stability(network, batch, rule).share.value
    found = stability(network, batch, rule, {"lr": 0.3 * rule.knobs["lr"] / share})
    assert found.share.value == pytest.approx(0.3, rel=0.02) and not findings(found) and not found.rises
    high = stability(network, batch, rule, {"lr": 100 * rule.knobs["lr"] / share})
    (said,) = findings(high)
    assert said.name == "lr above the stability limit" and said.severity == "critical"
    assert said.remedy["lr_factor"] == pytest.approx(0.008, rel=0.05)
    assert torch.equal(network.theta, before)


def test_the_sharpness_of_a_run_with_all_data_grows_to_the_limit_and_that_is_no_alarm():
    """The edge of stability (Cohen et al. 2021): a note at most, while the loss goes on falling."""
    network, batch = classifier()
    lr, shares = 1.5, []
    for _ in range(6):
        for _ in range(100):
            _, g = network.gradient(batch)
            network.theta.sub_(lr * g)
        found = stability(network, batch, sgd, {"lr": lr})
        shares.append(found.share.value)
        assert not [f for f in findings(found) if f.severity != "note"]
    assert max(shares) > 0.5


def test_what_rises_must_be_above_the_limit_to_be_a_matter_of_it():
    assert not findings(Stability(exactly(1.0), exactly(0.5), (1.0, 2.0, 3.0)))
    assert Stability(exactly(1.0), exactly(0.5), (1.0, math.nan)).rises
    assert refused(CurvatureError("why")).what == "why"
