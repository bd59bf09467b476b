import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from thalweg import Batch, Network
from thalweg.challenges.ordering import (
    InOrder,
    Order,
    findings,
    findings_of_resampling,
    gradients_in_order,
    neighbours,
    order,
    resampling,
    sorted_classes,
)
from thalweg.core.errors import ProblemError
from thalweg.core.measured import Measured
from thalweg.learning.batches import Batches, examples
from thalweg.learning.risk import losses


def shuffled(x, seed):
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]


def batch_means(x, b=64):
    return x.view(-1, b, x.shape[1]).mean(1)


def covered(interval, truth):
    return interval.low <= truth <= interval.high


def test_of_sorted_classes_the_design_effect_is_63_and_a_batch_counts_as_one_example():
    """1 + (b - 1) 0.986 = 63.1 for batches of 64 that lie in one class."""
    x = sorted_classes(10, 640, between=(63.1 - 1) / 63, seed=0)
    found = order(InOrder(batch_means(x), batch_means(shuffled(x, 1)), range(100), 64))
    assert found.design.value == pytest.approx(63.1, rel=0.15) and covered(found.design, 63.1)
    assert found.effective == pytest.approx(1.0, abs=0.15)
    assert found.lag.value > 0.8
    (finding,) = findings(found)
    assert (finding.name, finding.severity, finding.remedy) == ("sorted data", "critical", {"shuffle": True})


def test_intervals_of_the_design_effect_cover_in_90_of_100():
    found = []
    for seed in range(100):
        x = sorted_classes(10, 128, between=0.5, seed=seed)
        mixed = batch_means(shuffled(x, seed))
        found.append(order(InOrder(batch_means(x), mixed, range(20), 64)))
    assert sum(covered(each.design, 1 + 63 * 0.5) for each in found) >= 90
    assert all(findings(each) for each in found)


def test_shuffled_data_is_never_found_to_be_sorted():
    found = []
    for seed in range(100):
        x = sorted_classes(10, 128, between=0.5, seed=seed)
        found.append(
            order(InOrder(batch_means(shuffled(x, seed)), batch_means(shuffled(x, seed + 1000)), range(20), 64))
        )
    assert not any(findings(each) for each in found)
    assert sum(covered(each.design, 1.0) for each in found) >= 90
    assert sum(covered(each.lag, 0.0) for each in found) >= 90
    assert sum(each.lag.value for each in found) / 100 == pytest.approx(0.0, abs=0.03)


def digits():
    data = load_digits()
    rows = data.target.argsort(kind="stable")
    return examples((data.data[rows] / 16, data.target[rows]))


def network(seed, *extra):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(
            nn.Sequential(nn.Linear(64, 32), *extra, nn.ReLU(), nn.Linear(32, 10)), nn.functional.cross_entropy
        )


@pytest.mark.parametrize("extra", [(), (nn.BatchNorm1d(32),)])
@pytest.mark.parametrize("size", [8, 64])
def test_digits_in_the_order_of_their_classes_are_seen_and_shuffled_ones_are_fine(size, extra):
    steps = neighbours(len(digits()) // size)
    for seed in range(3):
        for shuffle in (False, True):
            batches = Batches(digits(), size, seed=seed, shuffle=shuffle)
            net = network(seed, *extra)
            found = findings(order(gradients_in_order(net, [batches[t] for t in steps], steps, seed)))
            assert [each.severity for each in found] == ([] if shuffle else ["warning" if size == 8 else "critical"])


def test_of_single_examples_the_order_is_seen_from_step_to_step():
    x = sorted_classes(10, 20, between=0.9, seed=0)
    found = order(InOrder(x, shuffled(x, 0), range(200), 1))
    assert found.design.value == pytest.approx(1.0)
    assert [each.severity for each in findings(found)] == ["warning"]
    mixed = shuffled(x, 1)
    assert not findings(order(InOrder(mixed, shuffled(x, 0), range(200), 1)))


def test_looking_at_one_class_only_would_hide_the_order():
    x = sorted_classes(4, 64 * 100, between=0.9, seed=0)
    steps = neighbours(400)
    first, spread = x.view(400, 64, 4)[:24], x.view(400, 64, 4)[steps]
    for chosen, hidden in ((first, True), (spread, False)):
        mixed = batch_means(shuffled(chosen.reshape(-1, 4), 0))
        assert (not findings(order(InOrder(chosen.mean(1), mixed, range(24), 64)))) == hidden


def test_steps_that_do_not_follow_each_other_say_nothing_of_their_correlation():
    x = batch_means(sorted_classes(10, 128, between=0.5, seed=0))
    assert order(InOrder(x, x, range(0, 40, 2), 64)).lag == Measured(0.0, -1.0, 1.0, 0)


def test_the_order_is_measured_without_a_trace():
    net = network(0, nn.BatchNorm1d(32), nn.Dropout(0.1))
    batches = [Batches(digits(), 64)[t] for t in range(29)]
    before, rng = net.state(), torch.get_rng_state()
    seen = gradients_in_order(net, batches, range(29))
    assert len(seen.g) == len(seen.mixed) == 28  # the last batch is short
    assert all(torch.equal(before[name], value) for name, value in net.state().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_fewer_than_four_batches_are_refused():
    with pytest.raises(ProblemError, match="3 whole batches were given"):
        gradients_in_order(network(0), [Batches(digits(), 64)[t] for t in range(3)], range(3))


def test_a_little_clustering_is_no_finding():
    assert not findings(Order(Measured(2.5, 1.9, 3.0, 28), Measured(0.35, 0.25, 0.5, 27), 64))
    assert findings(Order(Measured(2.5, 2.1, 3.0, 28), Measured(0.35, 0.25, 0.5, 27), 64))[0].severity == "warning"


# Resampling


def least_squares(n, d, seed):
    """A linear model at its least squares solution on n examples with unit noise, these examples, and 5n new ones."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(6 * n, k, dtype=torch.float64, generator=generator) for k in (d, 1))
    y = x.sum(1, keepdim=True) + noise
    net = Network(nn.Linear(d, 1, bias=False).double(), nn.functional.mse_loss)
    net.theta.copy_(torch.linalg.lstsq(x[:n], y[:n]).solution[:, 0])
    return net, Batch(x[:n], y[:n]), Batch(x[n:], y[n:])


def test_of_least_squares_the_bias_is_twice_the_variance_times_d_over_n():
    """n = 200, d = 20, sigma = 1: 2 sigma² d/n = 0.2 (the error on new data is 1/(1 - d/n) = 1.11 to first order)."""
    biases, inside = [], 0
    for seed in range(100):
        net, seen, unseen = least_squares(200, 20, seed)
        found = resampling(losses(net, seen), losses(net, unseen))
        biases.append(found.bias.value)
        inside += covered(found.bias, 0.2)
    assert sum(biases) / 100 == pytest.approx(0.2, abs=0.03)
    assert inside >= 90


def test_what_was_never_fitted_has_no_bias():
    found = []
    for seed in range(100):
        x = torch.randn(400, generator=torch.Generator().manual_seed(seed)).square()
        found.append(resampling(x[:200], x[200:]))
    assert sum(covered(each.bias, 0.0) for each in found) >= 90
    assert sum(bool(findings_of_resampling(each)) for each in found) <= 6


def test_a_bias_is_a_note():
    (found,) = findings_of_resampling(resampling(torch.tensor([1.0, 1.1, 0.9]), torch.tensor([2.0, 2.1, 1.9])))
    assert (found.name, found.severity) == ("resampling bias", "note")


def test_losses_are_those_of_each_example_in_evaluation_mode():
    net = network(0, nn.Dropout(0.5), nn.BatchNorm1d(32))
    batch = Batches(digits(), 50)[0]
    each = losses(net, batch)
    outputs = net.outputs(batch.inputs)
    torch.testing.assert_close(each, nn.functional.cross_entropy(outputs, batch.targets, reduction="none"))
    assert net.module.training
