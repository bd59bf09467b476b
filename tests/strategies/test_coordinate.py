import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.linear_model import Lasso

from thalweg import optim
from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.core.derivatives import gauss_newton_at, hessian, hessian_at, value_and_gradient
from thalweg.core.errors import AlgorithmError
from thalweg.core.jacobian import jacobian, residuals
from thalweg.core.lifted import lifted
from thalweg.core.network import Batch, Network
from thalweg.core.objective import Evaluations, LeastSquares
from thalweg.core.rule import rule
from thalweg.core.status import Status, going
from thalweg.descend import descend
from thalweg.minimize import minimize
from thalweg.modern.muon import muon
from thalweg.modern.shampoo import shampoo
from thalweg.second_order.newton import newton
from thalweg.strategies.averaging import averaged
from thalweg.strategies.coordinate import OfBlock, at_random, blockwise, cyclic, gauss_southwell
from thalweg.strategies.coordinate_descent import (
    by_coordinates,
    coordinate_descent,
    coordinate_descent_with,
    greedy_coordinate_descent,
    random_coordinate_descent,
    soft_threshold,
)

EVERY_ORDER = [coordinate_descent, greedy_coordinate_descent, random_coordinate_descent]
orders = pytest.mark.parametrize("rule", EVERY_ORDER, ids=lambda rule: rule.name)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(n=6, seed=3, ridge=1.0):
    """x'Ax / 2 - b'x, with its A and b."""
    root = drawn(n, n, seed=seed)
    A, b = root @ root.T + ridge * torch.eye(n, dtype=torch.float64), drawn(n, seed=seed + 1)
    return (lambda x: x @ A @ x / 2 - b @ x), A, b


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def followed(rule, f, theta, steps, **knobs):
    """The points after theta, and the memory at the end."""
    knobs, f = rule.with_defaults(knobs), Evaluations(f)
    memory, points = rule.start(theta, **knobs), [theta]
    for _ in range(steps):
        _, g = f.value_and_gradient(theta)
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, knobs)
        theta = theta + delta
        points.append(theta)
    return points, memory


@rule(per="vector", batched=False)
def to_the_minimum(g, theta, f, *, lr=1.0):
    """The step to the minimum of a quadratic."""
    return -lr * torch.linalg.solve(hessian(f, theta), g)


# Blocks


@pytest.mark.parametrize("choose", [cyclic, gauss_southwell, at_random(3)], ids=["cyclic", "steepest", "random"])
@pytest.mark.parametrize("rule", [sgd, momentum, adam, shampoo], ids=lambda rule: rule.name)
def test_one_block_of_everything_is_the_rule(run, rule, choose):
    theta, gradients = drawn(12), drawn(9, 12, seed=1)
    whole, _ = run(lifted(rule, [(4, 3)]), theta, gradients, lr=0.1)
    found, _ = run(blockwise(rule, [(4, 3)], choose), theta, gradients, lr=0.1)
    assert torch.equal(found[-1], whole[-1])
    if rule.per == "element":
        assert torch.equal(run(blockwise(rule, [slice(0, 12)], choose), theta, gradients, lr=0.1)[0][-1], whole[-1])


@pytest.mark.parametrize("choose", [cyclic, gauss_southwell, at_random(3)], ids=["cyclic", "steepest", "random"])
@pytest.mark.parametrize("rule", [momentum, adam, muon], ids=lambda rule: rule.name)
def test_each_block_goes_as_if_alone_on_the_gradients_of_its_turns(run, rule, choose):
    shapes, theta, gradients = [(2, 3), (4,), (3, 2)], drawn(16), drawn(20, 16, seed=1)
    points, _ = run(blockwise(rule, shapes, choose), theta, gradients, lr=0.1)
    pieces = [slice(0, 6), slice(6, 10), slice(10, 16)]
    turns = [choose(t, torch.stack([g[piece].norm() for piece in pieces])) for t, g in enumerate(gradients)]
    assert set(turns) == {0, 1, 2}
    for k, (piece, shape) in enumerate(zip(pieces, shapes, strict=True)):
        mine = [g[piece] for g, turn in zip(gradients, turns, strict=True) if turn == k]
        alone, _ = run(lifted(rule, [shape]), theta[piece], mine, lr=0.1)
        assert torch.equal(points[-1][piece], alone[-1])


def test_what_is_in_no_block_stays_and_blocks_may_overlap_and_stride(run):
    points, _ = run(blockwise(sgd, [slice(1, 3), slice(2, 7, 2)]), torch.zeros(8), torch.ones(2, 8), lr=1.0)
    assert points[-1].tolist() == [0, -1, -2, 0, -1, 0, -1, 0]


def test_gauss_southwell_takes_the_longest_gradient_and_chance_is_fair():
    assert gauss_southwell(7, torch.tensor([0.1, 0.3, 0.2])) == 1
    choose = at_random(5)
    turns = torch.tensor([choose(t, torch.zeros(4)) for t in range(1500)])
    assert all(abs((turns == k).double().mean() - 0.25) < 0.05 for k in range(4))
    assert [at_random(5)(t, torch.zeros(4)) for t in range(50)] == turns[:50].tolist()
    assert {at_random(1)(t, torch.zeros(2**17)) % 2 for t in range(50)} == {0, 1}  # beyond 16 bits too


@pytest.mark.parametrize("choose", [cyclic, gauss_southwell], ids=["cyclic", "steepest"])
def test_exact_steps_on_blocks_are_block_gauss_seidel_and_end_in_the_minimum(choose):
    f, A, b = quadratic()
    pieces = [slice(0, 2), slice(2, 3), slice(3, 6)]
    points, _ = followed(blockwise(to_the_minimum, pieces, choose), f, drawn(6), 120)
    torch.testing.assert_close(points[-1], torch.linalg.solve(A, b), rtol=1e-4, atol=1e-4)
    if choose is cyclic:
        x = drawn(6)
        for step, piece in enumerate(pieces):
            x = x.clone()
            x[piece] = torch.linalg.solve(A[piece, piece], (b - A @ x)[piece] + A[piece, piece] @ x[piece])
            torch.testing.assert_close(points[step + 1], x, rtol=1e-10, atol=1e-10)


def test_a_rule_that_sees_f_sees_it_as_a_function_of_its_block():
    f = LeastSquares(lambda x: torch.stack([x[0] * x[1], x[1] ** 2 * x[2], x.sum()]))
    theta, piece, u = drawn(3), slice(1, 3), drawn(2, seed=1)
    part = OfBlock(f, theta, piece)
    x, moved = theta[piece], theta.clone()
    moved[piece] += u
    value, g = value_and_gradient(part, x + u)
    torch.testing.assert_close((value, g), (f(moved), value_and_gradient(f, moved)[1][piece]))
    torch.testing.assert_close(hessian_at(part, x)(u), hessian(f, theta)[piece, piece] @ u)
    torch.testing.assert_close(jacobian(part, x), jacobian(f, theta)[:, piece])
    j = jacobian(part, x)
    torch.testing.assert_close(gauss_newton_at(part, x)(u), j.T @ j @ u)
    torch.testing.assert_close(residuals(part, x + u), f.residuals(moved))
    assert not hasattr(OfBlock(rosenbrock, theta, piece), "residuals")


@rule(per="vector", batched=False)
def content(g, status=going, *, lr=1.0):
    """A rule that is always content with where it is going."""
    return -lr * g, int(Status.CONVERGED)


def test_a_block_that_has_moved_puts_the_rest_of_others_in_question():
    rule = blockwise(content, [slice(0, 1), slice(1, 2), slice(2, 3)])
    memory = rule.start(torch.zeros(3))
    for moves, status in [(1, -1), (1, -1), (1, -1), (1, -1), (1, 0), (1, -1), (0, -1), (0, 0), (0, 0)]:
        _, memory = rule.step({"g": torch.tensor([0.0, 0.0, moves])}, memory, {"lr": 1.0})
        assert memory["status"] == status


def test_a_whole_stops_once_all_blocks_have_stopped_without_a_step_between():
    f, A, b = quadratic(4, ridge=9.0)
    rule = blockwise(newton, [slice(0, 2), slice(2, 4)])
    points, memory = followed(rule, f, drawn(4), 2)
    assert memory["status"] == Status.GOING_ON
    points, memory = followed(rule, f, drawn(4), 60)
    assert memory["status"] == memory["status[0]"] == memory["status[1]"] == Status.CONVERGED
    torch.testing.assert_close(points[-1], torch.linalg.solve(A, b), rtol=1e-6, atol=1e-6)
    _, memory = followed(rule, lambda x: f(x) + math.nan, drawn(4), 2)
    assert memory["status"] == Status.NOT_FINITE


def problem():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    return Network(module, torch.nn.functional.mse_loss), Batch(drawn(20, 3), drawn(20, 2, seed=1))


@pytest.mark.parametrize("rule", [adam, newton], ids=lambda rule: rule.name)
def test_descend_trains_a_layer_a_step_and_resumes_bit_for_bit(rule):
    network, batch = problem()
    blocks = blockwise(rule, network.shapes, gauss_southwell)
    before, losses, moved = network.theta.clone(), [], set()
    for step in descend(network, blocks, [batch] * 40, lr=0.1):
        losses.append(step.loss)
        changed = [k for k, piece in enumerate(network.views(network.theta != before).values()) if piece.any()]
        moved |= set(changed)
        assert len(changed) <= 1
        before = network.theta.clone()
        if step.t == 20:
            tensors = {n: v for n, v in step.memory.items() if isinstance(v, torch.Tensor)}
            half, saved = network.state(), load(save(tensors))
            numbers = json.loads(json.dumps({n: v for n, v in step.memory.items() if n not in tensors}))
    assert losses[-1] < losses[0] and len(moved) > 1
    resumed, _ = problem()
    resumed.load(half)
    memory = {name: {**saved, **numbers}[name] for name in blocks.remembers}
    list(descend(resumed, blocks, [batch] * 20, memory=memory, t=20, lr=0.1))
    assert torch.equal(resumed.theta, network.theta)


def test_an_optimizer_runs_blocks_without_memory_and_refuses_to_hold_theirs():
    params = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    for p in params:
        p.grad = torch.ones_like(p)
    shapes = [p.shape for p in params]
    optimizer = optim.Optimizer(params, blockwise(sgd, shapes), lr=0.5)
    for _ in range(3):
        optimizer.step()
    assert params[0].tolist() == [-1.0] * 2 and params[1].tolist() == [-0.5] * 3
    with pytest.raises(AlgorithmError, match="memory of momentum"):
        optim.Optimizer(params, blockwise(momentum, shapes), lr=0.5).step()


def test_bad_blocks_and_averages_within_are_refused():
    with pytest.raises(AlgorithmError, match="no blocks"):
        blockwise(sgd, [])
    with pytest.raises(AlgorithmError, match="where it begins and ends"):
        blockwise(sgd, [slice(None, 3)])
    with pytest.raises(AlgorithmError, match="lie in 9 parameters, there are 4"):
        blockwise(sgd, [slice(0, 2), slice(5, 9)]).step({"g": torch.ones(4)}, {"turn": 0}, {"lr": 1.0})
    with pytest.raises(AlgorithmError, match="average"):
        blockwise(averaged(sgd), [(2,)])


# Coordinates


def test_cyclic_coordinate_descent_on_a_quadratic_is_gauss_seidel():
    f, A, b = quadratic()
    points, _ = followed(coordinate_descent, f, drawn(6), 5 * 6)
    x = drawn(6)
    lower, upper = A.tril(), A.triu(1)
    for sweep in range(1, 6):
        x = torch.linalg.solve_triangular(lower, (b - upper @ x)[:, None], upper=False)[:, 0]
        torch.testing.assert_close(points[6 * sweep], x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(by_coordinates(A, b, drawn(6), sweeps=5), x, rtol=1e-10, atol=1e-10)


@orders
@pytest.mark.parametrize("f", [quadratic()[0], rosenbrock, lambda x: (x**4).sum() + x.cos().sum()])
def test_f_falls_with_every_step(rule, f):
    points, memory = followed(rule, f, drawn(6, seed=8), 80)
    values = [float(f(x)) for x in points]
    assert all(new <= old for old, new in itertools.pairwise(values))
    assert values[-1] < values[0] and memory["turn"] == 80


@orders
def test_minimize_takes_it_to_the_minimum(rule):
    f = lambda x: rosenbrock(x / torch.tensor([1.0, 10.0], dtype=torch.float64)) + 99 * (x[0] - 1) ** 2  # noqa: E731
    result = minimize(f, torch.tensor([0.5, 6.0], dtype=torch.float64), method=rule, options={"gtol": 1e-3})
    torch.testing.assert_close(result.x, torch.tensor([1.0, 10.0], dtype=torch.float64), rtol=1e-3, atol=1e-3)
    assert result.success


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_its_trajectory_does_not_depend_on_the_scale_of_f(scale):
    f = lambda x: scale * rosenbrock(x)  # noqa: E731
    points, _ = followed(coordinate_descent, f, torch.tensor([-1.2, 1.0], dtype=torch.float64), 50)
    expected, _ = followed(coordinate_descent, rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), 50)
    torch.testing.assert_close(points[-1], expected[-1], rtol=1e-6, atol=1e-6)


def test_the_steepest_coordinate_is_enough_where_the_others_are_at_rest():
    n, f = 30, lambda x: (x - 1) @ (x - 1) / 2 + (x[7] + x[23]) ** 2
    start = torch.ones(n, dtype=torch.float64)
    start[[7, 23]] = 0.0

    def steps(rule):
        return minimize(f, start, method=rule, options={"gtol": 1e-6}).nit

    assert steps(greedy_coordinate_descent) * 10 < steps(coordinate_descent)


@pytest.mark.parametrize("seed", range(5))
def test_gauss_southwell_needs_no_more_steps_than_turns_where_the_diagonal_dominates(seed):
    n = 12
    A = 0.02 * drawn(n, n, seed=seed)
    A = A + A.T + torch.diag(torch.ones(n, dtype=torch.float64))
    b = drawn(n, seed=seed + 50) * torch.logspace(-3, 0, n, dtype=torch.float64)
    counts = [
        minimize(lambda x: x @ A @ x / 2 - b @ x, torch.zeros(n).double(), method=rule, options={"gtol": 1e-8}).nit
        for rule in (greedy_coordinate_descent, coordinate_descent)
    ]
    assert counts[0] <= counts[1]


@pytest.mark.parametrize("a", [0.5, 0.1, 0.01])
def test_where_variables_depend_on_each_other_it_is_slow_as_the_book_says(a):
    f = lambda x: (x[0] - x[1]) ** 2 + a * (x[0] ** 2 + x[1] ** 2)  # noqa: E731
    points, _ = followed(coordinate_descent, f, torch.tensor([1.0, 1.0], dtype=torch.float64), 40)
    left = [float(points[k + 2].norm() / points[k].norm()) for k in range(2, 38, 2)]
    np.testing.assert_allclose(left, (1 + a) ** -2, rtol=1e-9)
    (_, end), _ = followed(to_the_minimum, f, points[0], 1)
    assert end.norm() < 1e-12


def test_it_says_why_it_ends():
    rest = torch.zeros(3, dtype=torch.float64)
    assert followed(coordinate_descent, lambda x: x @ x, rest, 4)[1]["status"] == Status.CONVERGED
    assert followed(coordinate_descent, lambda x: x @ x, rest, 3)[1]["status"] == Status.GOING_ON
    _, memory = followed(coordinate_descent, lambda x: x.log().sum(), rest, 1)
    assert memory["status"] == Status.NOT_FINITE
    knobs = coordinate_descent.with_defaults({})
    memory = coordinate_descent.start(rest)
    for _ in range(4):  # a gradient that is not f's
        seen = {"g": torch.ones(3, dtype=torch.float64), "theta": rest, "f": lambda x: 1 + x @ x}
        delta, memory = coordinate_descent.step(seen, memory, knobs)
        assert not delta.any()
    assert memory["status"] == Status.LINE_SEARCH_FAILED and memory["lost"] == 4


def test_nan_and_a_linear_f_are_met_by_shorter_steps_and_by_longer_ones():
    f = lambda x: -x.sqrt().sum() + x.sum()  # noqa: E731
    result = minimize(f, torch.tensor([9.0, 16.0], dtype=torch.float64), method=coordinate_descent)
    torch.testing.assert_close(result.x, torch.full((2,), 0.25, dtype=torch.float64), rtol=1e-4, atol=1e-4)
    points, _ = followed(coordinate_descent_with(cyclic), lambda x: x.abs().sum(), drawn(3), 3)
    assert points[-1].abs().sum() < points[0].abs().sum()


# Lasso and sparse coding


@pytest.mark.parametrize("seed", range(6))
def test_the_lasso_is_scikit_learns(seed):
    m, n, alpha = (40, 15, 0.1) if seed % 2 else (20, 30, 0.3)
    X, y = drawn(m, n, seed=seed), drawn(m, seed=100 + seed)
    theirs = Lasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X.numpy(), y.numpy()).coef_
    mine = by_coordinates(X.T @ X / m, X.T @ y / m, torch.zeros(n, dtype=torch.float64), alpha, 3000, 1e-13)
    np.testing.assert_allclose(mine, theirs, atol=1e-6)
    np.testing.assert_array_equal(mine == 0, theirs == 0)
    assert 0 < int((mine != 0).sum()) < n


def test_many_problems_of_one_matrix_are_each_by_itself():
    _, A, _ = quadratic(5)
    b = drawn(5, 7, seed=1)
    together = by_coordinates(A, b, torch.zeros(5, 7, dtype=torch.float64), 0.5, sweeps=30)
    alone = [by_coordinates(A, column, torch.zeros(5, dtype=torch.float64), 0.5, sweeps=30) for column in b.T]
    torch.testing.assert_close(together, torch.stack(alone, dim=1))


def test_a_sweep_never_raises_the_penalised_quadratic_and_its_end_meets_the_conditions_of_optimality():
    _, A, b = quadratic(8, ridge=0.0)
    cost = lambda x: float(x @ A @ x / 2 - b @ x + 3 * x.abs().sum())  # noqa: E731
    points = [drawn(8, seed=9)]
    for _ in range(500):
        points.append(by_coordinates(A, b, points[-1], 3.0))
    costs = [cost(x) for x in points]
    assert all(new <= old + 1e-12 for old, new in itertools.pairwise(costs))
    x, g = points[-1], A @ points[-1] - b
    torch.testing.assert_close(g[x != 0], -3 * x[x != 0].sign(), rtol=1e-6, atol=1e-6)
    assert (g[x == 0].abs() <= 3 + 1e-9).all() and bool((x == 0).any())


def test_a_flat_coordinate_stays_and_is_zero_under_the_penalty():
    A, b, x = torch.diag(torch.tensor([2.0, 0.0])), torch.tensor([2.0, 0.0]), torch.tensor([5.0, 5.0])
    assert by_coordinates(A, b, x).tolist() == [1.0, 5.0]
    assert by_coordinates(A, b, x, l1=1.0).tolist() == [0.5, 0.0]


def test_the_soft_threshold_is_the_minimum_that_it_says():
    x, z = drawn(20), torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    costs = (z - x[:, None]).square() / 2 + 0.7 * z.abs()
    torch.testing.assert_close(soft_threshold(x, 0.7), z[costs.argmin(dim=1)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_sparse_coding_falls_with_every_exact_minimum_of_a_block(decay):
    truth = soft_threshold(drawn(6, 50, seed=1), 1.0)
    X = drawn(6, 12, seed=2).T @ truth  # (12, 50)
    W, H = drawn(6, 12, seed=3), torch.zeros(6, 50, dtype=torch.float64)
    cost = lambda: float(H.abs().sum() + (X - W.T @ H).square().sum() + decay * W.square().sum())  # noqa: E731
    costs = [cost()]
    for _ in range(40):
        for _ in range(5):
            H = by_coordinates(2 * W @ W.T, 2 * W @ X, H, l1=1.0)
            costs.append(cost())
        W = torch.linalg.solve(H @ H.T + (decay + 1e-12) * torch.eye(6, dtype=torch.float64), H @ X.T)
        costs.append(cost())
    assert all(new <= old * (1 + 1e-10) for old, new in itertools.pairwise(costs))
    assert costs[-1] < 0.2 * costs[0] and 0.1 < float((H == 0).double().mean()) < 1
    code = Lasso(alpha=0.5 / 12, fit_intercept=False, tol=1e-12, max_iter=100_000)
    H = by_coordinates(2 * W @ W.T, 2 * W @ X, H, 1.0, 2000, 1e-12)
    np.testing.assert_allclose(H.T, code.fit(W.T.numpy(), X.numpy()).coef_, atol=1e-6)
