"""The surrogate loss beside the metric that counts."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, root_mean_squared_error
from torch import nn
from torch.nn import functional as F

from thalweg.core.errors import ProblemError
from thalweg.core.network import Network
from thalweg.learning import risk as r
from thalweg.learning.batches import Arrays, Samples

DRAW = torch.Generator().manual_seed(0)
SCORES, LABELS = torch.randn(50, 4, generator=DRAW), torch.randint(0, 4, (50,), generator=DRAW)


def test_accuracy_is_that_of_scikit_learn():
    assert r.accuracy(SCORES, LABELS) == pytest.approx(accuracy_score(LABELS, SCORES.argmax(1)))


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_accuracy_of_one_logit_asks_for_its_sign(shape):
    logits, answers = SCORES[:, 0].reshape(shape), (LABELS > 1).float().reshape(shape)
    assert r.accuracy(logits, answers) == pytest.approx(accuracy_score(answers.flatten(), logits.flatten() > 0))


def test_rmse_is_that_of_scikit_learn():
    assert r.root_mean_squared_error(SCORES[:, :1], SCORES[:, 1:2]) == pytest.approx(
        root_mean_squared_error(SCORES[:, :1], SCORES[:, 1:2])
    )


def test_rmse_in_units_undoes_the_standardisation():
    y = 7 * SCORES[:, :1] + 100
    scaled, answers = (y - 100) / 7, SCORES[:, 1:2]
    assert r.rmse_in_units(7.0)(answers, scaled) == pytest.approx(float((7 * answers + 100 - y).square().mean().sqrt()))


def test_a_fair_coin_a_character_is_one_bit():
    assert r.bits_per_character(torch.zeros(10, 2), torch.zeros(10, dtype=torch.long)) == pytest.approx(1.0)


def test_shapes_that_would_broadcast_are_refused():
    for measure in (r.accuracy, r.root_mean_squared_error):
        with pytest.raises(ProblemError, match=r"outputs \(5, 1\) and targets \(5, 3\) do not fit"):
            measure(torch.zeros(5, 1), torch.zeros(5, 3))
    with pytest.raises(ProblemError, match=r"\(5, 1\) and targets \(5,\)"):
        r.root_mean_squared_error(torch.zeros(5, 1), torch.zeros(5))


def test_better_is_higher_or_lower_as_declared_by_a_margin():
    assert r.accuracy.better(0.9, 0.8) and not r.accuracy.better(0.8, 0.9)
    assert r.root_mean_squared_error.better(0.8, 0.9) and not r.root_mean_squared_error.better(0.9, 0.8)
    assert not r.accuracy.better(0.85, 0.8, by=0.1)
    assert not r.accuracy.better(0.8, 0.8)


@pytest.mark.parametrize("measure", [r.accuracy, r.root_mean_squared_error])
def test_nan_is_never_better_and_worse_than_anything(measure):
    assert not measure.better(math.nan, 0.5)
    assert measure.better(0.5, math.nan)
    assert measure.better(0.5, measure.worst)
    assert measure.cost(measure.worst) == math.inf


def test_a_function_must_say_which_way_is_better():
    with pytest.raises(ProblemError, match=r"'l1_loss' does not say which way.*higher_is_better=True"):
        r.metric(F.l1_loss)
    assert r.metric(F.l1_loss, higher_is_better=False).name == "l1_loss"
    assert r.metric(r.accuracy) is r.accuracy


def test_risk_is_the_loss_and_the_metric_in_evaluation_mode():
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9)), F.cross_entropy)
    loss, hits = r.risk(network, Arrays(SCORES, LABELS), r.accuracy)
    outputs = network.module[0](SCORES).detach()
    assert loss == pytest.approx(float(F.cross_entropy(outputs, LABELS)))
    assert hits == r.accuracy(outputs, LABELS)
    assert network.module.training


def test_risk_without_a_metric_of_its_own_is_the_loss_twice():
    network = Network(nn.Linear(4, 4), F.cross_entropy)
    loss, counted = r.risk(network, Arrays(SCORES, LABELS), r.of_loss(F.cross_entropy))
    assert counted == loss


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_the_risk_of_chunks_is_that_of_the_whole(kind, monkeypatch):
    torch.manual_seed(0)
    network = Network(nn.Linear(4, 4), F.cross_entropy)
    whole = r.risk(network, Arrays(SCORES, LABELS), r.accuracy)
    monkeypatch.setattr(r, "CHUNK", 7)
    pairs = list(zip(SCORES, LABELS, strict=True))
    data = Arrays(SCORES, LABELS) if kind == "arrays" else Samples(pairs)
    assert r.risk(network, data, r.accuracy) == pytest.approx(whole)
