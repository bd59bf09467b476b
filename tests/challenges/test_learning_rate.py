import math

import pytest
import torch
from torch import nn

from thalweg import adam, lion, momentum, muon, nesterov, sgd
from thalweg.challenges.critical_lr import critical
from thalweg.challenges.learning_rate import advise, advise_for, findings
from thalweg.challenges.spectrum import Quadratic
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network
from thalweg.learning.batches import Arrays, Batches
from thalweg.training.builtin import digits
from thalweg.training.tables import mlp

DOUBLE = torch.float64
QUADRATICS = {"1": [1.0], "(100, 1)": [100.0, 1.0], "1000": [1000.0], "1e-4": [1e-4, 1e-5]}


@pytest.mark.parametrize("eigenvalues", QUADRATICS.values(), ids=QUADRATICS)
def test_the_advice_on_quadratics_is_between_a_third_of_the_inverse_sharpness_and_the_limit(eigenvalues):
    found = advise_for(Quadratic(eigenvalues), torch.ones(len(eigenvalues), dtype=DOUBLE), sgd)
    sharpest = max(eigenvalues)
    assert 0.3 / sharpest <= found.lr.value < 2 / sharpest
    assert found.limit == pytest.approx(2 / sharpest) and found.how == "sharpness"


@pytest.mark.parametrize(("rule", "edge"), [(momentum, 3.8), (nesterov, 3.8 / 2.8)])
def test_the_advice_knows_the_rule(rule, edge):
    found = advise_for(Quadratic([10.0, 1.0]), torch.ones(2, dtype=DOUBLE), rule, steps=200)
    assert found.limit == pytest.approx(edge / 10) and 0.01 < found.lr.value < found.limit


@pytest.mark.parametrize(("h", "expected"), [(1.0, 1.0), (100.0, 100.0), (1000.0, 1000.0)])
def test_the_critical_sharpness_of_a_parabola_is_its_curvature(h, expected):
    found = critical(lambda x: h * (x * x).sum() / 2, torch.ones(1, dtype=DOUBLE), torch.full((1,), -h, dtype=DOUBLE))
    assert found.sharpness == pytest.approx(expected, rel=0.01) and found.forwards < 10
    assert found.lr.low < 2 / h < found.lr.high


def test_the_critical_lr_of_a_function_that_is_no_parabola():
    found = critical(lambda x: (x**4).sum(), torch.ones(1, dtype=DOUBLE), torch.full((1,), -4.0, dtype=DOUBLE))
    assert found.forwards < 10 and found.lr.low <= 0.5 <= found.lr.high and found.lr.high < 1.1 * found.lr.low


def test_a_constant_loss_gets_no_learning_rate():
    for f in (lambda x: (x * 0).sum() + 1, lambda x: torch.ones(())):
        with pytest.raises(DiagnosisError, match="no lr"):
            advise_for(f, torch.ones(3), sgd)
    with pytest.raises(DiagnosisError, match="does not fall"):
        critical(lambda x: (x * 0).sum(), torch.ones(3), -torch.ones(3))


def test_nor_does_one_that_is_not_finite_or_never_rises():
    with pytest.raises(DiagnosisError, match="not finite"):
        advise_for(lambda x: x.log().sum(), -torch.ones(3), sgd)
    with pytest.raises(DiagnosisError, match="no critical lr"):
        advise_for(lambda x: x.sum(), torch.ones(3), sgd)


@pytest.mark.parametrize("rule", [lion, muon])
def test_a_rule_without_a_limit_has_the_critical_lr_of_its_first_step(rule):
    network, batches, held, _ = task(0)
    found = advise(network, batches, held, rule, steps=16)
    assert found.how.startswith("critical lr along the first step: ") and 1e-5 < found.lr.value < 1


def task(seed):
    problem = digits(0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(mlp([64, 32, 10]), nn.CrossEntropyLoss())
    fit, held = (problem.train.take(torch.arange(len(problem.train))[cut]) for cut in (slice(800), slice(800, None)))
    return (
        network,
        Batches(Arrays(*fit), 32, seed),
        [Batch(*pair) for pair in zip(held.inputs.chunk(4), held.targets.chunk(4), strict=True)],
        problem.valid.take(torch.arange(360)),
    )


def after(lr, rule, steps):
    """The loss on data that the advice has not seen, over other initial weights and other orders."""
    losses = []
    for seed in (1, 2):
        network, batches, _, test = task(seed)
        theta, memory = network.theta.clone(), rule.start(network.theta)
        for t in range(steps):
            network.theta.copy_(theta)
            _, g = network.gradient(batches[t])
            delta, memory = rule.step({"g": g}, memory, {**rule.knobs, "lr": lr})
            theta = theta + delta
            if t >= steps - 32 and t % 8 == 7:
                network.theta.copy_(theta)
                losses.append(float(nn.functional.cross_entropy(network.outputs(test.inputs), test.targets)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("rule", [sgd, adam])
def test_the_advice_on_digits_is_within_5_percent_of_the_best_of_a_sweep(rule):
    steps = 256
    network, batches, held, _ = task(0)
    before = network.theta.clone()
    found = advise(network, batches, held, rule, steps=steps)
    sweep = [after(found.lr.value * 2.0**k, rule, steps) for k in (-2, -1, 0, 1, 2)]
    assert sweep[2] < 1.05 * min(filter(math.isfinite, sweep))
    assert torch.equal(network.theta, before)


def test_an_lr_that_is_far_too_low_is_found_and_a_usual_one_is_not():
    network, batches, held, _ = task(0)
    found = advise(network, batches, held, sgd, steps=32)
    (said,) = findings(found, 1e-5)
    assert said.name == "lr far too low" and said.severity == "warning"
    assert 0.05 < 1e-5 * said.remedy["lr_factor"] < 2
    assert not findings(found, 0.1)
    (said,) = findings(found, 50.0)
    assert said.name == "lr above the stability limit" and said.severity == "critical"
    assert 0.05 < 50 * said.remedy["lr_factor"] < 2
    assert not findings(advise(network, batches, held, adam, steps=32), 1e-3)
