"""Levenberg-Marquardt: exact where the residuals are linear, optimal in its region, at ease with scales and bounds."""

import runpy
from pathlib import Path

import pytest
import torch
from scipy.optimize import least_squares, lsq_linear

from thalweg.core.errors import CurvatureError
from thalweg.core.objective import Evaluations, LeastSquares
from thalweg.core.status import Status
from thalweg.minimize import minimize
from thalweg.second_order.box import outside
from thalweg.second_order.levenberg_marquardt import levenberg_marquardt, resized

PROBLEMS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "mgh_problems.py"))["PROBLEMS"]
INF = float("inf")


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def one_step(residuals, theta, memory=None, **knobs):
    f = Evaluations(LeastSquares(residuals))
    _, g = f.value_and_gradient(theta)
    memory = levenberg_marquardt.start(theta, **knobs) if memory is None else memory
    return levenberg_marquardt.step({"g": g, "theta": theta, "f": f}, memory, levenberg_marquardt.with_defaults(knobs))


def steps(residuals, theta, count, **knobs):
    memory, path = None, [theta]
    for _ in range(count):
        delta, memory = one_step(residuals, path[-1], memory, **knobs)
        path.append(path[-1] + delta)
    return torch.stack(path), memory


def rosenbrock(x):
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


@pytest.mark.parametrize("scales", [0.0, 6.0], ids=["even", "columns from 1e-6 to 1e6"])
def test_linear_least_squares_are_solved_in_one_step(scales):
    A = drawn(12, 5, seed=0) * 10 ** torch.linspace(-scales, scales, 5).double()
    b = drawn(12, seed=1)
    delta, _ = one_step(lambda x: A @ x - b, torch.zeros(5).double())
    expected = torch.linalg.lstsq(A / A.norm(dim=0), b[:, None]).solution[:, 0] / A.norm(dim=0)
    torch.testing.assert_close(delta, expected, rtol=1e-10, atol=0.0)


def test_without_full_rank_the_step_is_a_minimum_and_finite():
    A, b = drawn(8, 2, seed=0) @ drawn(2, 5, seed=1), drawn(8, seed=2)
    delta, _ = one_step(lambda x: A @ x - b, drawn(5, seed=3))
    theta = drawn(5, seed=3) + delta
    assert float((A.T @ (A @ theta - b)).abs().max()) < 1e-10
    still, memory = one_step(lambda x: torch.cat([A @ x[:5] - b, 0 * x[5:]]), torch.cat([theta, theta[:1]]))
    assert not still.any() and memory["status"] == Status.CONVERGED


@pytest.mark.parametrize("seed", range(6))
def test_a_step_at_the_radius_is_the_minimum_of_the_model_in_the_scaled_region(seed):
    theta, radius = drawn(4, seed=seed), 0.05
    W = drawn(9, 4, seed=10 + seed) * 10.0 ** drawn(4, seed=20 + seed)

    def residuals(x):
        return torch.sin(W @ x) - 3.0

    J = torch.func.jacrev(residuals)(theta)
    D, g = J.norm(dim=0), J.T @ residuals(theta)
    gauss_newton = torch.linalg.lstsq(J / D, -residuals(theta)[:, None]).solution[:, 0]
    p, memory = one_step(residuals, theta, radius=radius)
    torch.testing.assert_close(memory["D"], D)
    size = float((D * p).norm())
    assert size <= radius * float(gauss_newton.norm()) * (1 + 1e-12)
    # the conditions of Moré and Sorensen: (JᵀJ + damping D²) p = -g for a damping that is not negative
    left, pull = -(g + J.T @ (J @ p)) / D, D * p
    damping = float(left @ pull) / size**2
    assert damping > 0
    torch.testing.assert_close(left, damping * pull, rtol=1e-8, atol=1e-10 * float(left.norm()))


def test_the_columns_largest_lengths_are_remembered():
    path, memory = steps(rosenbrock, torch.tensor([-1.2, 1.0]).double(), 9)
    columns = torch.stack([torch.func.jacrev(rosenbrock)(x).norm(dim=0) for x in path[:-1]])
    torch.testing.assert_close(memory["D"], columns.amax(0))


def test_units_of_the_parameters_make_no_difference():
    units = torch.tensor([2.0**40, 2.0**-30]).double()
    path, _ = steps(rosenbrock, torch.tensor([-1.2, 1.0]).double(), 12)
    other, _ = steps(lambda z: rosenbrock(z * units), path[0] / units, 12)
    torch.testing.assert_close(other * units, path, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("power", [-40, 40])
def test_the_scale_of_the_residuals_makes_no_difference(power):
    path, _ = steps(rosenbrock, torch.tensor([-1.2, 1.0]).double(), 12)
    other, _ = steps(lambda x: 2.0**power * rosenbrock(x), path[0], 12)
    assert torch.equal(other, path)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_every_problem_of_more_garbow_and_hillstrom_is_solved_from_its_start(problem):
    found = minimize(problem.residuals, problem.x0, method=levenberg_marquardt, options={"gtol": 1e-8, "maxfev": 2000})
    assert found.success and problem.solved(2 * found.fun)


def test_where_the_start_is_the_solution_it_says_so():
    gulf = PROBLEMS[10]
    delta, memory = one_step(gulf.residuals, 10 * gulf.x0)
    assert memory["status"] == Status.CONVERGED and not delta.any()


def test_it_converges_in_float32():
    x0 = torch.tensor([-1.2, 1.0])
    found = minimize(rosenbrock, x0, method=levenberg_marquardt)
    assert found.success and found.x.dtype == torch.float32
    torch.testing.assert_close(found.x, torch.ones(2), rtol=1e-5, atol=0.0)


def test_the_radius_changes_smoothly_with_the_agreement():
    ratios = [-50.0, -3.0, -1e-9, 1e-9, 0.3, 0.5, 0.7, 0.999, 1.0, 7.0]
    radii = [resized(1.0, ratio, 1.0) for ratio in ratios]
    assert radii == sorted(radii) and radii[0] == 0.1 and radii[-1] == 3.0
    assert radii[2] == pytest.approx(radii[3]) == pytest.approx(0.5)
    assert resized(8.0, 1.0, 1.0) == 8.0  # a short step that went well is no reason to shrink


def test_where_the_residuals_are_no_number_the_region_shrinks():
    found = minimize(
        lambda x: torch.stack([x[0].log() - 1, x[0].sqrt() - 3]), torch.tensor([400.0]).double(), method="lm"
    )
    assert found.success and 0 < float(found.x) < 9


@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_residuals_that_are_no_number_are_named_and_nothing_moves(bad):
    delta, memory = one_step(lambda x: x * bad, torch.ones(2).double())
    assert memory["status"] == Status.NOT_FINITE and not delta.any()
    found = minimize(lambda x: torch.where(x == 1, x, torch.nan), torch.ones(1).double(), method="lm")
    assert found.status == Status.RADIUS_COLLAPSED and found.x.tolist() == [1.0]


def test_an_objective_without_residuals_is_refused():
    f, theta = Evaluations(lambda x: x.square().sum()), torch.ones(2)
    with pytest.raises(CurvatureError, match="residuals"):
        levenberg_marquardt.step({"g": theta, "theta": theta, "f": f}, levenberg_marquardt.start(theta), {})


# Bounds


@pytest.mark.parametrize("seed", range(8))
def test_linear_least_squares_within_bounds_are_solved_in_one_step(seed):
    A, b = drawn(15, 7, seed=seed) * 10.0 ** drawn(7, seed=40 + seed), drawn(15, seed=80 + seed)
    spread = drawn(2, 7, seed=60 + seed).abs() / A.norm(dim=0)
    lower, upper = -spread[0], spread[1]
    knobs = {"lower": lower, "upper": upper}
    path, _ = steps(lambda x: A @ x - b, torch.zeros(7).double(), 1, **knobs)
    expected = lsq_linear(A.numpy(), b.numpy(), (lower.numpy(), upper.numpy()), method="bvls", tol=1e-14)
    torch.testing.assert_close(path[-1], torch.from_numpy(expected.x), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    "bounds",
    [
        ([-2.0, -2.0], [0.5, 2.0]),
        ([-2.0, 1.5], [2.0, 3.0]),
        ([-1.5, -INF], [INF, 0.3]),
        ([-1.5, 0.2], [-0.5, 3.0]),
    ],
)
def test_rosenbrock_within_bounds_ends_where_scipy_ends_and_karush_kuhn_and_tucker_hold(bounds):
    lower, upper = (torch.tensor(b).double() for b in bounds)
    x0 = torch.tensor([-1.2, 1.0]).double().clamp(lower, upper)
    found = minimize(rosenbrock, x0, method=levenberg_marquardt, bounds=(lower, upper), options={"return_all": True})
    expected = least_squares(
        lambda x: rosenbrock(torch.from_numpy(x)).numpy(), x0.numpy(), "3-point", (lower.numpy(), upper.numpy()),
        "dogbox", xtol=1e-14, ftol=1e-14, gtol=1e-12,
    )  # fmt: skip
    torch.testing.assert_close(found.x, torch.from_numpy(expected.x), rtol=1e-6, atol=1e-6)
    at_lower, at_upper = found.x == lower, found.x == upper
    assert found.success and bool((at_lower | at_upper).any())
    assert bool((found.jac[at_lower] >= 0).all() and (found.jac[at_upper] <= 0).all())
    assert float(found.jac[~at_lower & ~at_upper].abs().sum()) < 1e-5
    assert not any(outside(x, lower, upper) for x in found.allvecs)


@pytest.mark.parametrize("seed", range(5))
def test_at_the_radius_the_step_is_the_minimum_of_the_damped_model_over_the_box(seed):
    theta, W = drawn(4, seed=seed), drawn(9, 4, seed=10 + seed)

    def residuals(x):
        return torch.sin(W @ x) - 3.0

    free, _ = one_step(residuals, theta, radius=0.05)
    first = torch.arange(4) < 2
    lower, upper = (theta + sign * torch.where(first, free.abs() / 2, 9.0) for sign in (-1, 1))
    p, memory = one_step(residuals, theta, radius=0.05, lower=lower, upper=upper)
    J, D = torch.func.jacrev(residuals)(theta), memory["D"]
    left = -(J.T @ residuals(theta) + J.T @ (J @ p))
    inner = (theta + p > lower) & (theta + p < upper)
    assert bool(inner.any()) and not bool(inner.all())
    damping = left[inner] / (D * D * p)[inner]
    assert float(damping.min()) > 0
    torch.testing.assert_close(damping, damping[:1].expand_as(damping), rtol=1e-6, atol=0.0)
    push = left - damping[0] * D * D * p
    assert bool((push[theta + p == lower] <= 1e-9).all() and (push[theta + p == upper] >= -1e-9).all())


def test_variables_that_are_held_do_not_count_in_the_radius():
    x0 = torch.tensor([0.0, -1.2, 1.0]).double()

    def residuals(x):
        return torch.cat([1e4 * (x[:1] - 10 + x[1:2] / 100), rosenbrock(x[1:])])

    bounded = minimize(residuals, x0, method="lm", bounds=[(None, 0), (None, None), (None, None)])
    alone = minimize(lambda x: residuals(torch.cat([x0[:1], x])), x0[1:], method="lm")
    torch.testing.assert_close(bounded.x[1:], alone.x, rtol=1e-6, atol=1e-6)
    assert bounded.success and bounded.nfev == alone.nfev


def test_a_start_outside_the_bounds_is_put_in_and_numbers_are_bounds_too():
    path, memory = steps(lambda x: x + 3, torch.tensor([5.0, 0.0]).double(), 3, lower=-1.0, upper=2.0)
    assert path[1].tolist() == [2.0, 0.0] and path[-1].tolist() == [-1.0, -1.0]
    assert memory["status"] == Status.CONVERGED
