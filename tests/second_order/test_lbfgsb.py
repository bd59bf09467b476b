"""L-BFGS-B: L-BFGS where no bound is near, and the exact face where some are."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize as scipys

from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.minimize import minimize
from thalweg.second_order.box import outside
from thalweg.second_order.box_least_squares import box_least_squares
from thalweg.second_order.lbfgs import lbfgs
from thalweg.second_order.lbfgsb import cauchy_point, compact, lbfgsb, lbfgsb_with
from thalweg.second_order.line_search import armijo, hager_zhang, strong_wolfe

INF = math.inf


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def path_of(rule, f, theta, count, **knobs):
    memory, path = rule.start(theta, **knobs), [theta]
    for _ in range(count):
        counted = Evaluations(f)
        _, g = counted.value_and_gradient(path[-1])
        seen = {"g": g, "theta": path[-1], "f": counted}
        delta, memory = rule.step(seen, memory, rule.with_defaults(knobs))
        path.append(path[-1] + delta)
    return torch.stack(path), memory


def quasi_newton(n, k, seed):
    """k pairs of a quadratic's Hessian, and the compact form of what they make."""
    A = drawn(n, n, seed=seed)
    S = drawn(k, n, seed=seed + 1)
    Y = S @ (A @ A.T + 0.1 * torch.eye(n).double())
    return S, Y, compact(S, Y, 1 / (S * Y).sum(1))


def dense(B):
    return B.scale * torch.eye(B.W.shape[1]).double() - B.W.T @ B.M @ B.W


@pytest.mark.parametrize("knobs", [{}, {"lower": -9.0, "upper": 9.0}, {"lower": -9.0}], ids=str)
def test_where_no_bound_is_met_it_is_lbfgs(knobs):
    start = torch.tensor([-1.2, 1.0, 0.5]).double()
    path, _ = path_of(lbfgsb, rosenbrock, start, 25, **knobs)
    assert torch.equal(path, path_of(lbfgs, rosenbrock, start, 25)[0])


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_compact_matrix_is_bfgs_of_the_pairs_in_turn(k):
    S, Y, B = quasi_newton(5, k, seed=k)
    full = (Y[-1] @ Y[-1]) / (S[-1] @ Y[-1]) * torch.eye(5).double()
    for s, y in zip(S, Y, strict=True):
        full = full - torch.outer(full @ s, full @ s) / (s @ full @ s) + torch.outer(y, y) / (y @ s)
    torch.testing.assert_close(dense(B), full, rtol=1e-7, atol=1e-7 * float(full.norm()))


@pytest.mark.parametrize("seed", range(20))
def test_the_cauchy_point_is_the_first_minimum_on_the_projected_path(seed):
    n = 1 + seed % 7
    _, _, B = quasi_newton(n, 1 + seed % 4, seed)
    g, spread = drawn(n, seed=100 + seed), drawn(2, n, seed=200 + seed).abs()
    lower, upper = -spread[0], spread[1]
    lower[::3], upper[1::3] = -INF, INF
    x = torch.zeros(n).double()
    x[::2] = torch.where(g[::2] < 0, 0.9 * upper[::2], x[::2]).clamp(max=2.0)
    if seed % 2 and n > 1:
        lower[-1] = x[-1]
    full = dense(B)

    def at(t):
        return torch.clamp(x - t * g, lower, upper)

    def model(t):
        return float(g @ (at(t) - x) + (at(t) - x) @ full @ (at(t) - x) / 2)

    found = cauchy_point(g, x, lower, upper, B)
    far = float(((x - found) / g).nan_to_num(0.0).max())
    torch.testing.assert_close(found, at(far), rtol=1e-9, atol=1e-12)
    values = [model(far * share) for share in torch.linspace(0, 1, 400).tolist()]
    assert all(a > b - 1e-12 for a, b in itertools.pairwise(values))  # it falls up to there
    assert model(far * 1.001) >= model(far)


@pytest.mark.parametrize("seed", range(8))
def test_where_the_pairs_know_the_hessian_the_model_is_least_on_the_face_of_the_cauchy_point(seed):
    n = 5
    A, b = drawn(n, n, seed=seed), drawn(n, seed=10 + seed)
    H = A @ A.T + torch.eye(n).double()
    S = torch.linalg.eigh(H).eigenvectors.T  # conjugate: after these steps the matrix is H
    memory = {"S": S, "Y": S @ H, "rho": 1 / (S @ H * S).sum(1), "status": -1}
    x, g, top = torch.zeros(n).double(), -b, 0.2 * drawn(n, seed=20 + seed).abs()
    cauchy = cauchy_point(g, x, -top, top, compact(*(memory[name] for name in ("S", "Y", "rho"))))
    free = cauchy.abs() < top
    face = cauchy.clone()
    face[free] = torch.linalg.solve(H[free][:, free], b[free] - H[free][:, ~free] @ cauchy[~free])
    f = Evaluations(lambda x: x @ H @ x / 2 - b @ x)
    f.know(x, torch.zeros(()).double(), g)
    knobs = lbfgsb.with_defaults({"lower": -top, "upper": top, "c2": 1.0})
    delta, _ = lbfgsb.step({"g": g, "theta": x, "f": f}, memory, knobs)
    torch.testing.assert_close(delta, face.clamp(-top, top), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("search", [strong_wolfe, armijo, hager_zhang], ids=lambda search: search.__name__)
def test_convex_quadratics_within_bounds_end_at_the_exact_solution(seed, search):
    n = 30
    A, b = drawn(n + 5, n, seed=seed), drawn(n + 5, seed=20 + seed)
    spread = 0.3 * drawn(2, n, seed=40 + seed).abs()
    lower, upper = -spread[0], spread[1]
    lower[:4], upper[4:8] = -INF, INF
    exact = box_least_squares(A, b, lower, upper)
    assert int(((exact == lower) | (exact == upper)).sum()) > 5
    found = minimize(
        lambda x: (A @ x - b).square().sum() / 2, torch.zeros(n).double(), method=lbfgsb_with(search),
        bounds=(lower, upper), options={"gtol": 1e-9},
    )  # fmt: skip
    assert found.success
    torch.testing.assert_close(found.x, exact, rtol=1e-6, atol=1e-7)
    active = (exact == lower) | (exact == upper)
    assert torch.equal(found.x[active], exact[active])  # on their bounds to the last bit


@pytest.mark.parametrize(
    "bounds",
    [
        ([-2.0, -2.0, -2.0, -2.0], [-0.9, 2.0, 2.0, 2.0]),
        ([-2.0, 1.5, -INF, -INF], [2.0, 3.0, INF, 0.1]),
        ([0.1, -INF, -INF, 0.3], [INF, 0.3, 0.3, INF]),
        ([-1.5, 0.2, 0.7, 0.0], [-0.5, 3.0, 0.7, 9.0]),
    ],
)
def test_rosenbrock_within_bounds_ends_where_scipy_ends_and_karush_kuhn_and_tucker_hold(bounds):
    lower, upper = (torch.tensor(b).double() for b in bounds)
    x0 = torch.tensor([-1.2, 1.0, 0.5, 0.5]).double().clamp(lower, upper)
    found = minimize(rosenbrock, x0, bounds=(lower, upper), options={"return_all": True, "gtol": 1e-8})

    def value_and_gradient(x):
        leaf = torch.from_numpy(x).requires_grad_()
        value = rosenbrock(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    pairs = list(zip(lower.tolist(), upper.tolist(), strict=True))
    tight = {"ftol": 1e-15, "gtol": 1e-8}
    expected = scipys(value_and_gradient, x0.numpy(), jac=True, method="L-BFGS-B", bounds=pairs, options=tight)
    torch.testing.assert_close(found.x, torch.from_numpy(expected.x), rtol=1e-6, atol=1e-6)
    at_lower, at_upper = found.x == lower, found.x == upper
    assert found.success and bool((at_lower | at_upper).any())
    assert bool((found.jac[at_lower & ~at_upper] >= 0).all() and (found.jac[at_upper & ~at_lower] <= 0).all())
    assert float(found.jac[~at_lower & ~at_upper].abs().max()) < 1e-6
    assert not any(outside(x, lower, upper) for x in found.allvecs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_point_is_inside_as_the_dtype_adds(dtype):
    n = 40
    A, lower = drawn(n, n, seed=0, dtype=dtype), -drawn(n, seed=1, dtype=dtype).abs() / 3
    path, _ = path_of(
        lbfgsb, lambda x: ((A @ x - 1) ** 2).sum() + x.exp().sum(), torch.zeros(n, dtype=dtype), 40,
        lower=lower, upper=0.1 - lower,
    )  # fmt: skip
    assert not outside(path, lower, 0.1 - lower)
    assert int((path[-1] == lower).sum()) > 3


@pytest.mark.parametrize("power", [-40, 40])
def test_the_scale_of_f_makes_no_difference(power):
    knobs = {"lower": torch.tensor([-2.0, 0.2, -INF]).double(), "upper": 0.6}
    start = torch.tensor([-1.2, 0.5, 0.5]).double()
    path, _ = path_of(lbfgsb, rosenbrock, start, 30, **knobs)
    other, _ = path_of(lbfgsb, lambda x: 2.0**power * rosenbrock(x), start, 30, **knobs)
    assert torch.equal(other, path)


def test_it_converges_in_float32():
    found = minimize(rosenbrock, torch.tensor([-1.2, 1.0, 0.5]), bounds=[(None, 0.5), (None, None), (0.0, None)])
    exact = minimize(
        rosenbrock, torch.tensor([-1.2, 1.0, 0.5]).double(), bounds=[(None, 0.5), (None, None), (0.0, None)]
    )
    assert found.success and found.x.dtype == torch.float32
    torch.testing.assert_close(found.x.double(), exact.x, rtol=1e-3, atol=1e-3)


def test_at_the_limit_of_rounding_it_ends():
    t = 45 + 5 * torch.arange(1.0, 17).double()
    y = 34780 * (-0.17 * torch.arange(16.0).double()).exp()
    found = minimize(
        lambda x: (x[0] * (x[1] / (t + x[2])).exp() - y).square().sum(), torch.tensor([0.02, 4000.0, 250.0]).double(),
        bounds=[(0, 0.1), (3000, 5000), (200, 300)], options={"gtol": 1e-15, "maxfev": 1500, "maxiter": 10**6},
    )  # fmt: skip
    assert found.status in (Status.CONVERGED, Status.LINE_SEARCH_FAILED) and found.nfev < 1000


def test_where_f_is_no_number_the_step_shrinks():
    found = minimize(
        lambda x: x.sum() - (x[0] - 0.2).log(), torch.tensor([30.0, 4.0]).double(), bounds=[(0, 50), (0, 9)]
    )
    assert found.success
    torch.testing.assert_close(found.x, torch.tensor([1.2, 0.0]).double(), rtol=1e-5, atol=1e-8)


def test_a_start_outside_is_put_in_first():
    path, _ = path_of(lbfgsb, lambda x: x[1] - x[0], torch.tensor([5.0, -5.0]).double(), 1, lower=-1.0, upper=2.0)
    assert path[1].tolist() == [2.0, -1.0]  # uphill


def test_ends_have_names():
    corner = {"lower": -1.0, "upper": 1.0}
    path, memory = path_of(lbfgsb, lambda x: x[0].exp() - x[1], torch.tensor([0.5, 0.5]).double(), 12, **corner)
    assert path[-1].tolist() == [-1.0, 1.0] and memory["status"] == Status.CONVERGED
    _, memory = path_of(lbfgsb, lambda x: x.sum() * math.nan, torch.ones(2).double(), 1, **corner)
    assert memory["status"] == Status.NOT_FINITE
    assert minimize(lambda x: x[0] ** 2 - x[1], torch.ones(2).double(), method="l-bfgs-b").status == Status.UNBOUNDED
    climbing = {"jac": lambda x: -2 * x, "bounds": [(-3, 3), (-3, 3)]}
    assert minimize(lambda x: x.square().sum(), torch.ones(2).double(), **climbing).status == Status.LINE_SEARCH_FAILED


def test_stale_pairs_of_another_function_do_no_harm():
    knobs = {"lower": -1.0, "upper": 0.8}
    _, memory = path_of(lbfgsb, rosenbrock, torch.tensor([-1.0, 0.5]).double(), 8, **knobs)
    f, theta = Evaluations(lambda x: (1e6 * x**4 - x).sum()), torch.tensor([0.7, 0.7]).double()
    for _ in range(40):
        _, g = f.value_and_gradient(theta)
        delta, memory = lbfgsb.step({"g": g, "theta": theta, "f": f}, memory, lbfgsb.with_defaults(knobs))
        theta = theta + delta
    torch.testing.assert_close(theta, torch.full((2,), 4e6**-1).double() ** (1 / 3), rtol=1e-4, atol=0.0)
