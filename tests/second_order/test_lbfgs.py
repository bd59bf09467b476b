"""L-BFGS is BFGS of the last pairs: against the whole matrix, conjugate gradients, scales of f, and its failures."""

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
from thalweg.second_order.bfgs import updated
from thalweg.second_order.lbfgs import lbfgs, lbfgs_with, remembered, two_loop
from thalweg.second_order.line_search import Found, fixed

MGH = Path(__file__).parents[2] / "benchmarks" / "mgh_problems.py"


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pairs(m=5, n=4):
    """Pairs (m, n) of a function whose Hessian is not constant, and one over their products."""
    S = drawn(m, n)
    Y = torch.stack([(torch.eye(n) + k * torch.outer(s, s)) @ s for k, s in enumerate(S)])
    return S, Y, 1 / (S * Y).sum(dim=1)


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def start():
    return torch.tensor([-1.2, 1.0], dtype=torch.float64)


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


def test_the_two_loops_are_bfgs_from_the_same_scaled_identity():
    S, Y, rho = pairs()
    H, g = 0.7 * torch.eye(4).double(), drawn(4, seed=9)
    for s, y in zip(S, Y, strict=True):
        H = updated(H, s, y)
    torch.testing.assert_close(two_loop(g, S, Y, rho, 0.7), H @ g)


def test_the_two_loops_begin_with_the_scale_of_the_newest_pair():
    S, Y, rho = pairs()
    g, gamma = drawn(4, seed=9), float(S[-1] @ Y[-1] / (Y[-1] @ Y[-1]))
    torch.testing.assert_close(two_loop(g, S, Y, rho), two_loop(g, S, Y, rho, gamma))


def test_places_without_a_pair_count_for_nothing():
    S, Y, rho = pairs(3)
    g, empty = drawn(4, seed=9), torch.zeros(2, 4).double()
    padded = torch.cat([empty, S]), torch.cat([empty, Y]), torch.cat([torch.zeros(2).double(), rho])
    assert torch.equal(two_loop(g, *padded), two_loop(g, S, Y, rho))


def test_the_length_of_a_pair_makes_no_difference():
    S, Y, rho = pairs()
    factors = torch.logspace(-3, 3, 5, dtype=torch.float64)[:, None]
    g = drawn(4, seed=9)
    torch.testing.assert_close(
        two_loop(g, factors * S, factors * Y, rho / factors[:, 0] ** 2), two_loop(g, S, Y, rho), rtol=1e-10, atol=0.0
    )


def test_the_newest_pair_takes_the_place_of_the_oldest():
    S, Y, rho = pairs(3)
    s, y = torch.tensor([0.0, 2.0, 0.0, 0.0]).double(), torch.tensor([0.0, 1.0, 3.0, 0.0]).double()
    now = remembered(S, Y, rho, s, y)
    torch.testing.assert_close(now[0], torch.stack([S[1], S[2], s / 2]))
    torch.testing.assert_close(now[1], torch.stack([Y[1], Y[2], y / 2]))
    torch.testing.assert_close(now[2], torch.tensor([float(rho[1]), float(rho[2]), 2.0]).double())


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1e-17, math.nan])
def test_a_pair_without_positive_curvature_is_left_out(factor):
    history = pairs(3)
    s, y = torch.tensor([1.0, 0.0, 0.0, 0.0]).double(), torch.tensor([factor, 1.0, 0.0, 0.0]).double()
    assert remembered(*history, s, y) == history and remembered(*history, 0 * s, y) == history


def test_with_an_exact_line_search_one_pair_is_conjugate_gradients_on_a_quadratic():
    Q, _ = torch.linalg.qr(drawn(6, 6))
    A, b = Q @ torch.diag(torch.logspace(0, 2, 6, dtype=torch.float64)) @ Q.T, drawn(6, seed=1)

    def exact(f, theta, d, value, g, alpha, *, c1, c2, most=1):
        alpha = -float(g @ d) / float(d @ A @ d)
        after, slope = f.value_and_gradient(theta + alpha * d)
        return Found(alpha, float(after), slope, Status.GOING_ON)

    points, _ = stepped(lbfgs_with(exact), lambda x: x @ A @ x / 2 - b @ x, drawn(6, seed=2), 6, history_size=1)
    torch.testing.assert_close(points[-1], torch.linalg.solve(A, b), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("power", [-100, -40, 40, 100])
def test_the_scale_of_f_changes_no_bit_of_the_trajectory(power):
    plain, _ = stepped(lbfgs, rosenbrock, start(), 30)
    scaled, _ = stepped(lbfgs, lambda x: 2.0**power * rosenbrock(x), start(), 30)
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e9, 1e12])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-5), (torch.float32, 1e-2)], ids=["float64", "float32"])
def test_it_solves_rosenbrock_at_any_scale(factor, dtype, near):
    result = minimize(lambda x: factor * rosenbrock(x), start().to(dtype), method=lbfgs, options={"gtol": 1e-6})
    assert result.success and result.nfev < 90
    torch.testing.assert_close(result.x, torch.ones(2, dtype=dtype), rtol=0.0, atol=near)


def test_in_float32_it_reaches_the_precision_of_float32():
    result = minimize(rosenbrock, start().float(), method=lbfgs, options={"gtol": 1e-4})
    assert result.success
    torch.testing.assert_close(result.x, torch.ones(2), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("mu", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("x0", [[1.0, 1.0], [10.0, 0.1], [0.5, 2.0]])
def test_it_solves_a_log_barrier_from_inside(mu, x0):
    result = minimize(lambda x: x[0] + 2 * x[1] - mu * torch.log(x).sum(), torch.tensor(x0).double(), method=lbfgs)
    assert result.success
    torch.testing.assert_close(result.x, torch.tensor([mu, mu / 2]).double(), rtol=1e-4, atol=0.0)


def test_its_failures_have_names_and_leave_the_last_good_point():
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    unbounded = minimize(lambda x: -(x**2).sum() - x[0], x0, method=lbfgs)
    assert unbounded.status == Status.UNBOUNDED and math.isfinite(unbounded.fun) and unbounded.fun < -1e20
    wrong = minimize(lambda x: (x**2).sum(), x0, jac=lambda x: -2 * x, method=lbfgs)
    assert wrong.status == Status.LINE_SEARCH_FAILED and torch.equal(wrong.x, x0)
    nowhere = minimize(lambda x: (x**2).sum() * math.nan, x0, method=lbfgs)
    assert nowhere.status == Status.NOT_FINITE and torch.equal(nowhere.x, x0)


def test_after_a_failed_search_the_pairs_are_forgotten_and_the_steepest_descent_taken():
    theta, ones = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.ones(2, 2).double()
    memory = {
        "S": ones,
        "Y": -ones,
        "rho": torch.tensor([-0.5, -0.5]).double(),
        "status": -1,
    }  # H is minus the identity
    seen = {"g": 2 * theta, "theta": theta, "f": lambda x: (x * x).sum()}
    delta, memory = lbfgs.step(seen, memory, lbfgs.knobs)
    assert float(delta @ theta) < 0 and memory["status"] == Status.GOING_ON
    assert memory["rho"][0] == 0.0 < float(memory["rho"][1])


def test_without_a_search_the_steps_are_lr_times_the_direction():
    rule, f = lbfgs_with(fixed), Evaluations(lambda x: (x * x).sum())
    points, memories = stepped(rule, f, torch.tensor([3.0, 1.0]).double(), 2, lr=0.5)
    history = (memories[1][name] for name in ("S", "Y", "rho"))
    torch.testing.assert_close(points[2] - points[1], -0.5 * two_loop(2 * points[1], *history))
    assert f.nfev == 3


def test_resumed_from_json_and_safetensors_it_goes_on_bit_for_bit():
    points, memories = stepped(lbfgs, rosenbrock, start(), 20, history_size=4)
    half = dict(memories[10])
    status = json.loads(json.dumps(half.pop("status"), allow_nan=False))
    again, _ = stepped(lbfgs, rosenbrock, points[10], 10, {**load(save(half)), "status": status}, history_size=4)
    assert all(torch.equal(a, b) for a, b in zip(points[10:], again, strict=True))


def test_what_it_is_given_is_not_changed():
    points, memories = stepped(lbfgs, rosenbrock, start(), 3)
    f, theta, memory = Evaluations(rosenbrock), points[3], memories[3]
    _, g = f.value_and_gradient(theta)
    given = (theta, g, memory["S"], memory["Y"], memory["rho"])
    kept = [x.clone() for x in given]
    lbfgs.step({"g": g, "theta": theta, "f": f}, memory, lbfgs.knobs)
    assert all(map(torch.equal, kept, given))


def test_it_solves_thirty_four_of_the_thirty_five_problems_in_two_thousand_evaluations():
    problems = runpy.run_path(str(MGH))["PROBLEMS"]
    options = {"gtol": 1e-6, "maxiter": 2000, "maxfev": 2000}
    results = [minimize(problem.objective, problem.x0, method=lbfgs, options=options) for problem in problems]
    missed = [problem.name for problem, r in zip(problems, results, strict=True) if not problem.solved(r.fun)]
    assert missed in ([], ["Watson"])
    assert sum(r.nfev for r in results) < 2600
