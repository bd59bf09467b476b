"""Nonlinear conjugate gradients are linear ones on a quadratic, whatever the formula, and go on where f is not one."""

import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load, save

from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.minimize import minimize
from thalweg.second_order import betas
from thalweg.second_order.conjugate_gradients import (
    conjugate_gradients_with,
    conjugated,
    dai_yuan,
    fletcher_reeves,
    hager_zhang_cg,
    hestenes_stiefel,
    polak_ribiere,
)
from thalweg.second_order.line_search import Found, armijo
from thalweg.second_order.linear import conjugate_gradients

FORMULAS = [
    betas.fletcher_reeves, betas.polak_ribiere, betas.hestenes_stiefel, betas.dai_yuan, betas.hager_zhang_cg
]  # fmt: skip
every_formula = pytest.mark.parametrize("beta", FORMULAS, ids=lambda beta: beta.__name__)
RULES = [fletcher_reeves, polak_ribiere, hestenes_stiefel, dai_yuan, hager_zhang_cg]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


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


@every_formula
def test_a_quadratic_ends_in_n_steps_on_the_points_of_linear_conjugate_gradients(beta):
    A, b = quadratic()
    solution = []
    conjugate_gradients(A, b, drawn(6, seed=2), rtol=0.0, most=6, watch=lambda i, x, r: solution.append(x) and False)
    points, _ = stepped(conjugate_gradients_with(beta, exact(A)), lambda x: x @ A @ x / 2 - b @ x, drawn(6, seed=2), 6)
    for ours, theirs in zip(points[1:], solution, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(points[-1], torch.linalg.solve(A, b))


def test_all_formulas_are_one_number_on_a_quadratic_with_exact_searches():
    A, b = quadratic()
    x = drawn(6, seed=2)
    g = A @ x - b
    d = -g
    for _ in range(4):
        x = x - (g @ d) / (d @ A @ d) * d
        before, g = g, A @ x - b
        numbers = torch.stack([beta(g, before, d) for beta in FORMULAS])
        torch.testing.assert_close(numbers, numbers[0].expand(5), rtol=1e-8, atol=0.0)
        d = -g + numbers[0] * d


def test_the_formulas_are_those_of_the_papers():
    g, before, d = drawn(4, seed=1), drawn(4, seed=2), -drawn(4, seed=2) - 0.1 * drawn(4, seed=3)
    y = g - before
    hs, dy = float(g @ y / (d @ y)), float(g @ g / (d @ y))
    assert float(betas.fletcher_reeves(g, before, d)) == pytest.approx(float(g @ g / (before @ before)))
    assert float(betas.polak_ribiere(g, before, d)) == pytest.approx(max(0.0, float(g @ y / (before @ before))))
    assert float(betas.hestenes_stiefel(g, before, d)) == pytest.approx(max(0.0, hs))
    assert float(betas.dai_yuan(g, before, d)) == pytest.approx(min(max(0.0, hs), dy))
    own = float((y - 2 * d * (y @ y) / (d @ y)) @ g / (d @ y))
    assert float(betas.hager_zhang_cg(g, before, d)) == pytest.approx(max(own, 0.4 * float(d @ before / (d @ d))))


@every_formula
def test_no_formula_changes_with_the_scale_of_f(beta):
    g, before = drawn(4, seed=1), drawn(4, seed=2)
    d = -before + 0.1 * drawn(4, seed=3)
    scaled = beta(2.0**30 * g, 2.0**30 * before, 2.0**30 * d)
    assert torch.equal(scaled, beta(g, before, d))


@every_rule
@pytest.mark.parametrize("power", [-75, 75])
def test_squares_of_the_gradient_beyond_the_range_of_float32_do_no_harm(rule, power):
    def f(x):
        return torch.cosh(x - torch.tensor([1.0, -2.0, 0.5])).sum() + x[0] * x[1]

    plain, _ = stepped(rule, f, torch.zeros(3), 6)
    scaled, _ = stepped(rule, lambda x: 2.0**power * f(x), torch.zeros(3), 6)
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


def test_hager_and_zhangs_direction_descends_whatever_came_before():
    for seed in range(200):
        g, before = drawn(5, seed=seed), drawn(5, seed=seed + 1000)
        d = -before + drawn(5, seed=seed + 2000)
        if (
            float(d @ before) < 0 < float(d @ (g - before))
        ):  # d descended, and its search ended by the slope's condition
            along = betas.hager_zhang_cg(g, before, d) * d - g
            assert float(g @ along) <= -7 / 8 * float(g @ g) * (1 - 1e-9)


@every_rule
def test_it_solves_rosenbrock(rule):
    result = minimize(rosenbrock, start(), method=rule)
    assert result.success and result.nfev < 130
    torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0.0, atol=1e-4)


@every_rule
def test_in_float32_it_solves_rosenbrock(rule):
    result = minimize(rosenbrock, start().float(), method=rule, options={"gtol": 1e-4})
    assert result.success
    torch.testing.assert_close(result.x, torch.ones(2), rtol=0.0, atol=1e-3)


@every_rule
@pytest.mark.parametrize("power", [-60, 60])
def test_the_scale_of_f_changes_no_bit_of_the_trajectory(rule, power):
    plain, _ = stepped(rule, rosenbrock, start(), 20)
    scaled, _ = stepped(rule, lambda x: 2.0**power * rosenbrock(x), start(), 20)
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


@every_rule
@pytest.mark.parametrize("x0", [[1.0, 1.0], [10.0, 0.1]])
def test_it_solves_a_log_barrier_from_inside(rule, x0):
    result = minimize(lambda x: x[0] + 2 * x[1] - 1e-3 * torch.log(x).sum(), torch.tensor(x0).double(), method=rule)
    assert result.success
    torch.testing.assert_close(result.x, torch.tensor([1e-3, 5e-4]).double(), rtol=1e-4, atol=0.0)


@every_rule
def test_its_failures_have_names_and_leave_the_last_good_point(rule):
    x0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    unbounded = minimize(lambda x: -(x**2).sum() - x[0], x0, method=rule)
    assert unbounded.status == Status.UNBOUNDED and math.isfinite(unbounded.fun) and unbounded.fun < -1e20
    wrong = minimize(lambda x: (x**2).sum(), x0, jac=lambda x: -2 * x, method=rule)
    assert wrong.status == Status.LINE_SEARCH_FAILED and torch.equal(wrong.x, x0)
    nowhere = minimize(lambda x: (x**2).sum() * math.nan, x0, method=rule)
    assert nowhere.status == Status.NOT_FINITE and torch.equal(nowhere.x, x0)


@every_rule
def test_a_gradient_that_is_no_number_leaves_a_memory_of_numbers(rule):
    points, memories = stepped(rule, rosenbrock, start(), 3)
    seen = {"g": torch.tensor([math.nan, 1.0]).double(), "theta": points[3], "f": lambda x: math.nan * x.sum()}
    delta, memory = rule.step(seen, memories[3], rule.knobs)
    assert not delta.any() and memory["status"] == Status.NOT_FINITE
    assert all(torch.as_tensor(value).isfinite().all() for value in memory.values())
    again, _ = stepped(rule, rosenbrock, points[3], 1, memory)
    assert float(rosenbrock(again[1])) < float(rosenbrock(points[3]))


def test_it_begins_anew_where_gradients_in_turn_are_far_from_orthogonal():
    before, g = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.3, 1.0]).double()  # g'before is 0.28 of |g|²
    d = -before
    assert conjugated(betas.fletcher_reeves, g, before, d, powell=True) is None
    assert conjugated(betas.fletcher_reeves, g, before, d, powell=False) is not None


def test_it_begins_anew_where_the_direction_would_not_descend_or_is_no_number():
    g, before = torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.0]).double()
    uphill = torch.tensor([-1.0, 3.0]).double()
    assert conjugated(betas.fletcher_reeves, g, before, uphill, powell=True) is None
    assert conjugated(betas.fletcher_reeves, g, torch.zeros(2).double(), -before, powell=True) is None
    assert conjugated(betas.polak_ribiere, g, 2 * g, -2 * g, powell=False) is None  # negative: PR+ is 0


def test_it_begins_anew_after_six_times_n_steps():
    def slow(x):
        return torch.log(torch.cosh(torch.tensor([1.0, 30.0, 0.03]).double() * x)).sum()

    _, memories = stepped(hager_zhang_cg, slow, torch.tensor([9.0, 0.7, -40.0]).double(), 40)
    assert [memory["t"] for memory in memories[:21]] == [*range(19), 1, 2]


def test_the_first_step_tried_promises_what_the_last_one_did():
    tried = []

    def spied(f, theta, d, value, g, alpha, **conditions):
        tried.append((alpha, float(g @ d)))
        found = armijo(f, theta, d, value, g, alpha, **conditions)
        tried[-1] += (found.alpha,)
        return found

    stepped(conjugate_gradients_with(betas.hager_zhang_cg, spied), rosenbrock, start(), 6, lr=1.0)
    for (_, slope, alpha), (first, now, _) in pairwise(tried):
        assert first * now == pytest.approx(alpha * slope)


@every_rule
def test_resumed_from_json_and_safetensors_it_goes_on_bit_for_bit(rule):
    points, memories = stepped(rule, rosenbrock, start(), 14)
    half = memories[7]
    tensors = {name: value for name, value in half.items() if isinstance(value, torch.Tensor)}
    numbers = {name: value for name, value in half.items() if name not in tensors}
    memory = {**load(save(tensors)), **json.loads(json.dumps(numbers, allow_nan=False))}
    again, _ = stepped(rule, rosenbrock, points[7], 7, {name: memory[name] for name in rule.remembers})
    assert all(torch.equal(a, b) for a, b in zip(points[7:], again, strict=True))


def test_what_it_is_given_is_not_changed_and_a_gradient_in_a_buffer_is_not_kept():
    points, memories = stepped(polak_ribiere, rosenbrock, start(), 3)
    f, theta, memory = Evaluations(rosenbrock), points[3], memories[3]
    g = f.value_and_gradient(theta)[1].clone()
    given = (theta, g, memory["d"], memory["before"])
    kept = [x.clone() for x in given]
    _, after = polak_ribiere.step({"g": g, "theta": theta, "f": f}, memory, polak_ribiere.knobs)
    assert all(map(torch.equal, kept, given))
    g.zero_()
    assert torch.equal(after["before"], kept[1] / kept[1].abs().max())


def test_the_rules_are_named_and_described_by_their_formulas():
    assert [rule.name for rule in RULES] == [beta.__name__ for beta in FORMULAS]
    assert all(rule.doc.startswith(beta.__doc__.splitlines()[0]) for rule, beta in zip(RULES, FORMULAS, strict=True))
