"""The Moré-Garbow-Hillstrom problems are those of the paper: sizes, published optima, values by loops as printed."""

import math
import runpy
from pathlib import Path

import pytest
import torch
from scipy.optimize import least_squares

ROOT = Path(__file__).parents[2]
MGH = runpy.run_path(str(ROOT / "benchmarks" / "mgh_problems.py"))
PROBLEMS = MGH["PROBLEMS"]
each = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)

# n, m, and F at the solution as the paper prints it (six digits), for the dimensions chosen here
PAPER = {
    1: (2, 2, [0]), 2: (2, 2, [0, 48.9842]), 3: (2, 2, [0]), 4: (2, 3, [0]), 5: (2, 3, [0]), 6: (2, 10, [124.362]),
    7: (3, 3, [0]), 8: (3, 15, [8.21487e-3, 17.4286]), 9: (3, 15, [1.12793e-8]), 10: (3, 16, [87.9458]),
    11: (3, 99, [0]), 12: (3, 10, [0]), 13: (4, 4, [0]), 14: (4, 6, [0]), 15: (4, 11, [3.07505e-4, 1.02734e-3]),
    16: (4, 20, [85822.2]), 17: (5, 33, [5.46489e-5]), 18: (6, 13, [0, 5.65565e-3]), 19: (11, 65, [4.01377e-2]),
    20: (12, 31, [4.72238e-10]), 21: (10, 10, [0]), 22: (12, 12, [0]), 23: (10, 11, [7.08765e-5]),
    24: (10, 20, [2.93660e-4]), 25: (10, 12, [0]), 26: (10, 10, [0]), 27: (10, 10, [0, 1]), 28: (10, 10, [0]),
    29: (10, 10, [0]), 30: (10, 10, [0]), 31: (10, 10, [0]), 32: (10, 20, [10]), 33: (10, 20, [4.63415]),
    34: (10, 20, [6.13514]), 35: (8, 8, [3.51687e-3]),
}  # fmt: skip
# the first residuals' F at the standard start, found by the loops below or by optimagic 0.5.3 and S2MPJ, which agree
AT_START = {
    1: 24.2, 2: 400.5, 4: 999998000003.0, 5: 14.203125, 6: 4171.306161960494, 7: 2500.0, 8: 41.68169586167801,
    9: 3.8881069911668764e-06, 10: 1693607809.4361455, 12: 1031.1538106093983, 13: 215.0, 15: 0.00531317227210854,
    16: 7926693.336997433, 18: 0.7790700756559701, 19: 2.0934195142120644, 20: 30.0, 23: 148032.56535, 22: 645.0,
    25: 2198551.1625, 27: 273.2480478286743, 35: 0.0386176982859303,
}  # fmt: skip


def test_the_paper_has_thirty_five_problems_and_sixty_nine_runs():
    assert [problem.number for problem in PROBLEMS] == list(range(1, 36))
    assert len(list(MGH["runs"]())) == 69


@each
def test_the_sizes_and_optima_are_those_that_the_paper_prints(problem):
    n, m, values = PAPER[problem.number]
    assert (len(problem.x0), problem.m, problem.residuals(problem.x0).shape) == (n, m, (m,))
    ours = (problem.optimum, *problem.local_minima)
    assert ours[: len(values)] == pytest.approx(values, rel=2e-5, abs=0)
    assert problem.solved(problem.optimum) and not problem.solved(problem.optimum + 1e-4 * (1 + problem.optimum))


@each
def test_the_value_at_the_start_is_that_of_other_translations(problem):
    if problem.number in AT_START:
        assert problem.objective(problem.x0).item() == pytest.approx(AT_START[problem.number], rel=1e-12)


@each
def test_the_stated_optimum_is_stationary_and_reached_from_the_start(problem):
    def residuals(x):
        return problem.residuals(torch.from_numpy(x)).numpy()

    def jacobian(x):
        return torch.func.jacrev(problem.residuals)(torch.from_numpy(x)).numpy()

    tight = {"ftol": 3e-16, "xtol": 3e-16, "gtol": 3e-16, "x_scale": "jac", "method": "lm"}
    found = least_squares(residuals, problem.x0.numpy(), jacobian, **tight, max_nfev=700)
    values = (problem.optimum, *problem.local_minima)
    assert min(abs(2 * found.cost - value) - 1e-8 * value for value in values) <= 1e-19
    columns = abs(found.jac).max(0) + (found.jac == 0).all(0)
    assert abs(found.grad / columns).max() <= 1e-6 * max(1.0, (2 * found.cost) ** 0.5)


@each
def test_gradients_and_hessians_are_those_of_finite_differences_and_of_torch_func(problem):
    # where the start is a kink or a symmetry of the problem, a point beside it says more
    x = problem.x0 * 1.01 + 0.003 * torch.arange(1.0, len(problem.x0) + 1, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(problem.objective(leaf), leaf)
    h = 1e-6 * x.abs().clamp(min=1e-2)
    ends = [torch.func.vmap(problem.objective)(x + sign * torch.diag(h)) for sign in (1, -1)]
    differences = (ends[0] - ends[1]) / (2 * h)
    floor = 1e-15 * problem.objective(x) / h.min()
    assert torch.allclose(g, differences, rtol=1e-5, atol=(1e-7 * g.abs().max() + floor).item())
    hessian = torch.func.jacrev(torch.func.grad(problem.objective))(x)
    assert torch.allclose(hessian, hessian.T, rtol=1e-9, atol=1e-12 * hessian.abs().max().item())


def wood(x):
    a, b, c, d = x
    return [10 * (b - a * a), 1 - a, 90**0.5 * (d - c * c), 1 - c, 10**0.5 * (b + d - 2), (b - d) / 10**0.5]


def extended_rosenbrock(x):
    pairs = zip(x[::2], x[1::2], strict=True)
    return [r for a, b in pairs for r in (10 * (b - a * a), 1 - a)]


def trigonometric(x):
    n = len(x)
    return [n - sum(map(math.cos, x)) + i * (1 - math.cos(xi)) - math.sin(xi) for i, xi in enumerate(x, 1)]


def discrete_integral(x):
    h = 1 / (len(x) + 1)
    terms = [(j * h, (xj + j * h + 1) ** 3) for j, xj in enumerate(x, 1)]
    return [
        xi
        + h / 2 * (1 - i * h) * sum(t * cube for t, cube in terms[:i])
        + h / 2 * i * h * sum((1 - t) * cube for t, cube in terms[i:])
        for i, xi in enumerate(x, 1)
    ]


def broyden_banded(x):
    near = [[xj * (1 + xj) for j, xj in enumerate(x) if j != i and i - 5 <= j <= i + 1] for i in range(len(x))]
    return [xi * (2 + 5 * xi * xi) + 1 - sum(terms) for xi, terms in zip(x, near, strict=True)]


def linear_rank_1_zeros(x, m=20):
    inner = sum(j * x[j - 1] for j in range(2, len(x)))
    return [-1.0, *((i - 1) * inner - 1 for i in range(2, m)), -1.0]


def helical_valley(x):
    angle = math.atan(x[1] / x[0]) / (2 * math.pi) + (0.5 if x[0] < 0 else 0)
    return [10 * (x[2] - 10 * angle), 10 * (math.hypot(x[0], x[1]) - 1), x[2]]


BY_LOOPS = [
    wood, extended_rosenbrock, trigonometric, discrete_integral, broyden_banded, linear_rank_1_zeros, helical_valley
]  # fmt: skip


@pytest.mark.parametrize("by_loops", BY_LOOPS, ids=lambda f: f.__name__)
def test_problems_without_a_twin_elsewhere_are_the_papers_sums_written_as_loops(by_loops):
    problem = next(problem for problem in PROBLEMS if problem.residuals.__name__ == by_loops.__name__)
    generator = torch.Generator().manual_seed(3)
    for scale in (0.0, 0.3, 3.0):
        x = problem.x0 + scale * torch.randn(len(problem.x0), generator=generator, dtype=torch.float64)
        expected = torch.tensor(by_loops(x.tolist()), dtype=torch.float64)
        torch.testing.assert_close(problem.residuals(x), expected, rtol=1e-13, atol=1e-13)


def test_a_value_between_two_minima_is_not_a_solution():
    two = next(problem for problem in PROBLEMS if problem.name == "Freudenstein-Roth")
    assert two.solved(48.98425368) and two.solved(1e-9)
    assert not two.solved(48.9) and not two.solved(49.0)
