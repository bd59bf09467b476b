import numpy as np
import pytest

from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.comparison.search import Search
from thalweg.comparison.spaces import SPACES, Dimension, near, point_of, quasi_random, recipe_at, space
from thalweg.comparison.study import Trial
from thalweg.core.errors import AlgorithmError
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point


@pytest.mark.parametrize("name", SPACES)
def test_every_point_of_a_space_is_a_recipe_and_is_found_again(name):
    searched = space(name, trials=64)
    for u in quasi_random(8, len(searched), seed=1):
        recipe = recipe_at(Recipe(name, steps=100), searched, u)
        again = recipe_at(Recipe(name, steps=100), searched, point_of(recipe, searched))
        assert again.knobs == pytest.approx(recipe.knobs, rel=1e-4)


def test_every_algorithm_has_a_space_with_lr_first_or_what_it_has_in_its_place():
    assert set(SPACES) == set(ALGORITHMS)
    assert all(dimensions[0].knob == Recipe(name, steps=1).leading[0] for name, dimensions in SPACES.items())
    assert {name for name, dimensions in SPACES.items() if dimensions[0].knob != "lr"} <= set(SECOND_ORDER)


def test_more_trials_search_more_knobs():
    assert [d.knob for d in space("adam", 4)] == ["lr"]
    assert [d.knob for d in space("adam", 10)] == ["lr", "beta1"]
    assert [d.knob for d in space("adam", 25)] == ["lr", "beta1", "eps"]
    assert [d.knob for d in space("adam", 50)] == ["lr", "beta1", "eps", "beta2"]


def test_the_lr_of_momentum_is_searched_as_what_the_velocity_builds_up_to():
    searched = space("momentum", trials=16)
    recipe = recipe_at(Recipe("momentum", steps=10), searched, [0.5, 0.5])
    assert recipe.knobs["lr"] / (1 - recipe.knobs["momentum"]) == pytest.approx(0.1, rel=1e-4)


def test_a_space_goes_on_past_its_edge():
    lr = Dimension("lr", 1e-3, 1e-1)
    assert lr.at(1.5) == pytest.approx(1.0)
    assert lr.of(lr.at(-0.25)) == pytest.approx(-0.25, abs=1e-4)


def test_points_near_a_centre_stay_in_their_box_and_keep_most_choices():
    searched = [Dimension("lr", 1e-4, 1e-1), Dimension("schedule", scale="choice", choices=("cosine", "constant"))]
    points = near([0.5, 0.25], quasi_random(64, 2, seed=0), searched, width=0.2)
    assert np.all(np.abs(points[:, 0] - 0.5) <= 0.1)
    assert 0.5 < np.mean(points[:, 1] == 0.25) < 0.8


def test_quasi_random_points_are_even_for_any_number():
    u = np.sort(quasi_random(30, 1, seed=3)[:, 0])
    assert np.max(np.diff(u)) < 3 / 30


def test_an_unknown_algorithm_is_refused_by_name():
    with pytest.raises(AlgorithmError, match="adamm"):
        space("adamm", trials=4)


def ended(lr, value, outcome="finished"):
    recipe = Recipe("adam", steps=10, knobs={"lr": lr})
    return Trial(f"screening/adam/{lr}", "screening", "adam", recipe, 0, outcome, 10, [Point(10, 1.0, 1.0, value)])


def test_refinement_stays_below_an_lr_that_diverged():
    search = Search(Recipe("adam", steps=10), space("adam", 4))
    best, diverged = ended(1e-2, 0.9), ended(1.2e-2, 0.1, "diverged")
    upper = search.upper([best], [diverged, ended(1e-4, 0.1, "diverged")])
    assert upper == pytest.approx(search.point(diverged)[0])
    lrs = [r.knobs["lr"] for r in search.refinement([best], upper, 16, seed=0)]
    assert max(lrs) < 1.2e-2 and min(lrs) < 1e-2


def test_a_best_lr_at_the_edge_is_looked_beyond_and_one_inside_is_not():
    search = Search(Recipe("adam", steps=10), space("adam", 4))
    high, inside, low = ended(2.9e-2, 0.9), ended(1e-3, 0.8), ended(1.05e-4, 0.7)
    assert all(r.knobs["lr"] > 2.9e-2 for r in search.beyond([high, inside, low], np.inf, 2))
    assert len(search.beyond([high, inside], np.inf, 2)) == 2
    assert all(r.knobs["lr"] < 1.05e-4 for r in search.beyond([low, inside, high], np.inf, 2))
    assert search.beyond([inside, high, low], np.inf, 2) == []
    assert search.beyond([high, inside], upper=search.point(high)[0] + 1e-6, n=2) == []
