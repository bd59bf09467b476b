"""Why a recipe won: only what was measured and agrees with the ranking is said, and else that nothing is."""

import copy
import math

import pytest
import torch
from torch import nn

from thalweg.challenges.conditioning import Inputs
from thalweg.challenges.finding import Finding
from thalweg.challenges.inexact import Noise
from thalweg.challenges.propagation import Layer, Signal
from thalweg.challenges.spectrum import Quadratic, spectrum
from thalweg.challenges.stability import Stability
from thalweg.core.measured import Measured, exactly
from thalweg.diagnose.causes import Seen, causes
from thalweg.diagnose.course import Course, NoiseAt
from thalweg.diagnose.diagnosis import Diagnosis
from thalweg.diagnose.why import Rank, explained, family, reasons
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe

ADAM = [Rank("adam", True), Rank("rmsprop", True), Rank("sgd", False), Rank("momentum", False)]
SGD = [Rank("sgd", True), Rank("adam", False)]
EVEN = [Rank("sgd", True), Rank("adam", True)]


def about(value, part=0.1, n=64):
    return Measured(value, value * (1 - part), value * (1 + part), n)


def layers(*sizes, part=0.1):
    """A signal whose layers' weights have gradients of these sizes."""
    one = exactly(1.0)
    return Signal(tuple(Layer(str(i), one, one, one, one, size and about(size, part)) for i, size in enumerate(sizes)))


def run(scale):
    nothing, none = torch.zeros(0), torch.zeros(0, 0)
    noise = [NoiseAt(step, Noise(exactly(1.0), exactly(1.0), scale, 32)) for step in (10, 20, 30)]
    return Course(nothing, nothing, nothing, none, [], noise, [], none, none)


def said(winner, ranking, start=None, findings=(), **knobs):
    measured = {"start": {str(i): each for i, each in enumerate(start or [])}}
    measured["run"] = {name: each for name, each in measured["start"].items() if isinstance(each, Course)}
    seen = [Seen(each, "start") for each in findings]
    diagnosis = Diagnosis("a problem", Recipe(winner, 100, 32, knobs), 0, causes(seen), measured)
    return {reason.kind: reason.text for reason in reasons(diagnosis.recipe, ranking, diagnosis)}


def test_where_nothing_separates_them_it_says_so():
    assert said("adam", ADAM) == {
        "unexplained": "Nothing that was measured here explains why adam is before sgd and momentum."
    }
    assert list(said("sgd", EVEN)) == ["tie"]


def test_layers_that_differ_explain_why_an_adaptive_method_is_before_plain_ones():
    found = said("adam", ADAM, [layers(None, 0.01, 3.0, 0.2)])
    assert list(found) == ["layers"]
    assert "differ by a factor of 300 (245 to 367) between layers (smallest in 1, largest in 2)" in found["layers"]
    assert "sgd and momentum, with one lr for all, are clearly worse" in found["layers"]


def test_the_same_difference_explains_nothing_where_the_ranking_does_not_follow_it():
    different = [layers(0.01, 3.0)]
    assert list(said("adam", [Rank("adam", True), Rank("lion", False)], different)) == ["unexplained"]
    assert "adam evens that out, and is not ahead of sgd for it" in said("sgd", SGD, different)["layers"]


def test_a_difference_within_its_error_is_not_used():
    assert list(said("adam", ADAM, [layers(0.1, 1.5, part=0.5)])) == ["unexplained"]


def test_layers_that_are_alike_explain_why_a_plain_method_is_as_good():
    found = said("sgd", SGD, [layers(0.5, 1.0)])
    assert found["layers"].endswith("that leaves little to even out for adam.")


def test_a_layer_without_a_gradient_is_no_difference():
    assert list(said("adam", ADAM, [layers(0.0, 1.0)])) == ["unexplained"]


def test_features_count_where_small_ones_say_something():
    telling = Inputs(about(1e4), about(0.4), 32)
    assert "40%" in said("adam", ADAM, [telling])["features"]
    assert list(said("adam", ADAM, [telling._replace(slow=Measured(0.2, 0.05, 0.4, 64))])) == ["unexplained"]


def test_curvature_is_a_reason_for_second_order_methods_only():
    curved = spectrum(Quadratic([1e4, 1.0, 3.0]), torch.zeros(3, dtype=torch.float64))
    ranking = [Rank("lbfgs", True), Rank("adam", False)]
    assert "lbfgs divides by it; adam" in said("lbfgs", ranking, [curved])["curvature"]
    assert list(said("adam", ADAM, [curved])) == ["unexplained"]
    even = spectrum(Quadratic([2.0, 1.0]), torch.zeros(2, dtype=torch.float64))
    assert list(said("lbfgs", ranking, [even])) == ["unexplained"]


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.9, "a larger one would soon diverge"),
        (0.01, "not curvature that keeps it small"),
        (0.2, None),
        (78.0, "goes well all the same"),
    ],
)
def test_the_stability_limit_is_named_where_lr_is_near_it_or_far_below_or_above(share, words):
    found = said("sgd", SGD, [Stability(about(18.0), about(share), (1.0, 0.5))], lr=0.1)
    assert (words is None) == ("stability" not in found)
    assert words is None or (words in found["stability"] and "lr 0.1 is" in found["stability"])
    assert "unexplained" in found  # true of every algorithm: it sets none apart


def test_noise_is_held_against_the_batch_in_the_middle_of_the_run():
    assert "mostly noise" in said("sgd", SGD, [run(Measured(900.0, 700.0, math.inf, 64))])["noise"]
    assert "After 20 steps a batch of 32 is above" in said("sgd", SGD, [run(about(5.0))])["noise"]
    assert "noise" not in said("sgd", SGD, [run(about(100.0))])


def test_difficulties_of_the_winner_are_not_hidden():
    found = Finding("dead units", "87 of 128 are dead", "warning", exactly(0.68), "", "", "8.2", "lower lr")
    text = said("adam", ADAM, findings=[found])["dead units"]
    assert "has this difficulty all the same: 87 of 128 are dead. Lower lr." in text


def test_every_algorithm_that_compare_races_has_a_family():
    families = {
        name: family(name) for name in ("sgd", "nesterov", "adagrad", "rmsprop", "adamw", "lion", "newton", "ekfac")
    }
    assert [*families.values()] == ["plain"] * 2 + ["adaptive"] * 4 + ["second-order"] * 2


def test_a_winner_that_cannot_be_diagnosed_and_time_that_is_too_short_are_said():
    recipe, data = Recipe("sgd", 20, 10), (torch.ones(20, 2), torch.zeros(20, 1))
    broken = nn.Linear(2, 1)
    broken.weight.data.fill_(math.nan)
    problem = Problem(lambda: copy.deepcopy(broken), data, data, loss=nn.functional.mse_loss)
    (only,) = explained(problem, recipe, SGD)
    assert only.kind == "not diagnosed" and "NaN" in only.text
    sound = Problem(lambda: nn.Linear(2, 1), data, data, loss=nn.functional.mse_loss)
    assert explained(sound, recipe, SGD, seconds=0.0)[-1].kind == "cut short"
    assert all(reason.kind != "cut short" for reason in explained(sound, recipe, SGD))
