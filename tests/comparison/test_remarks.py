import pytest
import torch
from torch import nn

from thalweg.comparison.remarks import remarks
from thalweg.comparison.search import Search
from thalweg.comparison.spaces import space
from thalweg.comparison.study import Trial
from thalweg.comparison.verdict import judge
from thalweg.learning.risk import accuracy
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

PROBLEM = Problem(
    lambda: nn.Linear(2, 2), (torch.randn(8, 2), torch.arange(8) % 2), (torch.randn(100, 2), torch.arange(100) % 2),
    metric=accuracy, chance=0.693,
)  # fmt: skip


def run(stage, name, i, values, lr=1e-3, losses=(0.3, 0.3), outcome="finished"):
    """A trial whose accuracy passed through `values`, in even steps up to 100; `losses` are (train, valid)."""
    curve = [Point(round(100 * (k + 1) / len(values)), *losses, v) for k, v in enumerate(values)]
    recipe = Recipe(name, steps=100, knobs={"lr": lr})
    return Trial(f"{stage}/{name}/{i:02d}", stage, name, recipe, i, outcome, 100, curve)


def confirmed(name, values, **more):
    return [run("confirmation", name, i, v if isinstance(v, list) else [v], **more) for i, v in enumerate(values)]


def kinds(trials, names=("sgd", "adam")):
    searches = {name: Search(Recipe(name, steps=100), space(name, 4)) for name in names}
    verdict = judge([t for t in trials if t.stage == "confirmation"], accuracy)
    return {(r.kind, r.algorithm): r.text for r in remarks(verdict, trials, searches, PROBLEM)}


def plain(**more):
    return confirmed("sgd", [0.9, 0.91, 0.89], **more) + confirmed("adam", [0.8, 0.81, 0.79], **more)


def test_the_validation_sets_own_resolution_is_always_said():
    assert "100 validation examples pin an accuracy down to ±0.059" in kinds(plain())["validation set", None]


@pytest.mark.parametrize(("lr", "words"), [(2.9e-2, "largest"), (1.02e-4, "smallest"), (1e-3, None)])
def test_a_best_lr_at_the_edge_of_what_was_tried_is_said(lr, words):
    tried = [run("refinement", "adam", i, [v], x) for i, (x, v) in enumerate([(lr, 0.9), (2e-3, 0.8), (4e-4, 0.7)])]
    text = kinds(plain() + tried).get(("edge", "adam"))
    assert (text is None) if words is None else words in text


def test_a_general_rule_that_lost_to_its_special_case_is_under_tuned():
    trials = confirmed("sgd", [0.9, 0.91, 0.89]) + confirmed("momentum", [0.8, 0.81, 0.79])
    assert "not refuted" in kinds(trials, ("sgd", "momentum"))["under-tuned", "momentum"]
    close = confirmed("sgd", [0.9, 0.91, 0.89]) + confirmed("momentum", [0.89, 0.9, 0.88])
    assert ("under-tuned", "momentum") not in kinds(close, ("sgd", "momentum"))


def test_where_every_run_is_as_good_nothing_matters_and_no_edge_does():
    same = confirmed("sgd", [0.9, 0.91, 0.89]) + confirmed("adam", [0.9, 0.89, 0.91])
    screened = [run("screening", "adam", i, [0.9], 10.0 ** -(1 + i / 3)) for i in range(8)]
    edge = [run("refinement", "adam", 90, [0.95], 2.9e-2), run("refinement", "adam", 91, [0.9], 1e-3)]
    found = kinds(same + screened + edge)
    assert ("insensitive", None) in found and ("edge", "adam") not in found
    worse = [run("screening", "adam", i, [0.2 + 0.05 * i]) for i in range(8)]
    assert ("insensitive", None) not in kinds(same + worse)


def test_a_run_that_is_best_early_was_too_long_and_one_still_rising_too_short():
    early = [[0.9 + i / 100, *[0.5] * 19] for i in range(3)]
    assert ("too long", None) in kinds(confirmed("sgd", early))
    rising = [[0.5, 0.6, 0.7, 0.9 + i / 100] for i in range(3)]
    assert "last quarter still gained 0.21" in kinds(confirmed("sgd", rising))["too short", None]
    settled = [[0.5, 0.9, 0.9, 0.9 + i / 1000] for i in range(3)]
    assert ("too short", None) not in kinds(confirmed("sgd", settled))


def test_data_and_model_limits_are_told_from_the_losses():
    assert ("data-limited", None) in kinds(plain(losses=(0.01, 0.4)))
    assert ("model-limited", None) in kinds(plain(losses=(0.65, 0.68)))
    assert not {("data-limited", None), ("model-limited", None)} & set(kinds(plain(losses=(0.3, 0.4))))


def test_a_recipe_that_fails_on_fresh_seeds_and_one_that_never_came_through_are_named():
    shaky = [*plain(), run("confirmation", "adam", 9, [0.8], outcome="diverged")]
    assert "1 of 4 fresh seeds" in kinds(shaky)["unstable", "adam"]
    assert ("never finished", "lion") in kinds(plain(), ("sgd", "adam", "lion"))
