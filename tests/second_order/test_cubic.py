import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from thalweg.core.derivatives import Product, hessian
from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.second_order.cubic_newton import cubic_newton, reweighed, within
from thalweg.second_order.secular import at_most_one, cubic, secular
from thalweg.second_order.trust_region import Step

START = torch.tensor([-1.2, 1.0], dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_eigenvalues(values, seed=0):
    Q = torch.linalg.qr(drawn(len(values), len(values), seed=seed)).Q
    return Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T, Q


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def followed(f, theta, steps=300, memory=None, gtol=0.0, **knobs):
    f = f if isinstance(f, Evaluations) else Evaluations(f)
    memory = cubic_newton.start(theta, **knobs) if memory is None else memory
    path = [theta]
    for _ in range(steps):
        _, g = f.value_and_gradient(theta)
        if float(g.abs().max()) <= gtol:
            break
        seen = {"g": g, "theta": theta, "f": f}
        delta, memory = cubic_newton.step(seen, memory, cubic_newton.with_defaults(knobs))
        theta = theta + delta
        path.append(theta)
        if memory["status"] != Status.GOING_ON:
            break
    return SimpleNamespace(theta=theta, path=path, memory=memory, status=Status(memory["status"]), f=f)


# The subproblem


@pytest.mark.parametrize("values", [[1.0, 2.0, 30.0], [-3.0, 0.0, 2.0], [-3.0, -3.0, 5.0]], ids=str)
@pytest.mark.parametrize("hard", [False, True], ids=["", "hard"])
def test_the_minimum_of_the_cubic_model_fulfils_its_conditions(values, hard):
    for seed, sigma, scale in itertools.product((1, 2), (1e-6, 1.0, 1e6), (1e-12, 1.0, 1e12)):
        H, Q = with_eigenvalues(values, seed)
        lowest = sum(value == values[0] for value in values)
        g = Q[:, lowest:] @ drawn(3 - lowest, seed=seed) if hard else drawn(3, seed=seed)
        H, g, sigma = scale * H, scale * g, scale * sigma
        s, predicted, _ = within(H, g, sigma)
        size = float(s.norm())
        multiplier = sigma * size
        largest = float(H.abs().max()) + multiplier
        assert float((H @ s + multiplier * s + g).norm()) <= 1e-8 * (largest * size + float(g.norm()))
        assert multiplier + float(torch.linalg.eigvalsh(H)[0]) >= -1e-9 * largest
        assert predicted == pytest.approx(-float(g @ s + s @ H @ s / 2 + sigma * size**3 / 3), rel=1e-6)


def test_without_weight_it_is_newtons_step_and_with_much_the_steepest_descent():
    H, g = with_eigenvalues([1.0, 2.0, 30.0])[0], drawn(3, seed=1)
    torch.testing.assert_close(within(H, g, 1e-14)[0], -torch.linalg.solve(H, g))
    s = within(H, g, 1e14)[0]
    torch.testing.assert_close(s / s.norm(), -g / g.norm(), rtol=1e-5, atol=1e-5)


def test_in_one_dimension_it_is_the_root_of_a_quadratic():
    h, g, sigma = -2.0, 3.0, 0.5  # sigma s² + h s - g is 0 for the length s
    s, _, shortened = within(torch.tensor([[h]]).double(), torch.tensor([g]).double(), sigma)
    assert float(s) == pytest.approx(-(-h + math.sqrt(h * h + 4 * sigma * g)) / (2 * sigma)) and shortened


@pytest.mark.parametrize("length", [at_most_one, cubic(1.0)], ids=["trust region", "cubic"])
def test_the_secular_equation_is_solved_however_small_the_lowest_component(length):
    w = torch.tensor([-1.0, 1.0, 3.0]).double()
    for tiny in (1e-3, 1e-9, 1e-15, 1e-30, 1e-150, 0.0):
        s, multiplier = secular(w, torch.tensor([tiny, 1.5, 2.0]).double(), length)
        assert float(s.norm()) * length(multiplier)[0] == pytest.approx(1.0)
        torch.testing.assert_close((w + multiplier)[1:] * s[1:], torch.tensor([-1.5, -2.0]).double())


# The rule


def test_a_quadratic_needs_few_steps_as_sigma_vanishes():
    H, _ = with_eigenvalues(torch.logspace(-1, 2, 8))
    end = followed(lambda x: x @ H @ x / 2, drawn(8, seed=1), gtol=1e-10)
    assert len(end.path) < 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_walks_the_banana_valley_to_its_end_and_says_so(dtype):
    end = followed(lambda x: rosenbrock(x) + 1, START.to(dtype))  # f* is 1: rounding is felt
    assert end.status == Status.CONVERGED and end.f.nfev < 80
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=dtype), rtol=0.0, atol=torch.finfo(dtype).eps ** 0.5)


def test_the_scale_of_f_makes_no_difference():
    reference = followed(rosenbrock, START, steps=12)
    for scale in (1e-12, 1e12):
        scaled = followed(lambda x, scale=scale: scale * rosenbrock(x), START, steps=12)
        for one, other in zip(reference.path, scaled.path, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_it_converges_faster_than_linearly():
    def f(x):
        return torch.logsumexp(torch.stack([x[0], -x[0], 2 * x[1], -x[1]]), 0) + (x[0] - 1) ** 2 / 20

    minimum = followed(f, torch.zeros(2, dtype=torch.float64)).theta
    errors = [float((x - minimum).norm()) for x in followed(f, torch.tensor([0.6, 0.4]).double(), steps=15).path]
    orders = [math.log(b) / math.log(a) for a, b in itertools.pairwise(errors) if 1e-12 < b < a < 1e-2]
    assert orders and orders[-1] > 1.4


def test_it_leaves_a_saddle_from_its_ridge():
    def f(x):
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4

    end = followed(f, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert end.status == Status.CONVERGED and float(f(end.theta)) == pytest.approx(-0.25)
    assert float(torch.linalg.eigvalsh(hessian(f, end.theta))[0]) > 0


def test_sigma_rises_on_disagreement_and_falls_on_agreement():
    step = Step(torch.ones(1), 1.0, True)
    assert [1 / reweighed(1.0, ratio, step) for ratio in (-math.inf, 0.05, 0.5, 0.9)] == [10.0, 10.0, 1.0, 0.25]


def test_it_goes_on_bit_by_bit_from_what_it_remembers():
    whole, half = followed(rosenbrock, START, steps=6), followed(rosenbrock, START, steps=3)
    again = followed(rosenbrock, half.theta, steps=3, memory=json.loads(json.dumps(half.memory)))
    assert torch.equal(whole.theta, again.theta) and whole.memory == again.memory


def test_what_is_no_number_is_contracted_away_from():
    end = followed(lambda x: -torch.log(x).sum() + x.sum(), torch.tensor([0.1, 5.0]).double(), sigma=1e-9)
    assert end.status == Status.CONVERGED
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=torch.float64), atol=1e-7, rtol=0.0)


def test_a_start_that_is_no_number_is_named():
    theta = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    end = followed(lambda x: torch.log(x).sum(), theta, steps=3)
    assert end.status == Status.NOT_FINITE and torch.equal(end.theta, theta)


def test_an_f_that_falls_for_ever_is_named():
    end = followed(lambda x: -((x + 1) ** 2).sum(), torch.ones(2, dtype=torch.float64), sigma=1e-80)
    assert end.status == Status.UNBOUNDED and bool(end.theta.isfinite().all())


class Wrong:
    """A quadratic whose gradient points uphill."""

    def __call__(self, theta):
        return (theta * theta).sum()

    def value_and_gradient(self, theta):
        return self(theta), -2 * theta

    def hessian_at(self, theta):
        return Product(lambda u: 2 * u)


def test_a_gradient_that_is_wrong_collapses_the_step_and_theta_stays():
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    end = followed(Wrong(), theta)
    assert end.status == Status.RADIUS_COLLAPSED and torch.equal(end.theta, theta)


def test_a_rough_solution_that_promises_nothing_is_not_taken_for_the_end():
    # conjugate gradients are content with the first component, whose share of f is below rounding
    def f(x):
        return 1 + (1e8 * x[0] ** 2 + x[1] ** 2) / 2

    end = followed(f, torch.tensor([1e-12, 5e-6], dtype=torch.float64))
    assert float(end.theta.norm()) < 1e-9


def test_a_sigma_left_too_large_by_something_else_falls_again():
    memory = {**cubic_newton.start(START), "lightness": 1e-30}
    end = followed(lambda x: rosenbrock(x) + 1, START, memory=memory)
    assert end.status == Status.CONVERGED and end.f.nfev < 120
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=torch.float64), rtol=0.0, atol=1e-7)
