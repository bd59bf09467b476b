"""BFGS against what is known of it: conjugate gradients, the inverse Hessian, the rate; and how it ends on a bad f."""

import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.minimize import minimize
from thalweg.second_order.bfgs import bfgs, bfgs_with, overstated, updated
from thalweg.second_order.line_search import Found, armijo, hager_zhang
from thalweg.second_order.linear import conjugate_gradients

MGH = Path(__file__).parents[2] / "benchmarks" / "mgh_problems.py"


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(n=6):
    """A (n, n), positive definite of condition 100, and b (n,)."""
    Q, _ = torch.linalg.qr(drawn(n, n))
    return Q @ torch.diag(torch.logspace(0, 2, n, dtype=torch.float64)) @ Q.T, drawn(n, seed=1)


def exact(A):
    """The line search that ends at the minimum of xAx/2 - bx along d."""

    def search(f, theta, d, value, g, alpha, *, c1, c2, most=1):
        alpha = -float(g @ d) / float(d @ A @ d)
        after, slope = f.value_and_gradient(theta + alpha * d)
        return Found(alpha, float(after), slope, Status.GOING_ON)

    return search


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def stepped(rule, f, theta, steps, memory=None, **knobs):
    """The points that the rule visits, the first one too, and its memory after each."""
    f, memory = Evaluations(f), rule.start(theta, **knobs) if memory is None else memory
    points, memories = [theta], [memory]
    for _ in range(steps):
        _, g = f.value_and_gradient(theta)
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, rule.with_defaults(knobs))
        theta = theta + delta
        points.append(theta)
        memories.append(memory)
    return points, memories


class Wrong:
    """The sum of the squares, with a gradient of the wrong sign."""

    def __call__(self, x):
        return (x * x).sum()

    def value_and_gradient(self, x):
        return (x * x).sum(), -2 * x


def start():
    return torch.tensor([-1.2, 1.0], dtype=torch.float64)


def test_with_an_exact_line_search_it_is_conjugate_gradients_on_a_quadratic():
    A, b = quadratic()
    solution = []
    conjugate_gradients(A, b, drawn(6, seed=2), rtol=0.0, most=6, watch=lambda i, x, r: solution.append(x) and False)
    points, _ = stepped(bfgs_with(exact(A)), lambda x: x @ A @ x / 2 - b @ x, drawn(6, seed=2), 6)
    for ours, theirs in zip(points[1:], solution, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_with_an_exact_line_search_it_finds_the_inverse_hessian_in_n_steps():
    A, b = quadratic()
    _, memories = stepped(bfgs_with(exact(A)), lambda x: x @ A @ x / 2 - b @ x, drawn(6, seed=2), 6)
    torch.testing.assert_close(memories[-1]["H"], torch.linalg.inv(A), rtol=1e-6, atol=1e-8)


def test_the_update_is_symmetric_positive_definite_and_takes_y_to_s():
    A, _ = quadratic()
    s, y = drawn(6, seed=3), A @ drawn(6, seed=3)
    H = updated(torch.linalg.inv(A + torch.eye(6).double()), s, y)
    torch.testing.assert_close(H @ y, s)
    torch.testing.assert_close(H, H.T)
    assert float(torch.linalg.eigvalsh(H)[0]) > 0


def test_the_update_is_the_product_form_of_the_book():
    A, _ = quadratic()
    H, s, y = torch.linalg.inv(A), drawn(6, seed=3), A @ drawn(6, seed=3) + 0.1 * drawn(6, seed=4)
    rho = 1 / (s @ y)
    V = torch.eye(6).double() - rho * torch.outer(y, s)
    torch.testing.assert_close(updated(H, s, y), V.T @ H @ V + rho * torch.outer(s, s))


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1e-17])
def test_a_step_without_positive_curvature_leaves_H_as_it_is(factor):
    H, s = torch.eye(3).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    y = torch.tensor([factor, 1.0, 0.0]).double()
    assert updated(H, s, y) is H and updated(None, s, y) is None and updated(H, 0 * s, y) is H


def test_the_first_H_is_the_scaled_identity_that_suits_the_first_step():
    s, y = drawn(4), drawn(4) + 3 * drawn(4)
    gamma = float(s @ y / (y @ y))
    torch.testing.assert_close(updated(None, s, y), updated(gamma * torch.eye(4).double(), s, y))


def test_curvature_is_overstated_where_the_slope_still_falls_at_a_step_of_one():
    # on x² / 2 the step of 1 that H = h proposes leaves 1 - h of the slope; the curvature is 1, H says it is 1 / h
    for h in (0.25, 0.5):
        assert overstated(1.0, 1 - h) == h
    assert overstated(1.0, -0.5) == 1.0 and overstated(1.0, 0.999) == 0.1


def test_the_rate_on_rosenbrock_is_superlinear():
    points, _ = stepped(bfgs, rosenbrock, start(), 60)
    errors = [float((x - 1).norm()) for x in points]
    last = next(k for k, error in enumerate(errors) if error < 1e-12)
    ratios = [errors[k + 1] / errors[k] for k in range(last - 4, last)]
    assert max(ratios) < 0.05  # of the Hessian, of condition 2500, steepest descent makes 0.999
    assert errors[last] < errors[last - 4] ** 3


@pytest.mark.parametrize("rule", [bfgs, bfgs_with(armijo), bfgs_with(hager_zhang)], ids=["wolfe", "armijo", "hz"])
def test_it_solves_rosenbrock_with_any_line_search(rule):
    result = minimize(rosenbrock, start(), method=rule)
    assert result.success
    torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0.0, atol=1e-6)


def test_in_float32_it_solves_rosenbrock():
    result = minimize(rosenbrock, start().float(), method=bfgs)
    assert result.success
    torch.testing.assert_close(result.x, torch.ones(2), rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("power", [-100, 100])
def test_the_scale_of_f_changes_no_bit_of_the_trajectory(power):
    plain, _ = stepped(bfgs, rosenbrock, start(), 30)
    scaled, _ = stepped(bfgs, lambda x: 2.0**power * rosenbrock(x), start(), 30)
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


@pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("x0", [[1.0, 1.0], [10.0, 0.1], [0.5, 2.0]])
def test_it_solves_a_log_barrier_from_inside(mu, x0):
    result = minimize(lambda x: x[0] + 2 * x[1] - mu * torch.log(x).sum(), torch.tensor(x0).double(), method=bfgs)
    assert result.success
    torch.testing.assert_close(result.x, torch.tensor([mu, mu / 2]).double(), rtol=1e-4, atol=0.0)


def test_its_failures_have_names_and_leave_the_last_good_point():
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    unbounded = minimize(lambda x: -(x**2).sum() - x[0], x0, method=bfgs)
    assert unbounded.status == Status.UNBOUNDED and math.isfinite(unbounded.fun) and unbounded.fun < -1e20
    wrong = minimize(lambda x: (x**2).sum(), x0, jac=lambda x: -2 * x, method=bfgs)
    assert wrong.status == Status.LINE_SEARCH_FAILED and torch.equal(wrong.x, x0)
    nowhere = minimize(lambda x: (x**2).sum() * math.nan, x0, method=bfgs)
    assert nowhere.status == Status.NOT_FINITE and torch.equal(nowhere.x, x0)
    walled = minimize(lambda x: torch.where(x[0] == 1, x[0], math.nan * x[0]), x0, method=bfgs)
    assert walled.status == Status.NOT_FINITE and torch.equal(walled.x, x0)


def test_where_rounding_hides_what_is_left_it_has_converged():
    result = minimize(lambda x: 1e8 + (x - 0.3).square().sum(), torch.ones(2).double(), method=bfgs, tol=1e-14)
    assert result.status == Status.CONVERGED
    torch.testing.assert_close(result.x, torch.full((2,), 0.3).double(), rtol=0.0, atol=1e-3)


def test_after_a_failed_search_H_is_forgotten_and_the_steepest_descent_taken():
    uphill = -torch.eye(2).double()
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64)
    delta, memory = bfgs.step(
        {"g": 2 * theta, "theta": theta, "f": lambda x: (x * x).sum()}, {"H": uphill, "status": -1}, bfgs.knobs
    )
    assert float(delta @ theta) < 0 and memory["status"] == Status.GOING_ON
    assert float(torch.linalg.eigvalsh(memory["H"])[0]) > 0


def test_where_nothing_lower_is_found_H_is_forgotten():
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64)
    seen = {"g": -2 * theta, "theta": theta, "f": Wrong()}
    delta, memory = bfgs.step(seen, {"H": torch.eye(2).double(), "status": -1}, bfgs.knobs)
    assert not delta.any() and memory == {"H": None, "status": Status.LINE_SEARCH_FAILED}


def test_a_failed_search_for_what_rounding_hides_is_no_failure():
    theta = torch.tensor([1.0], dtype=torch.float64)

    def f(x):
        return 1 + 1e-9 * x.sum()

    for scale, status in ((1e-6, Status.CONVERGED), (1e9, Status.LINE_SEARCH_FAILED)):
        seen = {"g": torch.tensor([-1e-9]).double(), "theta": theta, "f": f}
        _, memory = bfgs.step(seen, {"H": scale * torch.eye(1).double(), "status": -1}, bfgs.knobs)
        assert memory["status"] == status


def test_H_is_enlarged_in_all_directions_where_the_step_shows_that_it_is_small():
    theta = torch.tensor([1.0, 0.0], dtype=torch.float64)
    seen = {"g": theta, "theta": theta, "f": lambda x: x @ x / 2}
    _, memory = bfgs.step(seen, {"H": 0.25 * torch.eye(2).double(), "status": -1}, bfgs.knobs)
    torch.testing.assert_close(memory["H"], torch.eye(2).double())


def test_resumed_from_json_and_safetensors_it_goes_on_bit_for_bit():
    points, memories = stepped(bfgs, rosenbrock, start(), 12)
    tensors = load(save({"H": memories[6]["H"]}))
    memory = {**tensors, **json.loads(json.dumps({"status": memories[6]["status"]}, allow_nan=False))}
    again, _ = stepped(bfgs, rosenbrock, points[6], 6, memory)
    assert all(torch.equal(a, b) for a, b in zip(points[6:], again, strict=True))


def test_what_it_is_given_is_not_changed():
    theta, H = start(), torch.eye(2).double()
    f = Evaluations(rosenbrock)
    _, g = f.value_and_gradient(theta)
    kept = theta.clone(), g.clone(), H.clone()
    bfgs.step({"g": g, "theta": theta, "f": f}, {"H": H, "status": -1}, bfgs.knobs)
    assert all(map(torch.equal, kept, (theta, g, H)))


def test_a_step_whose_first_trial_is_good_costs_one_evaluation():
    f = Evaluations(lambda x: (x * x).sum())
    theta = torch.ones(2).double()
    _, g = f.value_and_gradient(theta)
    delta, _ = bfgs.step({"g": g, "theta": theta, "f": f}, {"H": 0.5 * torch.eye(2).double(), "status": -1}, bfgs.knobs)
    f.value_and_gradient(theta + delta)
    assert (f.nfev, f.njev) == (2, 2)


def test_it_solves_thirty_four_of_the_thirty_five_problems_in_two_thousand_evaluations():
    problems = runpy.run_path(str(MGH))["PROBLEMS"]
    options = {"gtol": 1e-6, "maxiter": 2000, "maxfev": 2000}
    results = [minimize(problem.objective, problem.x0, method=bfgs, options=options) for problem in problems]
    missed = [problem.name for problem, r in zip(problems, results, strict=True) if not problem.solved(r.fun)]
    assert missed in ([], ["Watson"])
    assert sum(r.nfev for r in results) < 2600
