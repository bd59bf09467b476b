"""Gauss-Newton: exact where the residuals are linear, quadratic where they vanish, named ends where it has none."""

import pytest
import torch

from thalweg.core.errors import CurvatureError
from thalweg.core.objective import Evaluations, LeastSquares
from thalweg.core.status import Status
from thalweg.minimize import minimize
from thalweg.second_order.gauss_newton import gauss_newton, gauss_newton_with, least_change
from thalweg.second_order.line_search import armijo, fixed, hager_zhang, strong_wolfe


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def one_step(residuals, theta, rule=gauss_newton):
    f = Evaluations(LeastSquares(residuals))
    _, g = f.value_and_gradient(theta)
    delta, memory = rule.step({"g": g, "theta": theta, "f": f}, rule.start(theta), rule.knobs)
    return delta, memory["status"]


def exponential(x):
    t = torch.linspace(0, 2, 8).double()
    return x[0] * (-x[1] * t).exp() - 3 * (-1.5 * t).exp()


@pytest.mark.parametrize("search", [armijo, strong_wolfe, hager_zhang, fixed], ids=lambda search: search.__name__)
def test_linear_least_squares_are_solved_in_one_step(search):
    A, b = drawn(12, 5, seed=0) * 10 ** torch.linspace(-6, 6, 5).double(), drawn(12, seed=1)
    delta, status = one_step(lambda x: A @ x - b, torch.zeros(5).double(), gauss_newton_with(search))
    expected = torch.linalg.lstsq(A / A.norm(dim=0), b[:, None]).solution[:, 0] / A.norm(dim=0)
    torch.testing.assert_close(delta, expected, rtol=1e-10, atol=0.0)
    assert status == Status.GOING_ON


def test_the_least_change_is_the_shortest_in_units_of_the_columns():
    J, r = drawn(8, 2, seed=0) @ drawn(2, 5, seed=1), drawn(8, seed=2)
    units = J.norm(dim=0)
    expected = -(torch.linalg.pinv(J / units) @ r) / units
    torch.testing.assert_close(least_change(J, r), expected, rtol=1e-9, atol=1e-12)
    assert least_change(torch.zeros(3, 2).double(), torch.ones(3).double()).tolist() == [0.0, 0.0]


def test_what_only_rounding_makes_of_full_rank_is_nothing():
    J, r = drawn(8, 2, seed=0) @ drawn(2, 5, seed=1), drawn(8, seed=2)
    exact = least_change(J, r)
    torch.testing.assert_close(least_change(J.float(), r.float()).double(), exact, rtol=1e-4, atol=1e-5)


def test_with_residuals_that_vanish_it_converges_quadratically():
    theta, solution, distances = torch.tensor([2.5, 1.2]).double(), torch.tensor([3.0, 1.5]).double(), []
    for _ in range(4):
        theta = theta + one_step(exponential, theta)[0]
        distances.append(float((theta - solution).norm()))
    assert distances[2] < 5 * distances[1] ** 2 and distances[3] < 1e-9


def test_units_of_parameters_and_residuals_make_no_difference():
    units, theta = torch.tensor([2.0**30, 2.0**-30]).double(), torch.tensor([1.0, 0.5]).double()
    delta, _ = one_step(exponential, theta)
    other, _ = one_step(lambda z: 2.0**-40 * exponential(z * units), theta / units)
    torch.testing.assert_close(other * units, delta, rtol=1e-12, atol=0.0)


def test_it_fits_in_float32():
    found = minimize(lambda x: exponential(x.double()).float(), torch.tensor([1.0, 0.5]), method=gauss_newton)
    torch.testing.assert_close(found.x, torch.tensor([3.0, 1.5]), rtol=1e-4, atol=0.0)


def test_where_the_residuals_are_no_number_the_step_shrinks():
    found = minimize(lambda x: x[:1].log() - 1, torch.tensor([30.0]).double(), method=gauss_newton)
    assert found.success
    torch.testing.assert_close(found.x, torch.ones(1).double().exp(), rtol=1e-6, atol=0.0)


def test_ends_have_names():
    _, status = one_step(lambda x: x * float("nan"), torch.ones(2).double())
    assert status == Status.NOT_FINITE
    delta, status = one_step(lambda x: torch.stack([x[0], x[0] - 2]), torch.ones(1).double())
    assert status == Status.CONVERGED and not delta.any()
    theta = torch.ones(2)
    with pytest.raises(CurvatureError, match="residuals"):
        gauss_newton.step({"g": theta, "theta": theta, "f": Evaluations(torch.sum)}, {"status": -1}, gauss_newton.knobs)
