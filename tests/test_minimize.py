"""minimize: what its docstring says of arguments, options, results and ends, on functions whose minimum is known."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning, rosen, rosen_der

import thalweg as tw
from thalweg.arguments import METHODS
from thalweg.core.errors import AlgorithmError
from thalweg.core.status import Status, going
from thalweg.minimize import minimize

SOLVERS = ["bfgs", "l-bfgs", "l-bfgs-b", "cg", "newton-cg", "trust-ncg", "trust-krylov", "trust-exact", "dogleg"]


def valley(x):
    """Rosenbrock's, with its minimum at ones."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def valleys_hessian(x):
    a, b = x.tolist()
    return [[1200 * a * a - 400 * b + 2, -400 * a], [-400 * a, 200]]


def bowl(x):
    """It is least at zero."""
    return (x * x).sum()


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


START = double(-1.2, 1.0)


@tw.rule
def projected(g, theta, *, lr=0.25, lower=-math.inf, upper=math.inf):
    """A step of gradient descent, to the nearest point inside the bounds."""
    return torch.clamp(theta - lr * g, lower, upper) - theta


# What is minimised, from where


@pytest.mark.parametrize("method", SOLVERS)
def test_every_solver_goes_down_the_valley(method):
    result = minimize(valley, START, method=method, tol=1e-8)
    assert result.success and result.status == Status.CONVERGED
    torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0, atol=1e-6)
    assert result.fun == valley(result.x).item()
    torch.testing.assert_close(result.jac, torch.func.grad(valley)(result.x))


def test_the_result_has_what_scipys_has():
    result = minimize(bowl, START)
    assert isinstance(result, OptimizeResult)
    names = ("x", "fun", "jac", "nit", "nfev", "njev", "nhev", "status", "message", "success")
    types = (torch.Tensor, float, torch.Tensor, int, int, int, int, int, str, bool)
    assert [type(result[name]) for name in names] == list(types)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 2)])
def test_x_keeps_the_shape_of_x0_and_functions_see_it(shape):
    def fun(x):
        assert x.shape == shape
        return bowl(x - 1)

    seen = []
    result = minimize(fun, torch.zeros(shape), callback=seen.append, options={"return_all": True})
    assert result.x.shape == result.jac.shape == shape
    assert {x.shape for x in [*seen, *result.allvecs]} == {torch.Size(shape)}
    torch.testing.assert_close(result.x, torch.ones(shape))


@pytest.mark.parametrize(
    ("x0", "dtype"),
    [
        (torch.ones(2), torch.float32),
        (torch.ones(2).double(), torch.float64),
        (torch.ones(2, dtype=torch.int64), torch.float32),
        (np.ones(2, np.float32), torch.float32),
        (np.ones(2), torch.float64),
        (np.ones(2, int), torch.float64),
        ([1, 2], torch.float64),
        ((1.0, 2.0), torch.float64),
        (3, torch.float64),
    ],
)
def test_x0_may_be_a_tensor_an_array_or_numbers_and_keeps_its_precision(x0, dtype):
    result = minimize(bowl, x0)
    assert result.success and result.x.dtype == result.jac.dtype == dtype


@pytest.mark.parametrize("method", [None, "adam"])
def test_x0_is_never_changed(method):
    for x0 in (START.clone(), START.clone().requires_grad_(), START.numpy().copy()):
        minimize(valley, x0, method=method, options={"maxiter": 3})
        assert list(x0) == list(START)


def test_x0_is_not_changed_where_fun_raises():
    x0, calls = START.clone(), []

    def fun(x):
        calls.append(x)
        if len(calls) == 3:
            raise RuntimeError("out of patience")
        return valley(x)

    with pytest.raises(RuntimeError, match="out of patience"):
        minimize(fun, x0)
    assert torch.equal(x0, START)


def test_functions_may_write_on_their_argument():
    def fun(x):
        return x.sub_(2).square_().sum()

    def jac(x):
        return x.sub_(2).mul_(2)

    def hess(x):
        x.zero_()
        return 2 * torch.eye(2)

    x0 = double(1.0, 5.0)
    for derivatives in ({}, {"jac": jac}, {"jac": jac, "hess": hess, "method": "newton-cg"}):
        torch.testing.assert_close(minimize(fun, x0, **derivatives).x, double(2.0, 2.0))
    assert torch.equal(x0, double(1.0, 5.0))


@pytest.mark.parametrize("args", [(3.0,), 3.0, [3.0]])
def test_args_go_to_every_function_and_need_not_be_a_tuple(args):
    def of(c):
        return c[0] if isinstance(c, list) else c

    result = minimize(
        lambda x, c: (x - of(c)).square().sum(), START, args, "newton-cg",
        jac=lambda x, c: 2 * (x - of(c)), hess=lambda x, c: 2 * torch.eye(2),
    )  # fmt: skip
    torch.testing.assert_close(result.x, double(3.0, 3.0))


def test_it_works_where_gradients_are_off():
    with torch.no_grad():
        assert minimize(valley, START).success
        assert minimize(valley, START, method="trust-exact").success


# Derivatives


def test_jac_may_be_numpys_and_fun_then_too():
    result = minimize(lambda x: rosen(x.numpy()), START, jac=lambda x: rosen_der(x.numpy()), tol=1e-8)
    torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("jac", [None, True, lambda x: torch.func.grad(valley)(x)], ids=["found", "True", "given"])
@pytest.mark.parametrize("method", ["bfgs", "cg", "newton-cg", "trust-exact"])
def test_no_point_is_evaluated_twice_and_the_counts_are_those_of_the_calls(method, jac):
    seen = []

    def fun(x):
        seen.append(tuple(x.tolist()))
        return (valley(x), torch.func.grad(valley)(x)) if jac is True else valley(x)

    result = minimize(fun, START, jac=jac, method=method, hess=valleys_hessian, options={"maxiter": 20})
    assert len(seen) == len(set(seen)) == result.nfev


def test_hess_and_hessp_are_used_where_a_method_wants_curvature():
    def quadratic(x):
        return (x * x).sum() + x.prod()

    H, used = double(2.0, 1.0, 1.0, 2.0).view(2, 2), []
    by_products = minimize(quadratic, START, hessp=lambda x, u: used.append(1) or H @ u, method="trust-ncg")
    assert by_products.success and len(used) == by_products.nhev
    whole = minimize(quadratic, START, hess=lambda x: used.append(1) or H, method="trust-exact")
    assert whole.success and whole.nit <= 3 and len(used) == by_products.nhev + whole.nhev
    assert "rung" not in whole and minimize(quadratic, START, method="newton-cg").rung == "double backward"


def test_a_hessian_is_found_of_a_gradient_by_its_differences():
    calls = []
    result = minimize(
        lambda x: rosen(x.numpy()), START, jac=lambda x: calls.append(1) or rosen_der(x.numpy()), method="newton-cg"
    )
    assert result.success and result.njev == len(calls)


def test_residuals_are_what_least_squares_takes():
    def residuals(x):
        return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    def jac(x):
        return [[-20 * float(x[0]), 10.0], [-1.0, 0.0]]

    for given in ({}, {"jac": jac}):
        result = minimize(residuals, START, method="lm", **given)
        torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0, atol=1e-6)
        assert result.fun == pytest.approx(0, abs=1e-12)
    with pytest.raises(AlgorithmError, match="takes the residuals"):
        minimize(residuals, START, method="lm", jac=True)


# Methods


def test_without_a_method_it_is_bfgs_and_l_bfgs_for_many_variables():
    assert "hess_inv" in minimize(bowl, torch.ones(500), options={"maxiter": 2})
    assert "hess_inv" not in minimize(bowl, torch.ones(501), options={"maxiter": 2})


@pytest.mark.parametrize("method", ["adam", "Adam", tw.adam, "muon", "sam", "schedule-free-adamw", "rmsprop_momentum"])
def test_any_algorithm_of_the_catalogue_is_a_method(method):
    result = minimize(bowl, torch.ones(2, 3), method=method, options={"lr": 0.02, "maxiter": 500})
    assert result.x.shape == (2, 3) and result.fun < 0.1


def test_a_rule_per_tensor_sees_x0s_shape():
    shapes = set()

    @tw.rule(per="tensor")
    def shaped(g, *, lr=0.5):
        shapes.add(g.shape)
        return -lr * g

    assert minimize(bowl, torch.ones(2, 3), method=shaped).success and shapes == {(2, 3)}


def test_a_rule_that_averages_answers_with_the_average():
    """From 1, on x²/2 with lr=2, gradient descent swings between 1 and -1; the average of them is the minimum."""
    result = minimize(
        lambda x: bowl(x) / 2, double(1.0), method=tw.averaged(tw.sgd), options={"lr": 2.0, "maxiter": 99}
    )
    assert result.fun < 1e-3 and result.jac == result.x


def test_scipys_names_are_known():
    for name in ("BFGS", "CG", "L-BFGS-B", "Newton-CG", "trust-ncg", "trust-krylov", "trust-exact", "dogleg"):
        assert minimize(bowl, START, method=name).success
    assert set(METHODS) == {"cg", "l-bfgs", "l-bfgs-b", "lm"}


# Options


@pytest.mark.parametrize("most", [-1, 0, 1, 4, 4.5])
def test_maxiter_is_respected(most):
    result = minimize(valley, START, options={"maxiter": most})
    assert result.nit == max(0, math.ceil(most)) and result.status == Status.ITERATIONS and not result.success
    assert minimize(valley, START, options={"maxiter": None}).success


def test_maxfev_ends_it_after_the_iteration_that_passes_it():
    result = minimize(valley, START, method="adam", options={"maxfev": 7})
    assert result.nfev == 7 and result.status == Status.EVALUATIONS


@pytest.mark.parametrize("method", ["bfgs", "newton-cg", "trust-exact"])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_the_scale_of_fun_does_not_decide_whether_it_converges(method, scale):
    result = minimize(lambda x: scale * valley(x), START, method=method)
    assert result.success
    torch.testing.assert_close(result.x, torch.ones(2).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("scale", "first"), [(1.0, 1.0), (1e-6, 1e-6 * math.sqrt(2))])
def test_gtol_is_of_the_norm_and_of_the_smaller_of_1_and_the_first_gradient(scale, first):
    """With lr=0.1/scale the gradient shrinks by 0.9 a step."""
    options = {"lr": 0.1 / scale, "gtol": 1e-3, "norm": 2}
    result = minimize(lambda x: scale * bowl(x) / 2, torch.ones(2).double(), method="sgd", options=options)
    assert 0.9e-3 * first < result.jac.norm() <= 1e-3 * first


def test_tol_is_gtol():
    assert minimize(valley, START, tol=1e-3).nit == minimize(valley, START, options={"gtol": 1e-3}).nit
    assert minimize(valley, START, tol=1e-3).nit < minimize(valley, START).nit


def test_ftol_and_xrtol_are_of_relative_changes():
    """With lr=0.05 the value shrinks by 0.81 a step, x by 0.9: the changes are 0.19 of the value and 0.1 of x."""
    for option, still in (("ftol", 0.19), ("xrtol", 0.1)):
        on = minimize(bowl, START, method="sgd", options={"lr": 0.05, option: still * 1.001})
        off = minimize(bowl, START, method="sgd", options={"lr": 0.05, option: still * 0.999, "maxiter": 50})
        assert on.nit == 1 and on.success and option in on.message
        assert off.nit == 50 and not off.success


def test_return_all_gives_the_points_from_x0_to_x():
    result = minimize(valley, START, options={"return_all": True})
    assert len(result.allvecs) == result.nit + 1
    assert result.allvecs[0].data_ptr() != START.data_ptr()
    assert torch.equal(result.allvecs[0], START) and torch.equal(result.allvecs[-1], result.x)


def test_disp_prints_a_line_and_warns_where_it_fails(capsys):
    result = minimize(bowl, START, options={"disp": True})
    said = capsys.readouterr().out
    assert said.startswith(result.message) and said.count("\n") == 1 and f"{result.nfev} evaluations" in said
    with pytest.warns(OptimizeWarning, match="the iterations given were used up"):
        minimize(valley, START, options={"disp": True, "maxiter": 1})
    assert not capsys.readouterr().out


def test_bfgs_begins_with_the_inverse_hessian_that_it_is_given_and_says_what_it_found():
    H = double(0.5, 0.0, 0.0, 0.05).view(2, 2)
    result = minimize(lambda x: x[0] ** 2 + 10 * x[1] ** 2, START, options={"hess_inv0": H})
    assert result.nit == 1  # Newton's step
    torch.testing.assert_close(result.hess_inv, H)


def test_the_memory_of_the_rule_comes_with_the_result():
    result = minimize(bowl, START, method="adam", options={"maxiter": 3})
    assert set(result.memory) == set(tw.adam.remembers) and result.memory["t"] == 3


def test_what_was_minimised_is_let_go():
    class Fun:
        def __call__(self, x):
            return bowl(x), 2 * x

    fun = Fun()
    gone = weakref.ref(fun)
    gc.disable()
    try:
        minimize(fun, START, jac=True)
        del fun
        assert gone() is None
    finally:
        gc.enable()


# Callbacks


def test_a_callback_gets_a_copy_of_x_or_the_result_so_far_by_its_parameters_name():
    points, results = [], []

    def by_name(intermediate_result):
        results.append(intermediate_result)

    minimize(valley, START, callback=lambda x: points.append(x.clone()) or x.zero_())
    final = minimize(valley, START, callback=by_name)
    assert [r.nit for r in results] == list(range(1, final.nit + 1))
    assert len(points) == len(results) and all(torch.equal(x, r.x) for x, r in zip(points, results, strict=True))
    assert all(r.fun == valley(r.x).item() for r in results) and torch.equal(points[-1], final.x)


@pytest.mark.parametrize("named", [False, True])
def test_a_callback_ends_it_by_raising_stopiteration(named):
    def positional(x, *rest):
        raise StopIteration

    def by_name(*, intermediate_result):
        raise StopIteration

    result = minimize(valley, START, callback=by_name if named else positional)
    limited = minimize(valley, START, options={"maxiter": 1})
    assert (result.status, result.nit, result.success) == (Status.STOPPED, 1, False)
    assert torch.equal(result.x, limited.x) and result.nfev == limited.nfev


def test_other_exceptions_of_a_callback_are_its_callers():
    with pytest.raises(ZeroDivisionError):
        minimize(valley, START, callback=lambda x: 1 / 0)


# Every end has a name


def test_converged_says_by_what():
    assert minimize(bowl, START).message.startswith("converged: the gradient is ")


def test_a_rule_may_say_that_rounding_hides_what_is_left():
    @tw.rule
    def resting(g, status=going):
        return torch.zeros_like(g), int(Status.CONVERGED)

    result = minimize(valley, START, method=resting)
    assert result.success and result.message.startswith("converged: rounding hides what is left, the gradient is 2")


@pytest.mark.parametrize("method", ["bfgs", "newton-cg", "cg"])
def test_a_wrong_gradient_fails_the_line_search_and_leaves_x_at_x0(method):
    result = minimize(bowl, START, jac=lambda x: -2 * x, hess=lambda x: 2 * torch.eye(2), method=method)
    assert result.status == Status.LINE_SEARCH_FAILED and not result.success
    assert torch.equal(result.x, START)


@pytest.mark.parametrize("method", ["trust-ncg", "trust-krylov", "trust-exact", "dogleg"])
def test_a_model_that_never_agrees_with_fun_collapses_the_trust_region(method):
    result = minimize(bowl, START, jac=lambda x: -2 * x, hess=lambda x: 2 * torch.eye(2), method=method)
    assert result.status == Status.RADIUS_COLLAPSED and torch.equal(result.x, START)


@pytest.mark.parametrize("method", ["bfgs", "newton-cg", "trust-exact", "adam"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_at_x0_is_said_at_once(method, value):
    result = minimize(lambda x: bowl(x) * value, START, method=method)
    assert result.status == Status.NOT_FINITE and result.nit == 0 and torch.equal(result.x, START)


def test_what_is_not_finite_on_the_way_is_left_for_the_last_good_point():
    """log(x) is NaN below zero, where a step of 0.4 from 1 gets to in a few."""
    result = minimize(lambda x: x.log(), double(1.0), method="sgd", options={"lr": 0.4, "return_all": True})
    assert result.status == Status.NOT_FINITE and len(result.allvecs) == result.nit + 1 > 2
    assert result.allvecs[-1] < 0 < result.x and torch.equal(result.x, result.allvecs[-2])


@pytest.mark.parametrize("method", ["bfgs", "newton-cg", "trust-exact", "l-bfgs"])
def test_what_falls_without_a_bound_is_said(method):
    for fun in (lambda x: x.sum(), lambda x: -(x**2).sum(), lambda x: -torch.exp(-x).sum()):
        result = minimize(fun, START, method=method)
        assert result.status == Status.UNBOUNDED and not result.success


def test_what_falls_by_more_than_the_dtype_can_tell_counts_as_unbounded_for_any_rule():
    result = minimize(lambda x: x.sum(), START, method="sgd", options={"lr": 1e30})
    assert result.status == Status.UNBOUNDED and result.fun < -1e31


@pytest.mark.parametrize("method", ["bfgs", "newton-cg"])
def test_a_saddle_is_told_from_a_minimum_where_that_is_asked(method):
    """From (1, 0), x² - y² has its saddle in the way."""

    def saddle(x):
        return x[0] ** 2 - x[1] ** 2

    for start in (double(1.0, 0.0), torch.eye(1, 600).double()[0]):
        assert minimize(saddle, start, method=method).success
        result = minimize(saddle, start, method=method, options={"check_saddle": True})
        assert result.status == Status.SADDLE and not result.success
    assert minimize(valley, START, method=method, options={"check_saddle": True}).success


def test_dogleg_gets_past_hessians_that_are_not_positive_definite():
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, START, method="dogleg")
    assert result.success and float(result.fun) == pytest.approx(-0.25)


def test_a_method_that_fails_is_left_at_its_lowest_point():
    """With lr=1.1 gradient descent on x² swings ever further out: the lowest point is the first."""
    result = minimize(bowl, double(1.0), method="sgd", options={"lr": 1.1, "maxiter": 9})
    assert result.status == Status.ITERATIONS and result.x == 1 and result.fun == 1


def test_a_method_that_converges_is_left_where_it_does_be_another_point_lower():
    """x³ - 3x has its minimum, -2, at 1; at the start, -3, it is -18."""

    @tw.rule
    def jump(theta):
        return 1 - theta

    result = minimize(lambda x: x**3 - 3 * x, double(-3.0), method=jump)
    assert result.success and result.x == 1 and result.fun == -2


# Bounds


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds([-1, 2], [1, 3]),
        Bounds([-1, 2], np.inf),
        [(-1, 1), (2, None)],
        ((-1.0, None), (2.0, np.inf)),
        (double(-1.0, 2.0), double(1.0, 3.0)),
    ],
    ids=["Bounds", "one number", "pairs", "tuples", "tensors"],
)
@pytest.mark.parametrize("method", [projected, None])
def test_bounds_are_scipys_or_two_tensors(bounds, method):
    result = minimize(bowl, double(0.5, 2.5), method=method, bounds=bounds)
    assert result.success
    torch.testing.assert_close(result.x, double(0.0, 2.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", [projected, None])
def test_a_variable_whose_bounds_meet_stays_there(method):
    result = minimize(bowl, double(0.5, 2.0, 1.0), method=method, bounds=[(None, None), (2, 2), (1, 1)])
    assert result.success and result.x[1:].tolist() == [2.0, 1.0]
    fixed = minimize(bowl, double(1.0), method=method, bounds=[(1, 1)])
    assert fixed.success and fixed.nfev == 1 and fixed.nit == 0


def test_x0_outside_the_bounds_is_moved_inside_with_a_warning():
    with pytest.warns(OptimizeWarning, match="x0 lies outside the bounds"):
        result = minimize(lambda x: bowl(x - 3), double(5.0), bounds=[(None, 4)], options={"return_all": True})
    assert result.allvecs[0] == 4
    torch.testing.assert_close(result.x, double(3.0))


# What cannot be used is refused in a line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "bfsg"}, r"no method is called 'bfsg' \(did you mean bfgs\?\): there are cg, .*adam"),
        ({"method": print}, "method is <built-in function print>: give a name, a rule, or None"),
        ({"options": {"maxcor": 3}}, "minimize has no option 'maxcor' for bfgs: there are gtol, .*maxiter.*c1"),
        ({"options": {"lr": 1.0, "c1": 0.5, "c2": 0.1}}, "'c1' and 'c2' are 0.5 and 0.1"),
        ({"options": {"hess_inv0": -torch.eye(2)}}, "'hess_inv0' matrix isn't positive definite"),
        ({"options": {"hess_inv0": torch.eye(3)}}, r"'hess_inv0' has the shape \(3, 3\)"),
        ({"method": "adam", "options": {"hess_inv0": torch.eye(2)}}, "adam remembers no inverse Hessian"),
        ({"method": "adam", "bounds": [(0, 1)] * 2}, "adam takes no bounds: l-bfgs-b, .*lm do"),
        ({"bounds": [(0, 1)]}, "bounds has 1 parts: give a pair for each of 2 variables"),
        ({"bounds": [(0, 1, 2)] * 2}, "bounds has 2 parts: give a pair"),
        ({"bounds": Bounds([0] * 3, 1)}, "3 bounds were given for 2 variables"),
        ({"bounds": [(0, 1), (3, 2)]}, "the bounds of variable 1 are 3 and 2"),
        ({"x0": torch.ones(2, dtype=torch.complex64)}, "x0 is complex"),
        ({"x0": [1j]}, "x0 is complex"),
        ({"x0": []}, "x0 is empty"),
        ({"fun": None}, "fun is None"),
        ({"fun": lambda x: 2 * x}, r"fun returned a tensor of shape \(2,\): one number is minimised"),
        ({"fun": lambda x: bowl(x).item()}, "fun returned a float, which cannot be differentiated"),
        ({"fun": lambda x: bowl(x).detach()}, "fun's value does not depend on x by torch's operations"),
        ({"fun": lambda x: bowl(x) * 1j}, "fun returned a complex number"),
        ({"jac": "2-point"}, "jac is '2-point': give a function"),
        ({"hess": "2-point"}, "hess is '2-point': it is a function of x"),
    ],
    ids=lambda given: str(given)[:40] if isinstance(given, str) else "",
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_a_line(given, said):
    with pytest.raises(AlgorithmError, match=said) as caught:
        minimize(**{"fun": bowl, "x0": START, **given})
    assert "\n" not in str(caught.value)
