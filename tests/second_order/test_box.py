"""Steps within bounds, and linear least squares within them."""

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear

from thalweg.core.objective import Evaluations
from thalweg.second_order.box import box, held, inside, outside, searched_inside
from thalweg.second_order.box_least_squares import box_least_squares
from thalweg.second_order.line_search import armijo, hager_zhang, strong_wolfe

INF = float("inf")


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_theta_plus_the_step_is_inside_as_the_dtype_adds(dtype):
    scales = 10.0 ** drawn(3000, seed=0, dtype=dtype).mul(4).clamp(-15, 15)
    a, b = scales * drawn(3000, seed=1, dtype=dtype), scales.flip(0) * drawn(3000, seed=2, dtype=dtype)
    lower, upper = torch.minimum(a, b), torch.maximum(a, b)
    theta = lower + (upper - lower) * torch.rand(3000, generator=torch.Generator().manual_seed(3), dtype=dtype)
    theta = theta.clamp(lower, upper)
    for delta in (3 * (upper - lower), 3 * (lower - upper), torch.zeros_like(theta)):
        assert not outside(theta + inside(theta, delta, lower, upper), lower, upper)


def test_a_step_that_stays_inside_is_left_as_it_is():
    theta, delta = drawn(50, seed=0), drawn(50, seed=1)
    low, high = box(theta, -INF, 10.0)
    assert torch.equal(inside(theta, delta, low, high), delta)


def test_held_are_the_variables_whose_bound_stands_in_the_way_of_the_descent():
    theta, g = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5]), torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    assert held(theta, g, torch.zeros(5), torch.ones(5)).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("search", [armijo, strong_wolfe, hager_zhang], ids=lambda search: search.__name__)
@pytest.mark.parametrize("steep", [0.3, 3.0, 40.0])
def test_a_search_within_bounds_evaluates_nothing_outside(search, steep):
    seen = []

    def f(x):
        seen.append(x.detach().clone())
        return ((x - 5) ** 2 * torch.tensor([1.0, steep])).sum()

    theta, low, high = torch.tensor([0.0, 1.0]).double(), -torch.ones(2).double(), torch.tensor([9.0, 2.0]).double()
    for d in (torch.tensor([0.1, 1.0]), torch.tensor([0.1, 0.3]), torch.tensor([9.0, 0.1]), torch.tensor([3.0, 0.0])):
        wrapped = Evaluations(f)
        value, g = wrapped.value_and_gradient(theta)
        found, delta = searched_inside(
            search, wrapped, theta, d.double(), float(value), g, 1.0, low, high, c1=1e-4, c2=0.9
        )
        assert found.value < value
        assert found.value == pytest.approx(float(f(theta + delta)), rel=1e-12)
        torch.testing.assert_close(found.g, 2 * (theta + delta - 5) * torch.tensor([1.0, steep]))
    assert not any(outside(x, low, high) for x in seen)


def test_a_search_follows_the_bounds_to_the_end_of_the_descent():
    theta, one = torch.zeros(2).double(), torch.ones(2).double()
    f = Evaluations(lambda x: -5 * x[0] + (x[1] - 0.75) ** 2)
    value, g = f.value_and_gradient(theta)
    d, c = torch.tensor([4.0, 0.5]).double(), {"c1": 1e-4, "c2": 1e-3}
    found, delta = searched_inside(
        strong_wolfe, f, theta, d, float(value), g, 1.0, -one, torch.tensor([1.0, 9.0]).double(), **c
    )
    torch.testing.assert_close(delta, torch.tensor([1.0, 0.75]).double(), rtol=0, atol=1e-3)
    assert found.g[0] == -5.0


def test_where_rounding_hides_the_descent_the_gradient_that_counts_is_that_of_the_variables_that_can_move():
    theta, one = torch.tensor([1.0, 1e-5]).double(), torch.ones(2).double()
    f = Evaluations(lambda x: 1e8 - x[0] + x[1] ** 2)
    value, g = f.value_and_gradient(theta)
    d, c = torch.tensor([0.0, -1e-5]).double(), {"c1": 1e-4, "c2": 0.9}
    _, delta = searched_inside(strong_wolfe, f, theta, d, float(value), g, 1.0, -one, one, **c)
    assert torch.equal(theta + delta, torch.tensor([1.0, 0.0]).double())


def test_a_search_ends_where_every_variable_is_at_its_bound():
    theta, one = torch.zeros(3).double(), torch.ones(3).double()
    f = Evaluations(lambda x: -x.sum() - x.sum() ** 2)
    value, g = f.value_and_gradient(theta)
    _, delta = searched_inside(strong_wolfe, f, theta, 0.3 * one, float(value), g, 1.0, -one, one, c1=1e-4, c2=0.1)
    assert torch.equal(delta, one) and f.nfev <= 4


@pytest.mark.parametrize("seed", range(12))
def test_least_squares_within_bounds_are_scipys(seed):
    m, n = 14, 9
    A = drawn(m, n, seed=seed) * 10.0 ** drawn(n, seed=50 + seed)  # badly scaled columns
    b = 3 * drawn(m, seed=100 + seed)
    spread = drawn(2, n, seed=200 + seed).abs() / A.norm(dim=0)
    lower, upper = -spread[0], spread[1]
    lower[:2], upper[2] = 0.0, 0.0  # at a bound from the first
    upper[3], lower[4] = INF, -INF
    p = box_least_squares(A, b, lower, upper)
    expected = lsq_linear(
        A.numpy(), b.numpy(), (lower.numpy(), np.maximum(upper.numpy(), lower.numpy() + 1e-300)), "bvls"
    )
    torch.testing.assert_close(p, torch.from_numpy(expected.x), rtol=1e-8, atol=1e-10)
    g = A.T @ (A @ p - b) / A.norm(dim=0)
    assert float(torch.where(held(p, g, lower, upper), 0.0, g).abs().max()) < 1e-9
    assert not outside(p, lower, upper)


def test_variables_whose_bounds_meet_stay():
    A, b = torch.eye(3).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    lower, upper = torch.tensor([0.0, -INF, -1.0]).double(), torch.tensor([0.0, INF, 1.0]).double()
    assert box_least_squares(A, b, lower, upper).tolist() == [0.0, 2.0, 1.0]
    assert box_least_squares(A, b, 0 * b, 0 * b).tolist() == [0.0, 0.0, 0.0]
