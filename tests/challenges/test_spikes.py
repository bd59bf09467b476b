import math

import pytest
import torch
from torch import nn

from thalweg import Batch, Network, adam, descend, sgd
from thalweg.challenges.spikes import findings, spikes
from thalweg.core.errors import DiagnosisError

F = nn.functional


def norms(steps=1000, spread=0.3, seed=0):
    return (spread * torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).exp()


def with_spikes(at, height=50.0, **more):
    found = norms(**more)
    found[torch.tensor(at)] *= height
    return found


def test_exactly_the_spikes_are_found():
    at = (100, 101, 500, 999)
    found = spikes(with_spikes(at))
    assert found.at == at and 25 < found.highest < 120
    assert found.often.value == 0.004 and found.often.n == 1000


def test_hardly_any_step_of_a_run_without_spikes_is_taken_for_one():
    """One in ten thousand may be: a deviation is not well known from few steps."""
    found = [spikes(norms(seed=seed, spread=0.5)) for seed in range(40)]
    assert sum(len(each.at) for each in found) <= 4
    assert all(finding.severity == "note" for each in found for finding in findings(each))


def test_norms_that_rise_or_fall_slowly_are_no_spikes():
    slope = torch.linspace(0, 7, 1000, dtype=torch.float64).exp()
    assert not spikes(norms() * slope).at and not spikes(norms() / slope).at


def test_norms_that_scatter_widely_need_more_to_be_out_of_line():
    """Ten times the median is a spike where a deviation is .3 in the logarithm, and none where it is 1."""
    assert spikes(with_spikes((500,), 12.0, spread=0.2)).at == (500,)
    wide = norms(spread=1.0)
    wide[500] = 12.0
    assert 500 not in spikes(wide).at


@pytest.mark.parametrize(("every", "severity"), [(600, "note"), (20, "warning")])
def test_a_few_are_a_note_and_many_are_clipped(every, severity):
    (finding,) = findings(spikes(with_spikes(list(range(30, 1000, every)))))
    assert (finding.name, finding.severity) == ("gradient spikes", severity)
    if severity == "warning":
        assert finding.remedy["clip_norm"] == pytest.approx(
            math.exp(0.3 * 1.2816), rel=0.05
        )  # the normal's .9 quantile


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_critical_wherever_it_is(value):
    for at in (0, 500):
        series = norms()
        series[at] = value
        found = spikes(series)
        assert found.at == (at,) and findings(found)[0].severity == "critical"
        assert math.isfinite(found.clip.value)


def test_the_interval_of_the_clipping_length_covers_the_true_quantile():
    truth = math.exp(0.3 * 1.2815515655446004)
    clips = [spikes(norms(200, seed=seed)).clip for seed in range(100)]
    assert sum(clip.low <= truth <= clip.high for clip in clips) >= 90


@pytest.mark.parametrize(("rule", "lr"), [(sgd, 0.1), (adam, 1e-3)])
def test_healthy_runs_are_not_alarmed_at(rule, lr):
    inputs = torch.randn(512, 20, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :5].argmax(1)
    for seed in range(10):
        torch.manual_seed(seed)
        network = Network(nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5)), F.cross_entropy)
        parts = torch.randint(512, (200, 32), generator=torch.Generator().manual_seed(seed))
        batches = [Batch(inputs[part], targets[part]) for part in parts]
        found = spikes([float(step.g.norm()) for step in descend(network, rule, batches, lr=lr)])
        assert all(finding.severity == "note" for finding in findings(found))


def test_a_short_run_is_refused():
    with pytest.raises(DiagnosisError, match="25 gradients were given: a spike is one among more than 25"):
        spikes([1.0] * 25)


def test_gradients_of_nothing_are_no_spikes():
    assert spikes([0.0] * 50).at == ()
