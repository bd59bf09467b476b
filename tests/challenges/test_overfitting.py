import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import thalweg as tw
from thalweg import Batch, Network
from thalweg.challenges.overfitting import LeastSquares, Rise, findings, rise, rise_of_curve, takeuchi
from thalweg.challenges.wrong_labels import findings as findings_of_labels
from thalweg.challenges.wrong_labels import labels, out_of_fold, wrong_labels
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, proportion
from thalweg.learning.batches import Arrays, Batches
from thalweg.learning.risk import losses


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covered(interval, truth):
    return interval.low <= truth <= interval.high


# The gap that is expected


def half_squares(z, y):
    return (z - y).square().mean() / 2


def fitted(problem, seed):
    net = Network(nn.Linear(problem.d, 1, bias=False).double(), half_squares)
    data = problem.drawn(problem.n, seed)
    return problem.fitted(data, net), data


def test_of_least_squares_new_data_is_worse_by_twice_the_variance_times_d_over_n():
    problem = LeastSquares(n=200, d=20, sigma=1.0)
    gaps = []
    for seed in range(100):
        net, data = fitted(problem, seed)
        new = problem.drawn(4000, 1000 + seed)
        gaps.append(2 * float(net.f(net.theta, new) - net.f(net.theta, data)))
    assert problem.gap == pytest.approx(0.2)
    assert sum(gaps) / 100 == pytest.approx(0.2, abs=0.03)


def test_takeuchis_criterion_counts_the_parameters_that_are_paid_for():
    """sigma² d (1 - d/n) = 18, of half squares; over n, twice, it is the gap of squares: 0.18."""
    problem = LeastSquares(n=200, d=20, sigma=1.0)
    found = [takeuchi(*fitted(problem, seed)) for seed in range(6)]
    assert sum(each.value for each in found) / 6 == pytest.approx(18.0, abs=1.0)
    assert sum(covered(each, 18.0) for each in found) >= 5


def test_directions_without_curvature_pay_for_nothing():
    problem = LeastSquares(n=200, d=20, sigma=1.0)
    net, data = fitted(problem, 0)
    more = Network(nn.Linear(23, 1, bias=False).double(), half_squares)
    more.theta.copy_(nn.functional.pad(net.theta, (0, 3)))
    assert takeuchi(more, Batch(nn.functional.pad(data.inputs, (0, 3)), data.targets)).value == pytest.approx(
        takeuchi(net, data).value
    )


def test_a_whole_hessian_of_many_parameters_is_refused():
    net = Network(nn.Linear(2001, 1, bias=False), half_squares)
    with pytest.raises(DiagnosisError, match="2001 parameters"):
        takeuchi(net, Batch(torch.ones(5, 2001), torch.ones(5, 1)))


# Rising


def along(curve, examples=400, noise=1.0, seed=0):
    """Losses of examples that have levels of their own, around a curve."""
    return curve[:, None] + noise * drawn(examples, seed=seed).square() * (
        1 + 0.1 * drawn(len(curve), examples, seed=seed + 1)
    )


FALLING, RISING = torch.linspace(2, 1, 20).double(), torch.linspace(1, 1.5, 20).double()


def test_a_rise_is_known_with_its_interval():
    """Half of what was gained is lost again, less what the last tenth averages over."""
    truth = 0.5 - (0.5 / 19) * 1.5
    found = [rise(along(torch.cat([FALLING, RISING]), seed=10 * seed)) for seed in range(100)]
    assert sum(covered(each.rise, truth) for each in found) >= 90
    assert sum(covered(each.share, truth) for each in found) >= 90
    assert all(16 <= each.best <= 23 for each in found)
    assert [finding.severity for finding in findings(found[0])] == ["warning"]


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_a_minimum_of_noisy_figures_is_not_a_rise(noise):
    """All evaluations are alike after the first few: the lowest of them is lower than the last by chance."""
    curve = torch.cat([torch.tensor([2.0, 1.5], dtype=torch.float64), torch.ones(30)])
    found = [rise(along(curve, noise=noise, seed=10 * seed)) for seed in range(100)]
    assert sum(each.rise.low > 0 for each in found) <= 7
    assert sum(covered(each.rise, 0.0) for each in found) >= 90
    assert not any(finding.severity in ("warning", "critical") for each in found for finding in findings(each))


def test_a_gap_that_does_not_widen_is_none():
    assert not findings(rise(along(torch.cat([FALLING, torch.ones(20)]))))


def test_a_loss_that_rises_on_the_training_part_too_is_not_overfitting():
    up = rise(along(torch.cat([FALLING, RISING])))
    assert findings(up, train=rise(along(FALLING))) and not findings(up, train=up)


def test_the_severity_is_by_what_is_lost_of_what_was_gained():
    def severity(share, rise=Measured(0.1, 0.05, 0.15, 100)):  # noqa: B008
        return [finding.severity for finding in findings(Rise(rise, share, 3))]

    assert severity(Measured(0.03, 0.01, 0.04, 100)) == ["note"]
    assert severity(Measured(0.3, 0.1, 0.5, 100)) == ["warning"]
    assert severity(Measured(0.9, 0.6, 1.2, 100)) == ["critical"]
    assert severity(Measured(0.3, 0.0, 0.7, 100), Measured(0.1, -0.1, 0.3, 100)) == ["unclear"]
    assert severity(Measured(0.0, 0.0, 0.7, 100), Measured(-0.1, -0.2, 0.0, 100)) == []


def test_a_curve_alone_says_it_too():
    up = [rise_of_curve(torch.cat([FALLING, RISING]) + 0.03 * drawn(40, seed=seed)) for seed in range(50)]
    assert all(each.rise.low > 0 and each.share.low > 0.05 and 15 <= each.best <= 25 for each in up)
    flat = [rise_of_curve(torch.cat([FALLING, torch.ones(20)]) + 0.1 * drawn(40, seed=seed)) for seed in range(200)]
    assert sum(each.rise.low > 0 for each in flat) <= 14
    assert sum(finding.severity == "warning" for each in flat for finding in findings(each)) <= 10


def test_of_few_evaluations_nothing_is_told():
    for found in (rise(torch.ones(1, 5)), rise_of_curve(torch.ones(11))):
        assert found.rise.low == -math.inf and not findings(found)


# Wrong labels


def digits(share=0.0, seed=0, train=1400):
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].float() / 16, wrong_labels(10, y[order], share, seed)
    return Arrays(x[:train], y[:train]), Batch(x[1400:], y[1400:])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_the_share_of_wrong_labels_is_found(share):
    found = []
    for seed in range(10):
        train, _ = digits(share, seed)
        found.append(labels(*out_of_fold(train.inputs, train.targets, seed)))
    assert sum(each.wrong.value for each in found) / 10 == pytest.approx(share, abs=0.02)
    assert sum(each.wrong.low - 0.02 <= share <= each.wrong.high + 0.02 for each in found) >= 9
    severities = [each.severity for labels in found for each in findings_of_labels(labels)]
    assert severities.count("warning") >= {0.0: 0, 0.1: 5, 0.2: 8, 0.3: 9, 0.4: 10}[share]
    assert len(severities) == (10 if share else 0)


def test_classes_that_overlap_are_no_wrong_labels():
    """Two normal distributions two standard deviations apart: 16 % are beyond the middle."""
    y = torch.arange(2000) % 2
    x = drawn(2000, 5) + 2 * y[:, None] * torch.eye(5)[0]
    found = labels(*out_of_fold(x, y))
    assert found.error.low > 0.13 and found.wrong.high < 0.06 and not findings_of_labels(found)
    nearer = labels(*out_of_fold(drawn(2000, 5) + y[:, None] * torch.eye(5)[0], y))
    assert [each.severity for each in findings_of_labels(nearer)] == ["note"]


def test_labels_that_nothing_predicts_cannot_be_judged():
    y = torch.randint(10, (1000,), generator=torch.Generator().manual_seed(0))
    found = labels(*out_of_fold(drawn(1000, 5), y))
    assert [each.severity for each in findings_of_labels(found)] == ["unclear"]


def test_labels_that_a_network_fits_and_neighbours_do_not_predict_are_noise():
    overlapping = labels(torch.tensor([[0.6, 0.4]] * 100), torch.tensor([0] * 75 + [1] * 25))
    overlapping = overlapping._replace(error=proportion(45, 100), majority=0.6, wrong=proportion(25, 100))
    assert [each.severity for each in findings_of_labels(overlapping)] == ["note"]
    assert [each.severity for each in findings_of_labels(overlapping, proportion(0, 500))] == ["warning"]


def test_what_is_no_class_is_refused():
    with pytest.raises(DiagnosisError, match="are no classes"):
        out_of_fold(torch.ones(5, 2), torch.ones(5))
    with pytest.raises(DiagnosisError, match="5 of each of 2"):
        out_of_fold(torch.ones(6, 2), torch.zeros(6, dtype=torch.long))


# On digits


def trained(rule, train, valid, steps, lr, width=64, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    net, batches = Network(module, nn.functional.cross_entropy), Batches(train, 32, seed=seed)
    curve = [losses(net, valid)]
    for step in tw.descend(net, rule, (batches[t] for t in range(steps)), lr=lr):
        if step.t % (steps // 20) == 0:
            curve.append(losses(net, valid))
    wrong = int((net.outputs(train.inputs).argmax(1) != train.targets).sum())
    return torch.stack(curve), proportion(wrong, len(train))


@pytest.mark.parametrize(("rule", "lr"), [(tw.sgd, 0.1), (tw.adam, 1e-3), (tw.adam, 1e-2)])
def test_healthy_runs_are_healthy(rule, lr):
    train, valid = digits(seed=1)
    curve, _ = trained(rule, train, valid, 1000, lr, seed=1)
    assert not any(found.severity in ("warning", "critical") for found in findings(rise(curve)))


def test_a_memoriser_of_wrong_labels_overfits_and_its_labels_are_wrong():
    """It fits every training label, and reaches 1 - p of the others at best."""
    train, valid = digits(share=0.3, train=400)
    curve, train_error = trained(tw.adam, train, valid, 1200, 1e-2, width=128)
    assert train_error.value == 0
    assert [found.severity for found in findings(rise(curve))] == ["critical"]
    (found,) = findings_of_labels(labels(*out_of_fold(train.inputs, train.targets)), train_error)
    assert found.severity == "warning" and covered(found.measured, 0.3)
