from itertools import islice

import pytest
import torch
from torch import nn

from thalweg import Batch, Network, adam, descend, sgd
from thalweg.challenges.updates import findings, update_ratios, updates, weights
from thalweg.core.errors import DiagnosisError

F = nn.functional


def network(seed=0, module=None):
    torch.manual_seed(seed)
    return Network(module or nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)), F.cross_entropy)


def batches(seed=0):
    random = torch.Generator().manual_seed(seed)
    while True:
        inputs = torch.randn(32, 20, generator=random)
        yield Batch(inputs, inputs[:, :5].argmax(1))


def followed(net, rule, steps=60, **knobs):
    before, ratios = net.theta.clone(), []
    for _ in descend(net, rule, islice(batches(), steps), **knobs):
        ratios.append(update_ratios(net, before, net.theta))
        before = net.theta.clone()
    return updates(net, ratios)


def series(*values, steps=40):
    """Updates of two weights, the same at each step."""
    return updates(network(), [torch.tensor(values)] * steps)


def test_the_ratio_is_the_length_of_the_step_over_that_of_the_weights():
    net = network()
    first, second = update_ratios(net, net.theta, net.theta + 0.01 * torch.ones_like(net.theta)).tolist()
    w = net.parameters[0]
    assert first == pytest.approx(0.01 * w.numel() ** 0.5 / float(w.detach().norm()), rel=1e-3)
    assert second != first


def test_gradient_descent_moves_weights_by_lr_times_their_gradient():
    net = network()
    batch = next(batches())
    _, g = net.gradient(batch)
    g, before = g.clone(), net.theta.clone()
    next(descend(net, sgd, [batch], lr=0.1))
    expected = [0.1 * float(net.views(g)[n].norm() / net.views(before)[n].norm()) for n in weights(net)]
    assert update_ratios(net, before, net.theta).tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("rule", "lr"), [(sgd, 0.1), (sgd, 0.5), (adam, 1e-3), (adam, 1e-2), (adam, 1e-4)])
def test_healthy_runs_are_not_alarmed_at(rule, lr):
    for seed in range(10):
        found = followed(network(seed), rule, lr=lr)
        assert len(found.weights) == 2 and not findings(found)


@pytest.mark.parametrize("rule", [sgd, adam])
def test_an_lr_that_is_far_too_low_is_found_and_raised_to_what_moves_weights_by_a_thousandth(rule):
    for seed in range(10):
        (finding,) = findings(followed(network(seed), rule, lr=1e-7 if rule is adam else 1e-5))
        assert (finding.name, finding.severity, finding.where) == ("lr far too low", "warning", "")
        raised = finding.remedy["lr_factor"] * finding.measured.value
        assert 1e-4 <= raised <= 1e-3 or finding.remedy["lr_factor"] == 1e4


def test_weights_that_are_thrown_from_side_to_side_are_found():
    """Of ‖W‖² / 8, whose gradient is W / 4, an lr of 8 makes -W of W at each step."""
    module = nn.Linear(8, 8, bias=False)
    net = Network(module, F.mse_loss)
    batch = Batch(8**0.5 * torch.eye(8), torch.zeros(8, 8))
    before, ratios = net.theta.clone(), []
    for _ in descend(net, sgd, [batch] * 20, lr=8.0):
        ratios.append(update_ratios(net, before, net.theta))
        before = net.theta.clone()
    (finding,) = findings(updates(net, ratios))
    assert (finding.name, finding.severity, finding.where) == ("update ratio", "critical", "weight")
    assert finding.measured.value == pytest.approx(2.0, rel=1e-5) and finding.remedy == {"lr_factor": 0.01}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((1e-3, 1e-3), []),
        ((0.05, 1e-5), []),
        ((0.2, 1e-3), ["update ratio"]),
        ((1e-3, 1e-7), ["update ratio"]),
        ((2e-5, 1e-7), []),  # the largest is little too, but not so little that it is lr's doing
        ((5e-6, 1e-7), ["lr far too low"]),
    ],
)
def test_one_weight_that_jumps_or_stands_still_is_named_and_all_of_them_are_lrs_doing(values, names):
    assert [finding.name for finding in findings(series(*values))] == names


@pytest.mark.parametrize(("ratio", "factor"), [(5e-7, 1e3), (2e-6, 100.0), (1e-12, 1e4)])
def test_the_remedy_is_a_power_of_ten_that_does_not_go_too_far(ratio, factor):
    (finding,) = findings(series(ratio, ratio))
    assert finding.remedy == {"lr_factor": factor}


def test_an_lr_that_rises_and_falls_is_judged_by_where_it_is_high():
    rising = torch.linspace(-9, -3, 50, dtype=torch.float64)
    ratios = [torch.full((2,), 10.0**x) for x in [*rising.tolist(), *rising.flip(0).tolist()]]
    assert not findings(updates(network(), ratios))


def test_large_first_steps_are_no_alarm():
    ratios = [torch.full((2,), max(0.5 / (t + 1), 1e-3)) for t in range(100)]
    assert not findings(updates(network(), ratios))


def test_biases_norms_embeddings_and_weights_of_zeros_are_left_out():
    module = nn.Sequential(nn.Embedding(9, 20), nn.Linear(20, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    nn.init.zeros_(module[3].weight)
    net = network(module=module)
    assert weights(net) == ["1.weight", "3.weight"]
    ratios = [update_ratios(net, net.theta + t * 1e-3, net.theta + (t + 1) * 1e-3) for t in range(30)]
    assert [weight.name for weight in updates(net, ratios).weights] == ["1.weight"]


def test_a_weight_without_a_gradient_is_not_judged():
    assert [weight.name for weight in series(1e-3, 0.0).weights] == ["0.weight"]
    first = [torch.full((2,), 1.0)] + [torch.zeros(2)] * 40  # all units died at the first step
    assert not findings(updates(network(), first))


def test_the_interval_covers_the_median_of_a_stationary_run():
    covered = 0
    for seed in range(200):
        draws = 1e-3 * torch.randn(60, 1, generator=torch.Generator().manual_seed(seed)).exp()
        ratio = updates(network(), list(draws.expand(60, 2))).weights[0].ratio
        covered += ratio.low <= 1e-3 <= ratio.high
    assert 186 <= covered <= 200


def test_a_few_steps_are_refused():
    with pytest.raises(DiagnosisError, match="the updates of 19 steps were given"):
        series(1e-3, 1e-3, steps=19)
