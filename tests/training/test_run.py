"""A run is a function of problem, recipe and seed; its state is all that its future depends on."""

import math

import pytest
import torch

import thalweg as tw
from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.core.errors import DivergenceError
from thalweg.training.checkpoint import load_state, save_state
from thalweg.training.run import Run

WHOLE = [n for n, a in ALGORITHMS.items() if a.rule.per != "element" and n not in SECOND_ORDER]

RECIPES = {
    "sgd": tw.Recipe("sgd", steps=40, batch_size=7, knobs={"lr": 0.1}),
    "adam": tw.Recipe("adam", steps=40, batch_size=7, knobs={"lr": 0.01}, warmup=0.1),
    "averaged and clipped": tw.Recipe("momentum", steps=40, knobs={"lr": 0.1}, clip_norm=0.5, ema_decay=0.9),
    "full batch": tw.Recipe("nadam", steps=40, batch_size=1000, schedule="constant"),
}


def finished(run):
    for _ in run.advance():
        pass
    return run


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("stop", [1, 13, 39])
def test_a_run_saved_and_resumed_is_the_uninterrupted_one(noisy, recipe, stop):
    whole = finished(Run(noisy, recipe, seed=3, every=6))
    first = Run(noisy, recipe, seed=3, every=6)
    for _ in first.advance(until=stop):
        pass
    resumed = Run(noisy, recipe, seed=3, every=6)
    resumed.load(*first.state())
    finished(resumed)
    (tensors, values), (their_tensors, their_values) = whole.state(), resumed.state()
    assert values == their_values
    assert same(tensors, their_tensors)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("around", [{}, {"clip_norm": 0.5, "ema_decay": 0.9}], ids=["alone", "averaged and clipped"])
def test_so_is_one_of_a_rule_for_tensors_or_the_vector_through_a_file(noisy, name, around, tmp_path):
    recipe = tw.Recipe(name, steps=14, batch_size=7, **around)
    whole, first, resumed = (Run(noisy, recipe, seed=3, every=3) for _ in range(3))
    finished(whole)
    for _ in first.advance(until=5):
        pass
    save_state(tmp_path / "state", *first.state())
    resumed.load(*load_state(tmp_path / "state"))
    finished(resumed)
    assert resumed.state()[1] == whole.state()[1]
    assert same(resumed.state()[0], whole.state()[0])


@pytest.mark.parametrize("name", ["lbfgs", "trust_ncg", "hessian_free", "kfac"])
def test_so_is_one_of_a_rule_that_sees_f_on_the_whole_batch(noisy, name, tmp_path):
    recipe = tw.Recipe(name, steps=10, batch_size=10**6, schedule="constant")
    whole, first, resumed = (Run(noisy, recipe, seed=3, every=2) for _ in range(3))
    finished(whole)
    for _ in first.advance(until=4):
        pass
    save_state(tmp_path / "state", *first.state())
    resumed.load(*load_state(tmp_path / "state"))
    finished(resumed)
    assert resumed.state()[1] == whole.state()[1]
    assert same(resumed.state()[0], whole.state()[0])


def test_the_seed_decides_everything(noisy):
    recipe = RECIPES["adam"]
    a, b, c = (finished(Run(noisy, recipe, seed)) for seed in (1, 1, 2))
    assert a.curve == b.curve and torch.equal(a.network.theta, b.network.theta)
    assert a.curve != c.curve


def test_measuring_more_often_does_not_change_the_run(noisy):
    often, seldom = (finished(Run(noisy, RECIPES["adam"], seed=0, every=every)) for every in (1, 20))
    assert torch.equal(often.network.theta, seldom.network.theta)
    assert [p for p in often.curve if p.t in (20, 40)] != [] and len(often.curve) == 40
    assert [(p.t, p.valid_loss) for p in often.curve if p.t % 20 == 0] == [(p.t, p.valid_loss) for p in seldom.curve]


def test_the_training_loss_of_a_point_is_the_mean_over_its_examples(linear):
    run = Run(linear, tw.Recipe("sgd", steps=6, batch_size=7, knobs={"lr": 0.0}, schedule="constant"), seed=0, every=6)
    losses = [(step.loss, len(step.batch)) for step in run.advance()]
    assert [n for _, n in losses] == [7, 7, 6, 7, 7, 6]
    x, y = linear.train.inputs, linear.train.targets
    expected = torch.nn.functional.mse_loss(run.network.outputs(x), y).item()  # lr is 0: every epoch is the whole set
    assert run.curve[0].train_loss == pytest.approx(expected, rel=1e-6)


def test_the_best_point_is_by_the_metric_and_ties_go_to_the_lower_loss(noisy):
    run = finished(Run(noisy, RECIPES["adam"], seed=0, every=1))
    assert run.best == min(run.curve, key=lambda p: (-p.valid_metric, p.valid_loss))
    run.restore_best()
    outputs = run.network.outputs(noisy.valid.inputs)
    assert tw.accuracy(outputs, noisy.valid.targets) == run.best.valid_metric


def test_an_averaged_rule_ends_with_its_average(linear):
    run = finished(Run(linear, tw.Recipe("sgd", steps=30, knobs={"lr": 0.1}, ema_decay=0.9), seed=0))
    last = run.network.theta.clone()
    run.keep_last()
    assert torch.equal(run.network.theta, run.memory["average"])
    assert not torch.equal(run.network.theta, last)


def test_a_diverging_run_says_where_with_which_lr_and_gradient(linear):
    run = Run(linear, tw.Recipe("sgd", steps=500, knobs={"lr": 1e6}, schedule="constant"), seed=0)
    with pytest.raises(DivergenceError, match=r"the loss is (inf|nan) at step \d+ of 500, with lr 1e\+06 and gradient"):
        finished(run)
    assert math.isfinite(run.curve[-1].train_loss) if run.curve else run.t < 21
