import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from thalweg.core.derivatives import Product, hessian
from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.second_order.line_search import armijo, hager_zhang, strong_wolfe
from thalweg.second_order.newton import direction, newton, newton_with
from thalweg.second_order.newton_cg import direction as truncated
from thalweg.second_order.newton_cg import newton_cg, newton_cg_with
from thalweg.second_order.saddle_free_newton import saddle_free_newton

RULES = [newton, newton_cg, saddle_free_newton]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
START = torch.tensor([-1.2, 1.0], dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def convex(x):
    return torch.logsumexp(torch.stack([x[0], -x[0], 2 * x[1], -x[1]]), 0) + (x[0] - 1) ** 2 / 20


def positive(n=8, seed=0):
    Q = torch.linalg.qr(drawn(n, n, seed=seed)).Q
    return Q @ torch.diag(torch.logspace(-1, 2, n, dtype=torch.float64)) @ Q.T


def followed(rule, f, theta, steps=200, memory=None, gtol=0.0, **knobs):
    """Where the rule ends, the path there, its memory and its status."""
    f = f if isinstance(f, Evaluations) else Evaluations(f)
    memory = rule.start(theta, **knobs) if memory is None else memory
    path = [theta]
    for _ in range(steps):
        _, g = f.value_and_gradient(theta)
        if float(g.abs().max()) <= gtol:
            break
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, rule.with_defaults(knobs))
        theta = theta + delta
        path.append(theta)
        if memory["status"] != Status.GOING_ON:
            break
    return SimpleNamespace(theta=theta, path=path, memory=memory, status=Status(memory["status"]), f=f)


@pytest.mark.parametrize("rule", [newton, saddle_free_newton], ids=lambda rule: rule.name)
def test_a_quadratic_is_one_step(rule):
    H, b = positive(), drawn(8, seed=1)
    end = followed(rule, lambda x: x @ H @ x / 2 - b @ x, drawn(8, seed=2), steps=1)
    torch.testing.assert_close(end.theta, torch.linalg.solve(H, b))


@pytest.mark.parametrize("rule", [newton, newton_with(armijo)], ids=["wolfe", "armijo"])
def test_where_the_hessian_is_positive_newtons_path_is_the_same_in_any_coordinates(rule):
    A = torch.tensor([[3.0, 1.0], [-200.0, 5.0]], dtype=torch.float64)
    theta = torch.tensor([4.0, -1.0], dtype=torch.float64)
    plain = followed(rule, convex, theta, steps=6)
    turned = followed(rule, lambda z: convex(A @ z), torch.linalg.solve(A, theta), steps=6)
    for x, z in zip(plain.path, turned.path, strict=True):
        torch.testing.assert_close(A @ z, x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_convergence_is_faster_than_linear_and_newtons_is_quadratic(rule):
    minimum = followed(newton, convex, torch.zeros(2, dtype=torch.float64)).theta
    end = followed(rule, convex, torch.tensor([0.6, 0.4], dtype=torch.float64), steps=12)
    errors = [float((x - minimum).norm()) for x in end.path]
    orders = [math.log(b) / math.log(a) for a, b in itertools.pairwise(errors) if 1e-12 < b < a < 0.1]
    assert orders and orders[-1] > (1.3 if rule is newton_cg else 1.7)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_walks_the_banana_valley_to_its_end_and_says_so(rule, dtype):
    end = followed(rule, lambda x: rosenbrock(x) + 1, START.to(dtype))  # f* is 1: rounding is felt
    assert end.status == Status.CONVERGED and end.f.nfev < 120
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=dtype), rtol=0.0, atol=torch.finfo(dtype).eps ** 0.5)


@every_rule
def test_the_scale_of_f_makes_no_difference(rule):
    reference = followed(rule, rosenbrock, START, steps=10)
    for scale in (1e-12, 1e12):
        scaled = followed(rule, lambda x, scale=scale: scale * rosenbrock(x), START, steps=10)
        for one, other in zip(reference.path, scaled.path, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@every_rule
def test_every_step_descends_from_where_the_hessian_is_indefinite(rule):
    def f(x):
        return (x**4 - 3 * x**2).sum() + x.prod()

    theta = 0.1 * drawn(4, seed=3)
    assert float(torch.linalg.eigvalsh(hessian(f, theta))[0]) < 0
    end = followed(rule, f, theta, gtol=1e-8)
    values = [float(f(x)) for x in end.path]
    assert all(b < a + 1e-14 for a, b in itertools.pairwise(values))
    assert float(torch.linalg.eigvalsh(hessian(f, end.theta))[0]) > 0


@pytest.mark.parametrize("search", [armijo, strong_wolfe, hager_zhang], ids=lambda search: search.__name__)
@pytest.mark.parametrize("made", [newton_with, newton_cg_with], ids=lambda made: made.__name__)
def test_any_line_search_serves(made, search):
    end = followed(made(search), rosenbrock, START, gtol=1e-8)
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=torch.float64))


# Newton's direction


def test_where_the_hessian_is_positive_it_is_newtons():
    H, g = positive(), drawn(8, seed=1)
    torch.testing.assert_close(direction(H, g), -torch.linalg.solve(H, g))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_lowest_eigenvalue_is_turned_into_its_opposite(scale):
    H, g = torch.diag(torch.tensor([4.0, 1.0, -2.0])).double(), torch.tensor([8.0, 5.0, 4.0]).double()
    torch.testing.assert_close(direction(scale * H, scale * g), -g / torch.tensor([8.0, 5.0, 2.0]))


def test_it_descends_whatever_the_hessian():
    for values in ([1.0, 0.0, 0.0], [1.0, -1e-20, 0.0], [-1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]):
        g = torch.ones(3)
        d = direction(torch.diag(torch.tensor(values)), g)
        assert bool(d.isfinite().all()) and float(g @ d) < 0


def test_columns_of_very_different_scales_keep_their_digits():
    D = torch.logspace(-6, 6, 5, dtype=torch.float64)
    M = (torch.eye(5) + 0.1).double()
    expected = torch.linalg.solve(M, -torch.ones(5, dtype=torch.float64)) / D
    torch.testing.assert_close(direction(D[:, None] * M * D, D), expected, rtol=1e-12, atol=0.0)


def test_there_is_none_where_the_hessian_is_zero_or_no_number():
    assert direction(torch.zeros(2, 2), torch.ones(2)) is None
    assert direction(torch.eye(2) * math.nan, torch.ones(2)) is None
    assert truncated(lambda u: u * math.nan, torch.ones(2), torch.ones(2), 0.1) is None


# Newton-CG


def test_conjugate_gradients_stop_where_the_residual_is_small_enough():
    H, g = positive(), drawn(8, seed=1)
    for rtol in (0.5, 1e-2, 1e-8):
        d = truncated(H.mv, g, torch.zeros_like(g), rtol)
        assert float((H @ d + g).norm()) <= rtol * float(g.norm())


def test_at_first_the_system_is_solved_roughly_and_near_the_minimum_well():
    H = positive(20)
    f = Evaluations(lambda x: x @ H @ x / 2 + (x**4).sum() / 24)
    costs, memory, theta = [], newton_cg.start(drawn(20)), drawn(20)
    for _ in range(6):
        before, (_, g) = f.nhev, f.value_and_gradient(theta)
        delta, memory = newton_cg.step({"g": g, "theta": theta, "f": f}, memory, newton_cg.knobs)
        theta = theta + delta
        costs.append(f.nhev - before)
    assert costs[0] < 8 and costs[0] < costs[-1]


def test_a_direction_of_negative_curvature_is_followed_as_far_as_positive_would_allow():
    H, g = torch.diag(torch.tensor([-4.0, -4.0])), torch.tensor([8.0, 4.0])
    torch.testing.assert_close(truncated(H.mv, g, torch.zeros(2), 0.1), torch.tensor([-2.0, -1.0]))


def test_where_f_is_linear_the_step_is_as_long_as_theta():
    d = truncated(torch.zeros_like, torch.tensor([0.0, 7.0]), torch.tensor([3.0, 4.0]), 0.1)
    torch.testing.assert_close(d, torch.tensor([0.0, -5.0]))


# Ends


@pytest.mark.parametrize("rule", [newton, newton_cg], ids=lambda rule: rule.name)
def test_a_rough_solution_that_promises_nothing_is_not_taken_for_the_end(rule):
    # conjugate gradients are content with the first component, whose share of f is below rounding
    def f(x):
        return 1 + (1e8 * x[0] ** 2 + x[1] ** 2) / 2

    end = followed(rule, f, torch.tensor([1e-12, 5e-6], dtype=torch.float64))
    assert float(end.theta.norm()) < 1e-9


@every_rule
def test_it_goes_on_bit_by_bit_from_what_it_remembers(rule):
    whole = followed(rule, rosenbrock, START, steps=6)
    half = followed(rule, rosenbrock, START, steps=3)
    again = followed(rule, rosenbrock, half.theta, steps=3, memory=json.loads(json.dumps(half.memory)))
    assert torch.equal(whole.theta, again.theta) and whole.memory == again.memory


@every_rule
def test_what_is_no_number_is_contracted_away_from(rule):
    end = followed(rule, lambda x: -torch.log(x).sum() + x.sum(), torch.tensor([0.1, 5.0]).double())
    assert end.status == Status.CONVERGED
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=torch.float64), atol=1e-7, rtol=0.0)


@every_rule
def test_a_start_that_is_no_number_is_named(rule):
    theta = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    end = followed(rule, lambda x: torch.log(x).sum(), theta, steps=3)
    assert end.status == Status.NOT_FINITE and torch.equal(end.theta, theta)


@every_rule
def test_an_f_that_falls_for_ever_is_named(rule):
    end = followed(rule, lambda x: -((x + 1) ** 2).sum(), torch.ones(2, dtype=torch.float64))
    assert end.status == Status.UNBOUNDED and bool(end.theta.isfinite().all())


class Wrong:
    """A quadratic whose gradient points uphill."""

    def __call__(self, theta):
        return (theta * theta).sum()

    def value_and_gradient(self, theta):
        return self(theta), -2 * theta

    def hessian_at(self, theta):
        return Product(lambda u: 2 * u)


@every_rule
def test_a_gradient_that_is_wrong_is_named_and_theta_stays(rule):
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    end = followed(rule, Wrong(), theta)
    assert end.status == Status.LINE_SEARCH_FAILED and torch.equal(end.theta, theta)


class NoHessian(Wrong):
    """The gradient is right, the Hessian is no number."""

    def value_and_gradient(self, theta):
        return self(theta), 2 * theta

    def hessian_at(self, theta):
        return Product(lambda u: u * math.nan)


@every_rule
def test_where_the_hessian_is_no_number_it_goes_down_the_steepest_descent(rule):
    end = followed(rule, NoHessian(), torch.tensor([1.0, 2.0], dtype=torch.float64), gtol=1e-6)
    assert float(end.theta.norm()) < 1e-6


@every_rule
def test_nothing_that_is_given_changes(rule):
    theta = START.clone()
    f = Evaluations(rosenbrock)
    g = f.value_and_gradient(theta)[1]
    kept = g.clone()
    rule.step({"g": g, "theta": theta, "f": f}, rule.start(theta), rule.knobs)
    assert torch.equal(theta, START) and torch.equal(g, kept)
