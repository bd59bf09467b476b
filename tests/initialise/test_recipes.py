"""A recipe's `init`: the run's parameters begin by it, from the run's seed."""

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.comparison.spaces import Dimension, point_of, recipe_at
from thalweg.core.errors import AlgorithmError
from thalweg.initialise.model import initialise
from thalweg.learning.batches import Batches
from thalweg.report.words import knobs
from thalweg.training.run import Run

INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS[:, :1] * INPUTS[:, 1:2]


def problem():
    return tw.Problem(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)),
        (INPUTS[:40], TARGETS[:40]), (INPUTS[40:], TARGETS[40:]), loss=nn.functional.mse_loss,
    )  # fmt: skip


def recipe(**fields):
    return tw.Recipe("adam", 12, batch_size=10, knobs={"lr": 0.01}, **fields)


def begun(seed=3, **fields):
    return Run(problem(), recipe(**fields), seed).network.theta.clone()


def test_without_init_the_models_own_initialisation_stays():
    assert torch.equal(begun(), problem().network(3).theta)


@pytest.mark.parametrize("name", ["orthogonal", "lsuv", "gain_search"])
def test_a_run_begins_as_the_scheme_and_the_runs_seed_say(name):
    network = problem().network(99)
    first = Batches(problem().train, 10, seed=3)[0]
    initialise(network.module, name, first, generator=3)
    assert torch.equal(begun(init=name), network.theta)
    assert not torch.equal(begun(init=name), begun(init=name, seed=4))


def test_init_gain_multiplies_the_schemes_weights():
    torch.testing.assert_close(begun(init="he_normal", init_gain=0.5), 0.5 * begun(init="he_normal"))  # biases are 0


def test_a_stopped_run_ends_with_the_bits_of_an_uninterrupted_one():
    whole, first, second = (Run(problem(), recipe(init="lsuv"), seed=3) for _ in range(3))
    list(whole.advance())
    list(first.advance(5))
    second.load(*first.state())
    list(second.advance())
    assert torch.equal(whole.network.theta, second.network.theta)


def test_it_is_written_read_and_said(tmp_path):
    recipe(init="sparse").save(tmp_path / "recipe.toml")
    assert tw.Recipe.load(tmp_path / "recipe.toml") == recipe(init="sparse")
    assert "init" not in recipe().text().replace("init_gain", "")
    assert knobs(recipe(init="sparse")) == "init sparse"


def test_a_search_space_may_hold_schemes():
    searched = [Dimension("lr", 1e-3, 1e-1), Dimension("init", scale="choice", choices=(None, "he_normal", "sparse"))]
    found = recipe_at(recipe(), searched, [0.5, 0.9])
    assert found.init == "sparse" and found.knobs == {"lr": 0.01}
    assert point_of(found, searched) == pytest.approx([0.5, 5 / 6])


@pytest.mark.parametrize(("init", "said"), [("he", "no initialisation is called 'he'"), (1, "init = 1")])
def test_an_unknown_scheme_is_refused_when_the_recipe_is_made(init, said):
    with pytest.raises(AlgorithmError, match=said):
        recipe(init=init)
