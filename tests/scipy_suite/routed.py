"""A pytest plug-in: scipy.optimize.minimize is thalweg.minimize, for the methods that both have.

    python -m pytest -p routed --pyargs scipy.optimize.tests.test_optimize

NumPy functions are handed to `thalweg.minimize` with their derivatives; where a test gives none, SciPy's own finite
differences stand in, and are counted, as they are inside SciPy. Options are called by our names, results are NumPy's
again, and two statuses are said in SciPy's words. A test that got to thalweg.minimize has the property "routed".
"""

import inspect
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.optimize import LbfgsInvHessProduct, _lbfgsb_py, _minimize, _optimize
from scipy.optimize._constraints import Bounds, old_bound_to_new
from scipy.optimize._differentiable_functions import FD_METHODS, HessianUpdateStrategy
from scipy.sparse import issparse

from thalweg.core.status import _MESSAGES, Status
from thalweg.minimize import minimize as thalwegs

METHODS = {  # SciPy's functions, whose signatures say what its options are by default
    "bfgs": _minimize._minimize_bfgs,
    "cg": _minimize._minimize_cg,
    "l-bfgs-b": _minimize._minimize_lbfgsb,
    "newton-cg": _minimize._minimize_newtoncg,
    "dogleg": _minimize._minimize_dogleg,
    "trust-ncg": _minimize._minimize_trust_ncg,
    "trust-krylov": _minimize._minimize_trust_krylov,
    "trust-exact": _minimize._minimize_trustregion_exact,
}
OPTIONS = {"maxcor": "history_size", "maxfun": "maxfev", "xtol": "xrtol", "initial_trust_radius": "radius"}
OF_DIFFERENCES = ("eps", "finite_diff_rel_step", "workers")
NOT_OURS = (
    "iprint",
    "subproblem_maxiter",
)  # what is printed; how long a subproblem may take, which here is not iterated
WORDS = {
    Status.ITERATIONS: "Maximum number of iterations has been exceeded.",
    Status.STOPPED: "`callback` raised `StopIteration`.",
}
scipys = optimize.minimize
routed = []  # the calls of thalweg.minimize in the test at hand


def minimize(
    fun, x0, args=(), method=None, jac=None, hess=None, hessp=None, bounds=None, constraints=(), tol=None,
    callback=None, options=None,
):  # fmt: skip
    """scipy.optimize.minimize, by thalweg.minimize where it has the method."""
    asked = method or ("l-bfgs-b" if bounds is not None else "bfgs")
    if callable(asked) or asked.lower() not in METHODS or np.any(constraints):
        return scipys(fun, x0, args, method, jac, hess, hessp, bounds, constraints, tol, callback, options)
    routed.append(asked)
    return by_thalweg(fun, x0, args, asked.lower(), jac, hess, hessp, bounds, tol, callback, dict(options or {}))


def by_thalweg(fun, x0, args, method, jac, hess, hessp, bounds, tol, callback, options):
    args = args if isinstance(args, tuple) else (args,)
    problem = Problem(fun, x0, args, jac, hess, hessp, bounds, {k: options.pop(k, None) for k in OF_DIFFERENCES})

    def told(result):
        return problem.in_numpy(result)

    if callback is not None and set(inspect.signature(callback).parameters) == {"intermediate_result"}:

        def notify(intermediate_result):
            callback(intermediate_result=told(intermediate_result))
    else:
        notify = callback and (lambda x: callback(x.numpy()))
    options = renamed(method, options)
    if "gtol" in options:  # SciPy's is absolute, ours relative to a first gradient that is small
        first = np.abs(problem.gradient()).max()
        options["gtol"] /= min(1.0, first) or 1.0
    words = dict(WORDS)
    if method == "l-bfgs-b":
        words[Status.ITERATIONS] = "STOP: TOTAL NO. OF ITERATIONS REACHED LIMIT"
    with mock.patch.dict(_MESSAGES, words):
        result = thalwegs(
            problem.fun, problem.x0, method=method, jac=problem.jac, hess=problem.hess, hessp=problem.hessp,
            bounds=bounds, tol=tol, callback=notify, options=options,
        )  # fmt: skip
    return told(result)


def renamed(method, options):
    """SciPy's options by our names; those that say what is so anyway are left out."""
    usual = {name: p.default for name, p in inspect.signature(METHODS[method]).parameters.items()}
    return {
        OPTIONS.get(name, name): value
        for name, value in options.items()
        if name not in NOT_OURS and not (name in usual and (value is usual[name] or np.array_equal(value, usual[name])))
    }


class Problem:
    """Functions of tensors for functions of arrays; SciPy's ScalarFunction for the derivatives that are not there."""

    def __init__(self, fun, x0, args, jac, hess, hessp, bounds, of_differences):
        self.x0 = np.atleast_1d(np.asarray(x0))
        self.fixed = np.zeros(len(self.x0), bool)
        self.differences = None
        differenced = hess is not None and (isinstance(hess, HessianUpdateStrategy) or hess in FD_METHODS)
        if differenced or not (callable(jac) or jac is True):
            self._differenced(fun, args, jac, hess if differenced else None, bounds, of_differences)
        elif jac is True:
            self.jac, self.fun = True, lambda x: fun(x.numpy(), *args)
        else:
            self.jac, self.fun = (lambda x: jac(x.numpy(), *args)), (lambda x: fun(x.numpy(), *args))
        self.hess = self.hessp = None
        if differenced:
            self.hessp = lambda x, u: self.differences.hess(x.numpy()).dot(u.numpy())
        elif hess is not None:
            self.hess = lambda x: dense(hess(x.numpy(), *args))
        elif hessp is not None:
            self.hessp = lambda x, u: hessp(x.numpy(), u.numpy(), *args)

    def _differenced(self, fun, args, jac, hess, bounds, how):
        x0 = self.x0.astype(self.x0.dtype if self.x0.dtype.kind == "f" else float)
        if bounds is not None:  # no differences are taken of a variable that is fixed
            lower, upper = (bounds.lb, bounds.ub) if isinstance(bounds, Bounds) else old_bound_to_new(bounds)
            if np.shape(lower) == x0.shape:
                x0, self.fixed = np.clip(x0, lower, upper), np.equal(lower, upper)
        free = ~self.fixed
        if self.fixed.any():
            fun = _minimize._Remove_From_Func(fun, self.fixed, x0[self.fixed])
        f = self.differences = _optimize._prepare_scalar_function(
            fun, x0[free], jac, args, epsilon=1e-8 if how["eps"] is None else how["eps"], hess=hess,
            finite_diff_rel_step=how["finite_diff_rel_step"], workers=how["workers"],
        )  # fmt: skip

        def gradient(x):
            g = np.zeros_like(x.numpy())
            g[free] = f.grad(x.numpy()[free])
            return g

        self.fun, self.jac = (lambda x: f.fun(x.numpy()[free])), gradient

    def gradient(self):
        """The first one."""
        x0 = torch.from_numpy(self.x0.astype(float))
        return np.asarray(self.fun(x0)[1] if self.jac is True else self.jac(x0))

    def in_numpy(self, result):
        """The result as SciPy gives it, with SciPy's counts of what it differenced."""
        found = optimize.OptimizeResult(result)
        for name in ("x", "jac", "hess_inv"):
            if name in result:
                found[name] = result[name].numpy()
        if "allvecs" in result:
            found.allvecs = [x.numpy() for x in result.allvecs]
        found.jac[self.fixed] = np.nan
        if "rho" in result.memory:
            used = result.memory["rho"] > 0
            found.hess_inv = LbfgsInvHessProduct(*(result.memory[name][used].numpy() for name in ("S", "Y")))
        if self.differences is not None:
            found.nfev, found.njev = self.differences.nfev, self.differences.ngev
        return found


def dense(matrix):
    return matrix.toarray() if issparse(matrix) else matrix


def solver(method):
    """One of SciPy's functions behind fmin_..., whose callbacks it has made functions of the result."""

    def solve(fun, x0, args=(), jac=None, hess=None, hessp=None, bounds=None, callback=None, **options):
        notify = callback and (lambda intermediate_result: callback(intermediate_result))
        if method != "newton-cg" and method != "l-bfgs-b":
            assert hess is hessp is None
        return minimize(fun, x0, args, method, jac, hess, hessp, bounds, (), None, notify, options)

    return solve


def pytest_configure(config):
    optimize.minimize = minimize
    _optimize._minimize_bfgs, _optimize._minimize_cg = solver("bfgs"), solver("cg")
    _optimize._minimize_newtoncg, _lbfgsb_py._minimize_lbfgsb = solver("newton-cg"), solver("l-bfgs-b")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    routed.clear()
    try:
        return (yield)
    finally:
        if routed:
            item.user_properties.append(("routed", len(routed)))
