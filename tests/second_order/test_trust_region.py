import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from thalweg.core.derivatives import Product
from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.second_order.radius import agreement, natural_radius, resized
from thalweg.second_order.trust_newton import dogleg as dogleg_rule
from thalweg.second_order.trust_newton import trust_exact, trust_krylov, trust_ncg
from thalweg.second_order.trust_region import Step, dogleg, exact, lanczos, steihaug

RULES = [trust_exact, trust_krylov, trust_ncg, dogleg_rule]
SCALES, RADII = [1e-12, 1e-6, 1.0, 1e6, 1e12], [1e-3, 1.0, 1e3]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_eigenvalues(values, seed=0):
    """A matrix, and its eigenvectors in columns."""
    Q = torch.linalg.qr(drawn(len(values), len(values), seed=seed)).Q
    return Q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ Q.T, Q


def positive(seed):
    return with_eigenvalues(torch.logspace(-2, 2, 9), seed)[0], drawn(9, seed=seed + 1)


def indefinite(seed):
    return with_eigenvalues([-5.0, -1.0, -0.1, 0.0, 0.5, 2.0, 30.0], seed)[0], drawn(7, seed=seed + 1)


def hard(seed):
    H, Q = with_eigenvalues([-5.0, -1.0, 0.5, 2.0, 30.0], seed)
    return H, Q[:, 1:] @ drawn(4, seed=seed + 1)  # nothing along the lowest eigenvector


def hard_and_repeated(seed):
    H, Q = with_eigenvalues([-5.0, -5.0, 0.5, 2.0, 30.0], seed)
    return H, Q[:, 2:] @ drawn(3, seed=seed + 1)


def nearly_hard(seed):
    H, Q = with_eigenvalues([-5.0, -1.0, 0.5, 2.0, 30.0], seed)
    return H, Q @ torch.cat([torch.tensor([1e-9], dtype=torch.float64), drawn(4, seed=seed + 1)])


def singular(seed):
    H, Q = with_eigenvalues([0.0, 0.0, 0.5, 2.0, 30.0], seed)
    return H, Q[:, 2:] @ drawn(3, seed=seed + 1)


def repeated(seed):
    return with_eigenvalues([3.0] * 6, seed)[0], drawn(6, seed=seed + 1)


KINDS = [positive, indefinite, hard, hard_and_repeated, nearly_hard, singular, repeated]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def model(H, g, p):
    return float(g @ p + p @ H @ p / 2)


def assert_optimal(H, g, radius, step):
    """Moré and Sorensen's conditions, against the eigenvalues of H."""
    w, scale = torch.linalg.eigvalsh(H), float(H.abs().max())
    size = float(step.p.norm())
    multiplier = -float(step.p @ (H @ step.p + g)) / size**2 if step.on_boundary else 0.0
    rounding = 1e-10 * max(scale, multiplier)
    assert size <= radius * (1 + 1e-10)
    assert multiplier >= -rounding and multiplier + float(w[0]) >= -rounding
    assert float((H @ step.p + multiplier * step.p + g).norm()) <= 10 * rounding * size + 1e-10 * float(g.norm())
    if step.on_boundary:
        assert size == pytest.approx(radius, rel=1e-8)
    assert step.predicted == pytest.approx(-model(H, g, step.p), rel=1e-8)


# The subproblem


@every_kind
def test_the_exact_solution_fulfils_the_conditions_of_more_and_sorensen(kind):
    for seed, scale, radius in itertools.product((1, 2), SCALES, RADII):
        H, g = kind(seed)
        assert_optimal(scale * H, scale * g, radius, exact(scale * H, scale * g, radius))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_a_hessian_far_larger_or_smaller_than_the_gradient_is_solved_exactly(scale):
    for kind in (positive, indefinite):
        H, g = kind(3)
        for radius in (1e-9, 1.0, 1e9):
            assert_optimal(scale * H, g, radius, exact(scale * H, g, radius))


def test_columns_of_very_different_scales_keep_their_digits_in_a_newton_step():
    D = torch.logspace(-6, 6, 5, dtype=torch.float64)
    H, g = D[:, None] * (torch.eye(5) + 0.1).double() * D, D
    expected = torch.linalg.solve((torch.eye(5) + 0.1).double(), -torch.ones(5, dtype=torch.float64)) / D
    torch.testing.assert_close(exact(H, g, 1e9).p, expected, rtol=1e-12, atol=0.0)


@every_kind
def test_lanczos_in_all_dimensions_is_exact_through_breakdown_and_hard_case(kind):
    H, g = kind(4)
    for scale, radius in itertools.product(SCALES, RADII):
        step, reference = lanczos(scale * H, scale * g, radius, 0.0), exact(scale * H, scale * g, radius)
        assert step.predicted == pytest.approx(reference.predicted, rel=1e-7)
        assert float(step.p.norm()) <= radius * (1 + 1e-10)
        assert step.on_boundary == reference.on_boundary or kind is singular  # where rounding decides


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_lanczos_breaks_down_at_once_on_a_multiple_of_the_identity(n):
    g = drawn(n, seed=1)
    torch.testing.assert_close(lanczos(2 * torch.eye(n).double(), g, 100.0).p, -g / 2)
    step = lanczos(-2 * torch.eye(n).double(), g, 1.0)
    torch.testing.assert_close(step.p, -g / g.norm())


def test_lanczos_stops_early_where_that_is_accurate_enough():
    H, g = with_eigenvalues(torch.linspace(1, 2, 50))[0], drawn(50, seed=1)
    products = []
    step = lanczos(lambda u: (products.append(1), H @ u)[1], g, 1e9, 1e-3)
    assert len(products) < 10 and float((H @ step.p + g).norm()) <= 1e-3 * float(g.norm())


def test_truncated_conjugate_gradients_inside_the_region_are_newtons_step():
    H, g = positive(5)
    for scale in SCALES:
        step = steihaug(scale * H, scale * g, 1e6, 1e-13)
        torch.testing.assert_close(step.p, -torch.linalg.solve(H, g), rtol=1e-6, atol=1e-8)
        assert not step.on_boundary and step.predicted == pytest.approx(-model(scale * H, scale * g, step.p), rel=1e-6)


@every_kind
@pytest.mark.parametrize("solve", [steihaug, lanczos, exact], ids=lambda solve: solve.__name__)
def test_every_solution_is_at_least_as_low_as_the_cauchy_step(kind, solve):
    for scale, radius in itertools.product(SCALES, RADII):
        H, g = (scale * x for x in kind(6))
        curvature = float(g @ H @ g)
        along = min(float(g @ g) / curvature, radius / float(g.norm())) if curvature > 0 else radius / float(g.norm())
        step = solve(H, g, radius, 0.1)
        assert model(H, g, step.p) <= model(H, g, -along * g) * (1 - 1e-9)
        assert float(step.p.norm()) <= radius * (1 + 1e-9)
        assert step.predicted == pytest.approx(-model(H, g, step.p), rel=1e-6)


def test_negative_curvature_takes_conjugate_gradients_to_the_boundary():
    H, g = indefinite(7)
    step = steihaug(H, g, 3.0)
    assert step.on_boundary and float(step.p.norm()) == pytest.approx(3.0)


@pytest.mark.parametrize("solve", [lanczos, exact], ids=lambda solve: solve.__name__)
def test_at_a_saddle_the_step_goes_along_negative_curvature(solve):
    H, Q = with_eigenvalues([-2.0, 1.0, 5.0, 6.0])
    step = solve(H, torch.zeros(4, dtype=torch.float64), 0.5, 1e-8)
    assert step.on_boundary and step.predicted == pytest.approx(2.0 * 0.5**2 / 2)
    assert abs(float(step.p @ Q[:, 0])) == pytest.approx(0.5)


@pytest.mark.parametrize("solve", [steihaug, lanczos, exact, dogleg], ids=lambda solve: solve.__name__)
def test_at_a_minimum_there_is_no_step(solve):
    step = solve(torch.eye(3), torch.zeros(3), 1.0, 0.1)
    assert not step.p.any() and step.predicted == 0 and not step.on_boundary and step.status == Status.GOING_ON


@pytest.mark.parametrize("solve", [steihaug, lanczos, exact, dogleg], ids=lambda solve: solve.__name__)
def test_a_hessian_that_is_no_number_has_a_status(solve):
    step = solve(torch.eye(3) * math.nan, torch.ones(3), 1.0, 0.1)
    assert step.status == Status.NOT_FINITE and not step.p.any()


@pytest.mark.parametrize("solve", [steihaug, lanczos, exact, dogleg], ids=lambda solve: solve.__name__)
def test_a_product_does_as_well_as_a_matrix(solve):
    H, g = positive(8)
    for radius in (0.1, 1e3):
        assert torch.equal(solve(H.mv, g, radius, 0.1).p, solve(H.mv, g, radius, 0.1).p)
        torch.testing.assert_close(solve(H.mv, g, radius, 0.1).p, solve(H, g, radius, 0.1).p)


def test_the_dogleg_bends_at_the_cauchy_step_and_ends_at_newtons():
    H, g = torch.diag(torch.tensor([1.0, 10.0]).double()), torch.tensor([1.0, 10.0]).double()
    cauchy, newton = -g * float(g @ g) / float(g @ H @ g), -torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(dogleg(H, g, 0.5).p, -0.5 * g / g.norm())
    torch.testing.assert_close(dogleg(H, g, float(cauchy.norm())).p, cauchy)
    torch.testing.assert_close(dogleg(H, g, 2.0).p, newton)
    between = dogleg(H, g, 1.2)
    assert float(between.p.norm()) == pytest.approx(1.2) and between.on_boundary
    side, way = between.p - cauchy, newton - cauchy
    assert abs(float(side[0] * way[1] - side[1] * way[0])) < 1e-12


@pytest.mark.parametrize("least", [-1.0, 0.0, -1e-14])
def test_the_dogleg_goes_to_the_boundary_where_the_hessian_is_not_positive(least):
    H, g = torch.diag(torch.tensor([1.0, least])).double(), torch.ones(2).double()
    step = dogleg(H, g, 1.0)
    assert step.on_boundary and float(step.p.norm()) == pytest.approx(1.0)
    assert step.predicted == pytest.approx(-float(g @ step.p + step.p @ H @ step.p / 2))
    assert step.predicted > float(g.norm()) / 2


def test_the_dogleg_of_a_model_without_curvature_is_the_steepest_descent():
    torch.testing.assert_close(dogleg(torch.zeros(2, 2), torch.tensor([3.0, 4.0]), 2.0).p, torch.tensor([-1.2, -1.6]))


# The radius


def test_the_radius_shrinks_on_disagreement_and_grows_on_agreement_at_the_boundary():
    inside, on = (Step(torch.tensor([3.0, 4.0]), 1.0, boundary) for boundary in (False, True))
    assert resized(10.0, 0.2, inside) == 1.25 and resized(5.0, -math.inf, on) == 1.25
    assert resized(10.0, 0.9, inside) == 10.0 and resized(5.0, 0.5, on) == 5.0
    assert resized(5.0, 0.9, on) == 10.0


def test_no_number_is_no_agreement():
    assert agreement(1.0, math.inf, 1.0) == agreement(1.0, math.nan, 1.0) == -math.inf
    assert agreement(3.0, 1.0, 4.0) == 0.5


def test_the_first_radius_is_scaled_as_theta_is_and_not_as_f_is():
    H, g = positive(9)
    assert natural_radius(1e9 * H, 1e9 * g, g) == pytest.approx(natural_radius(H, g, g))
    assert natural_radius(H / 49, g / 7, g) == pytest.approx(7 * natural_radius(H, g, g))  # theta is 7 z
    assert natural_radius(torch.zeros(2, 2), torch.ones(2), torch.tensor([3.0, 4.0])) == pytest.approx(5.0)


# The rules


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def convex(x):
    return torch.logsumexp(torch.stack([x[0], -x[0], 2 * x[1], -x[1]]), 0) + (x[0] - 1) ** 2 / 20


def followed(rule, f, theta, steps=200, memory=None, gtol=0.0, **knobs):
    """Where the rule ends, the path there, its memory and its status."""
    f = f if isinstance(f, Evaluations) else Evaluations(f)
    memory = rule.start(theta, **knobs) if memory is None else memory
    path = [theta]
    for _ in range(steps):
        _, g = f.value_and_gradient(theta)
        if float(g.abs().max()) <= gtol:
            break
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, rule.with_defaults(knobs))
        theta = theta + delta
        path.append(theta)
        if memory["status"] != Status.GOING_ON:
            break
    return SimpleNamespace(theta=theta, path=path, memory=memory, status=Status(memory["status"]), f=f)


START = torch.tensor([-1.2, 1.0], dtype=torch.float64)


@every_rule
def test_a_quadratic_is_one_step_once_the_radius_allows_it(rule):
    H, _ = positive(10)
    end = followed(rule, lambda x: x @ H @ x / 2, drawn(9, seed=3), steps=30, radius=1e6, gtol=1e-12)
    assert end.theta.norm() < 1e-6 and len(end.path) <= (3 if rule in (trust_exact, dogleg_rule) else 8)


@pytest.mark.parametrize("rule", RULES[:3], ids=lambda rule: rule.name)
def test_the_scale_of_f_makes_no_difference(rule):
    reference = followed(rule, rosenbrock, START, steps=12)
    for scale in (1e-12, 1e12):
        scaled = followed(rule, lambda x, scale=scale: scale * rosenbrock(x), START, steps=12)
        for one, other in zip(reference.path, scaled.path, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("rule", RULES[:3], ids=lambda rule: rule.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_walks_the_banana_valley_to_its_end_and_says_so(rule, dtype):
    end = followed(rule, lambda x: rosenbrock(x) + 1, START.to(dtype))  # f* is 1: rounding is felt
    assert end.status == Status.CONVERGED and end.f.nfev < 60
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=dtype), rtol=0.0, atol=torch.finfo(dtype).eps ** 0.5)


@every_rule
def test_where_rounding_hides_what_the_model_promises_the_last_step_is_taken_and_nothing_more_tried(rule):
    theta = torch.tensor([1e-9, -1e-9], dtype=torch.float64)
    end = followed(rule, lambda x: x.cosh().sum(), theta)
    assert end.status == Status.CONVERGED and end.f.nfev == 2
    assert float(end.theta.norm()) < 1e-12


@every_rule
def test_a_rough_solution_that_promises_nothing_is_not_taken_for_the_end(rule):
    # conjugate gradients are content with the first component, whose share of f is below rounding
    def f(x):
        return 1 + (1e8 * x[0] ** 2 + x[1] ** 2) / 2

    end = followed(rule, f, torch.tensor([1e-12, 5e-6], dtype=torch.float64))
    assert float(end.theta.norm()) < 1e-9


@pytest.mark.parametrize("rule", [trust_exact, dogleg_rule], ids=lambda rule: rule.name)
def test_it_converges_quadratically(rule):
    end = followed(rule, convex, torch.tensor([0.5, 0.5], dtype=torch.float64), steps=12)
    errors = [float((x - end.theta).norm()) for x in end.path]
    orders = [math.log(b) / math.log(a) for a, b in itertools.pairwise(errors) if 1e-13 < b < a < 0.05]
    assert orders and min(orders) > 1.6


@every_rule
def test_a_step_is_one_that_f_agrees_with(rule):
    end = followed(rule, convex, torch.tensor([8.0, -5.0], dtype=torch.float64))
    values = [float(convex(x)) for x in end.path]
    assert all(b <= a + 1e-15 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("rule", [trust_exact, trust_krylov], ids=lambda rule: rule.name)
def test_it_leaves_a_saddle_from_its_ridge(rule):
    def f(x):
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4

    end = followed(rule, f, torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert end.status == Status.CONVERGED and float(f(end.theta)) == pytest.approx(-0.25)


@every_rule
def test_it_goes_on_bit_by_bit_from_what_it_remembers(rule):
    whole = followed(rule, convex, torch.tensor([3.0, -2.0], dtype=torch.float64), steps=6)
    half = followed(rule, convex, torch.tensor([3.0, -2.0], dtype=torch.float64), steps=3)
    again = followed(rule, convex, half.theta, steps=3, memory=json.loads(json.dumps(half.memory)))
    assert torch.equal(whole.theta, again.theta) and whole.memory == again.memory


@every_rule
def test_what_is_no_number_is_contracted_away_from(rule):
    end = followed(rule, lambda x: -torch.log(x).sum() + x.sum(), torch.tensor([0.1, 5.0]).double(), radius=1e6)
    assert end.status == Status.CONVERGED
    torch.testing.assert_close(end.theta, torch.ones(2, dtype=torch.float64), atol=1e-7, rtol=0.0)


@every_rule
def test_a_start_that_is_no_number_is_named(rule):
    theta = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    end = followed(rule, lambda x: torch.log(x).sum(), theta, steps=3)
    assert end.status == Status.NOT_FINITE and torch.equal(end.theta, theta)


@pytest.mark.parametrize("rule", RULES[:3], ids=lambda rule: rule.name)
def test_an_f_that_falls_for_ever_is_named(rule):
    theta = torch.ones(2, dtype=torch.float64)
    end = followed(rule, lambda x: -((x + 1) ** 2).sum(), theta, radius=1e80)
    assert end.status == Status.UNBOUNDED and bool(end.theta.isfinite().all())


class Wrong:
    """A quadratic whose gradient points uphill."""

    def __call__(self, theta):
        return (theta * theta).sum()

    def value_and_gradient(self, theta):
        return self(theta), -2 * theta

    def hessian_at(self, theta):
        return Product(lambda u: 2 * u)

    def hessian(self, theta):
        return 2 * torch.eye(len(theta), dtype=theta.dtype)


@every_rule
def test_a_gradient_that_is_wrong_collapses_the_radius_and_theta_stays(rule):
    theta = torch.tensor([1.0, 2.0], dtype=torch.float64)
    end = followed(rule, Wrong(), theta)
    assert end.status == Status.RADIUS_COLLAPSED and torch.equal(end.theta, theta)
    assert end.memory["region"] == 0 and end.f.nfev < 60


class WrongHessian(Wrong):
    """The Hessian alone is wrong, and indefinite."""

    def value_and_gradient(self, theta):
        return self(theta), 2 * theta

    def hessian(self, theta):
        return torch.tensor([[1.0, 5.0], [5.0, -3.0]], dtype=theta.dtype)

    def hessian_at(self, theta):
        return Product(self.hessian(theta).mv)


@pytest.mark.parametrize("rule", RULES[:3], ids=lambda rule: rule.name)
def test_a_wrong_hessian_costs_steps_and_not_the_descent(rule):
    end = followed(rule, WrongHessian(), torch.tensor([1.0, 2.0], dtype=torch.float64), steps=300, gtol=1e-6)
    assert float(end.theta.norm()) < 1e-6


@every_rule
def test_a_radius_left_too_small_by_something_else_grows_again(rule):
    theta = torch.tensor([3.0, -2.0], dtype=torch.float64)
    memory = {**rule.start(theta), "region": 1e-20}
    end = followed(rule, lambda x: convex(x) + 1, theta, memory=memory)
    assert end.status == Status.CONVERGED and end.f.nfev < 100
    torch.testing.assert_close(end.theta, followed(rule, convex, theta).theta, atol=1e-6, rtol=0.0)


@every_rule
def test_nothing_that_is_given_changes(rule):
    theta = torch.tensor([3.0, -2.0], dtype=torch.float64)
    f = Evaluations(convex)
    g = f.value_and_gradient(theta)[1]
    kept = theta.clone(), g.clone()
    rule.step({"g": g, "theta": theta, "f": f}, rule.start(theta), rule.knobs)
    assert torch.equal(theta, kept[0]) and torch.equal(g, kept[1])
