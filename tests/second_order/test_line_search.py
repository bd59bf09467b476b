"""Line searches end where their conditions hold, on the functions of Moré and Thuente's paper, or say why not."""

import math

import pytest
import torch

from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.second_order.line_search import armijo, fixed, hager_zhang, strong_wolfe, wolfe

BY_SLOPE = pytest.mark.parametrize("search", [strong_wolfe, hager_zhang])
EVERY = pytest.mark.parametrize("search", [armijo, strong_wolfe, hager_zhang])


def plateau(a, beta=0.01, l=39):  # noqa: E741 - the paper's letters
    middle = (a - 1) ** 2 / (2 * beta) + beta / 2
    ramp = torch.where(a <= 1 - beta, 1 - a, torch.where(a >= 1 + beta, a - 1, middle))
    return ramp + 2 * (1 - beta) / (l * math.pi) * torch.sin(l * math.pi / 2 * a)


def yanai(first, second):
    def gamma(beta):
        return math.sqrt(1 + beta**2) - beta

    def phi(a):
        return gamma(first) * torch.sqrt((1 - a) ** 2 + second**2) + gamma(second) * torch.sqrt(a**2 + first**2)

    return phi


# Moré and Thuente (1994), section 5: phi, mu (here c1), eta (here c2); each is started at 1e-3, 1e-1, 1e1, 1e3
PAPER = {
    "1": (lambda a: -a / (a**2 + 2), 1e-3, 0.1),
    "2": (lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4, 0.1, 0.1),
    "3": (plateau, 0.1, 0.1),
    "4": (yanai(0.001, 0.001), 1e-3, 1e-3),
    "5": (yanai(0.01, 0.001), 1e-3, 1e-3),
    "6": (yanai(0.001, 0.01), 1e-3, 1e-3),
}


def on_a_line(phi, search, alpha, dtype=torch.float64, **conditions):
    """The search along phi: R -> R from 0, what it found, its evaluations, and phi and its slope at 0 and there."""
    f = Evaluations(lambda x: phi(x[0]))
    theta, d = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    value, g = f.value_and_gradient(theta)
    found = search(f, theta, d, float(value), g, alpha, **conditions)
    evaluations = f.nfev - 1
    after, slope = f.value_and_gradient(theta + found.alpha * d)
    assert float(after) == found.value and torch.equal(slope, found.g)
    return found, evaluations, float(value), float(g[0]), float(slope[0])


@BY_SLOPE
@pytest.mark.parametrize("alpha", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("name", PAPER)
def test_wolfes_conditions_hold_where_it_ends_on_the_papers_functions(name, alpha, search):
    phi, c1, c2 = PAPER[name]
    found, evaluations, value, before, after = on_a_line(phi, search, alpha, c1=c1, c2=c2)
    assert found.status == Status.GOING_ON
    assert after >= c2 * before
    decreased = found.value <= value + c1 * found.alpha * before
    if search is strong_wolfe:
        assert decreased and abs(after) <= c2 * abs(before)
    else:
        assert decreased or (after <= (2 * c1 - 1) * before and found.value <= value + 1e-6 * abs(value))
    assert evaluations <= 18


@pytest.mark.parametrize("alpha", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("name", PAPER)
def test_armijos_condition_holds_where_it_ends_on_the_papers_functions(name, alpha):
    phi, c1, _ = PAPER[name]
    found, evaluations, value, before, _ = on_a_line(phi, armijo, alpha, c1=c1)
    assert found.status == Status.GOING_ON and 0 < found.alpha <= alpha
    assert found.value <= value + c1 * found.alpha * before
    assert evaluations <= 12


@EVERY
def test_a_good_first_step_costs_one_evaluation(search):
    found, evaluations, *_ = on_a_line(lambda a: (a - 1) ** 2, search, 0.9)
    assert found.alpha == 0.9 and evaluations == 1


@BY_SLOPE
def test_the_minimiser_of_a_parabola_is_the_second_step(search):
    found, evaluations, *_ = on_a_line(lambda a: (a - 1) ** 2, search, 5.0, c2=1e-3)
    assert found.alpha == pytest.approx(1.0, rel=1e-12) and evaluations == 2


def test_backtracking_finds_the_minimiser_of_a_parabola_from_values_alone():
    f = Evaluations(lambda x: (x[0] - 1) ** 2)
    theta, d = torch.zeros(1).double(), torch.ones(1).double()
    value, g = f.value_and_gradient(theta)
    assert armijo(f, theta, d, float(value), g, 3.0).alpha == pytest.approx(1.0, rel=1e-12)
    assert f.nfev == 3 and f.njev == 2  # the start, both steps; one gradient at the end


@EVERY
@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_what_is_not_finite_counts_as_a_wall(search, beyond):
    def phi(a):
        inside = a < 1e-6
        return torch.where(inside, (a * 1e6 - 0.5) ** 2, torch.full_like(a, beyond))

    found, evaluations, value, before, _ = on_a_line(phi, search, 1.0)
    assert found.status == Status.GOING_ON and 0 < found.alpha < 1e-6
    assert found.value <= value + 1e-4 * found.alpha * before
    assert evaluations <= 16


@EVERY
def test_a_wall_everywhere_is_not_finite_and_leaves_theta(search):
    found, *_ = on_a_line(lambda a: torch.where(a > 0, a.new_tensor(math.nan), -a), search, 1.0)
    assert found.alpha == 0.0 and found.status == Status.NOT_FINITE


@EVERY
def test_the_log_barrier_is_met_from_inside(search):
    f = Evaluations(lambda x: x.sum() - 1e-3 * torch.log(x).sum())
    theta = torch.tensor([0.5, 2.0], dtype=torch.float64)
    value, g = f.value_and_gradient(theta)
    found = search(f, theta, -g, float(value), g, 1e3)
    assert found.status == Status.GOING_ON and found.value < float(value)
    assert bool((theta - found.alpha * g > 0).all())


class Wrong:
    """x² with a gradient of the wrong sign."""

    def __call__(self, x):
        return (x * x).sum()

    def value_and_gradient(self, x):
        return (x * x).sum(), -2 * x


@EVERY
def test_a_wrong_gradient_is_a_failed_search_and_leaves_theta(search):
    f, theta = Evaluations(Wrong()), torch.tensor([1.0, 2.0])
    value, g = f.value_and_gradient(theta)
    found = search(f, theta, -g, float(value), g, 1.0)
    assert found.alpha == 0.0 and found.status == Status.LINE_SEARCH_FAILED
    assert found.value == float(value) and torch.equal(found.g, g)
    assert f.nfev <= 30  # it ends where steps are too short to be seen


@EVERY
def test_a_direction_that_does_not_descend_is_refused_without_an_evaluation(search):
    f, theta = Evaluations(lambda x: (x * x).sum()), torch.ones(2)
    value, g = f.value_and_gradient(theta)
    assert search(f, theta, g, float(value), g, 1.0).status == Status.LINE_SEARCH_FAILED
    assert search(f, theta, g, float(value), torch.zeros(2), 1.0).status == Status.CONVERGED
    assert search(f, theta, -g, math.nan, g, 1.0).status == Status.NOT_FINITE
    assert f.nfev == 1


@pytest.mark.parametrize("phi", [lambda a: -a, lambda a: -a * a - a, lambda a: -torch.exp(a)])
def test_no_bound_below_has_its_status_and_the_lowest_finite_point(phi):
    found, _, value, *_ = on_a_line(phi, strong_wolfe, 1.0)
    assert found.status == Status.UNBOUNDED
    assert math.isfinite(found.value) and found.value < value


def test_a_kink_is_a_failed_search_at_a_lower_point():
    found, *_ = on_a_line(lambda a: (a - 0.3).abs(), strong_wolfe, 1.0, c2=0.5)
    assert found.alpha == pytest.approx(0.3, abs=1e-6)
    assert found.status in (Status.LINE_SEARCH_FAILED, Status.EVALUATIONS)


@EVERY
def test_the_evaluations_given_are_not_exceeded_and_the_best_point_is_kept(search):
    phi, c1, c2 = PAPER["2"]
    found, evaluations, value, *_ = on_a_line(phi, search, 1e3, c1=c1, c2=c2, most=3)
    assert evaluations <= 3
    assert found.value < value if found.alpha else found.value == value


@EVERY
@pytest.mark.parametrize("power", [-200, 200])
def test_the_scale_of_f_makes_no_difference(search, power):
    phi, c1, c2 = PAPER["1"]
    found, evaluations, *_ = on_a_line(phi, search, 1e3, c1=c1, c2=c2)
    scaled, again, *_ = on_a_line(lambda a: 2.0**power * phi(a), search, 1e3, c1=c1, c2=c2)
    assert (scaled.alpha, scaled.status, again) == (found.alpha, found.status, evaluations)


def test_slopes_find_the_minimum_where_differences_of_values_are_rounding():
    def phi(a):  # in float32 1 + x is 1 for all x up to 6e-8
        return 1 + 1e-4 * (a - 1e-2) ** 2

    found, *_, before, after = on_a_line(phi, wolfe, 0.02, torch.float32, c1=0.1, c2=0.1)
    assert found.status == Status.GOING_ON and abs(after) <= 0.1 * abs(before)


def test_where_nothing_can_be_seen_it_has_converged():
    found, evaluations, *_ = on_a_line(lambda a: 1e8 + (a - 1e-5) ** 2, armijo, 1e-5)
    assert found.status == Status.CONVERGED and found.alpha == 0.0
    assert evaluations <= 2


def test_wolfe_is_chosen_by_the_dtype():
    phi, c1, c2 = PAPER["1"]
    for dtype, search in ((torch.float64, strong_wolfe), (torch.float32, hager_zhang)):
        found, *_ = on_a_line(phi, wolfe, 1e3, dtype, c1=c1, c2=c2)
        assert found == on_a_line(phi, search, 1e3, dtype, c1=c1, c2=c2)[0]


def test_a_fixed_step_is_taken_whatever_it_does():
    found, evaluations, value, *_ = on_a_line(lambda a: a * a - a, fixed, 3.0)
    assert found.alpha == 3.0 and found.value > value and evaluations == 1
    assert on_a_line(lambda a: torch.where(a > 0, a.new_tensor(math.nan), -a), fixed, 3.0)[0].alpha == 0.0
