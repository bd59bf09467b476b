import math

import pytest
import torch
from torch import nn

from thalweg.core.errors import DiagnosisError
from thalweg.diagnose.trying import Tried, remedied, tried
from thalweg.training.builtin import digits
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

SGD = Recipe("sgd", 300, knobs={"lr": 0.1})


@pytest.fixture(scope="module")
def problem():
    return digits()


def bowl(start=4.0):
    """f = 2 theta², whose gradient descent is theta (1 - 4 lr)^t: every loss is known."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.tensor([start]))

        def forward(self, inputs):
            return self.theta * inputs

    data = (torch.ones(4, 1), torch.zeros(4, 1))
    return Problem(Two, data, data, loss=lambda z, y: 2 * (z - y).square().mean())


def test_on_a_parabola_the_losses_are_those_of_the_closed_form():
    found = tried(bowl(), Recipe("sgd", 3, 4, {"lr": 0.05}, "constant"), {"lr_factor": 2}, steps=3, runs=2)
    assert found.without == pytest.approx([2 * (4 * 0.8**3) ** 2] * 2)
    assert found.having == pytest.approx([2 * (4 * 0.6**3) ** 2] * 2)
    assert found.helped and not found.worse


def test_a_remedy_that_makes_it_worse_is_said_to():
    found = tried(bowl(), Recipe("sgd", 3, 4, {"lr": 0.2}, "constant"), {"lr_factor": 0.1}, steps=3, runs=3)
    assert found.worse and not found.helped and "worse" in str(found)


def test_what_makes_no_difference_does_not_help(problem):
    found = tried(problem, SGD, {"clip_norm": 1e9}, steps=10, runs=3)
    assert found.difference.value == 0 and not found.helped and not found.worse
    assert str(found).endswith("in 10 steps; no difference can be told")


def test_a_run_that_diverges_is_infinite_and_to_be_saved_is_to_be_helped():
    diverging = bowl(1e18)
    found = tried(diverging, Recipe("sgd", 9, 4, {"lr": 1e6}, "constant"), {"lr_factor": 1e-7}, steps=9, runs=2)
    assert found.without == (math.inf, math.inf) and found.helped
    assert "diverged ->" in str(found)


def test_two_of_five_that_diverge_are_no_proof():
    assert not Tried({}, 10, (1.0, 1.0, 1.0, math.inf, math.inf), (1.0,) * 5).helped


def test_the_interval_is_that_of_pairs():
    found = Tried({}, 10, (1.0, 10.0, 100.0), (0.9, 9.8, 99.7))  # noise between pairs does not count
    assert found.difference.value == pytest.approx(-0.2) and found.difference.high == pytest.approx(0.048, abs=1e-3)


def test_nothing_that_exists_is_changed(problem):
    run = Run(problem, SGD, 3)
    list(run.advance(5))
    before, random = run.state(), torch.get_rng_state()
    tried(problem, SGD, {"lr_factor": 0.5}, state=run.network.state(), steps=5, runs=2)
    after = run.state()
    assert before[1] == after[1] and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())


def test_it_goes_on_from_a_state(problem):
    run = Run(problem, SGD, 3)
    list(run.advance(100))
    anew = tried(problem, SGD, {"lr_factor": 1.0}, steps=1, runs=1)
    later = tried(problem, SGD, {"lr_factor": 1.0}, state=run.network.state(), steps=1, runs=1)
    assert later.without[0] < anew.without[0] - 0.5


def test_the_same_seed_gives_the_same_figures(problem):
    assert tried(problem, SGD, {"lr_factor": 2}, steps=3) == tried(problem, SGD, {"lr_factor": 2}, steps=3)


def test_a_remedy_changes_a_field_a_knob_or_the_learning_rate():
    recipe = Recipe("momentum", 100, knobs={"lr": 0.5, "momentum": 0.5})
    assert remedied(recipe, {"batch_size": 128, "warmup": 0.1}) == recipe.with_(batch_size=128, warmup=0.1)
    assert remedied(recipe, {"lr_factor": 0.5, "momentum": 0.9}).knobs == {"lr": 0.25, "momentum": 0.9}
    assert remedied(recipe, {"algorithm": "adam"}).knobs == {}


@pytest.mark.parametrize("remedy", [{"more data": 10}, {"algorithm": "adamm"}, {"schedule": "cosin"}])
def test_what_cannot_be_tried_says_why(problem, remedy):
    with pytest.raises(DiagnosisError, match="cannot be tried"):
        tried(problem, SGD, remedy)


def test_initialisation_cannot_be_tried_from_a_checkpoint(problem):
    with pytest.raises(DiagnosisError, match="checkpoint"):
        tried(problem, SGD, {"init_gain": 2.0}, state=Run(problem, SGD, 0).network.state())
