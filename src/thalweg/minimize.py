"""minimize: a rule of the catalogue on a function of tensors, with SciPy's conventions."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import OptimizeResult
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from thalweg.algorithms import ALGORITHMS
from thalweg.core.derivatives import hessian, hessian_at
from thalweg.core.errors import AlgorithmError
from thalweg.core.given import Given, GivenResiduals
from thalweg.core.lifted import lifted
from thalweg.core.objective import Evaluations
from thalweg.core.rule import Rule
from thalweg.core.status import Status

# SciPy's names of methods, and the catalogue's name where it is another.
METHODS = {
    "cg": "hager_zhang_cg",
    "l-bfgs": "lbfgs",
    "l-bfgs-b": "lbfgsb",
    "lm": "levenberg_marquardt",
}
BOUNDED = ("lbfgsb", "levenberg_marquardt")
LEAST_SQUARES = ("gauss_newton", "levenberg_marquardt")
OPTIONS: dict[str, Any] = {
    "gtol": 1e-5, "ftol": 0.0, "maxiter": None, "maxfev": None, "norm": math.inf,
    "check_saddle": False, "return_all": False, "disp": False,
}  # fmt: skip


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: tuple[Any, ...] = (),
    method: str | Rule | None = None,
    jac: Callable[..., Any] | bool | None = None,
    hess: Callable[..., Any] | None = None,
    hessp: Callable[..., Any] | None = None,
    bounds: Any = None,
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: dict[str, Any] | None = None,
) -> OptimizeResult:
    """The minimum of `fun(x, *args)` near `x0`, a tensor of any shape, with scipy.optimize.minimize's arguments.

    `fun` gives one number, made by torch's operations: derivatives are found by differentiating it, on the rung that
    `core/derivatives.py` has to take for second ones. `jac` gives the gradient instead (True: `fun` returns both),
    `hess(x)` the Hessian, `hessp(x, u)` its product with u, of x0's shape. For "lm" and "gauss-newton" `fun` gives the
    residuals, and half the sum of their squares is minimised. Without a method: "bfgs" up to 500 variables, then
    "l-bfgs", with bounds "l-bfgs-b". A method is SciPy's name, an algorithm of the catalogue, or a rule.

    `options`: `gtol` (it ends where the norm of the gradient, `norm`, is at most gtol times the smaller of 1 and the
    first gradient's, so that the scale of `fun` makes no difference), `ftol` (relative change of the value; 0: off),
    `maxiter`, `maxfev`, `check_saddle` (look for negative curvature at the end), `return_all`, `disp`, and the knobs of
    the method's rule. `callback(x)`, or `callback(intermediate_result)` under that name, may raise StopIteration.

    The result has `x, fun, jac, nit, nfev, njev, nhev, status, message, success`; it is a `scipy` OptimizeResult whose
    arrays are tensors. Where a method fails, the status says how, and x is the last good point. Raises AlgorithmError
    for arguments that cannot be used; x0 is never changed.

    >>> result = minimize(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, torch.zeros(2).double())
    >>> result.success, result.x
    (True, tensor([1.0000, 1.0000], dtype=torch.float64))
    """
    x0 = _start(x0)
    name, rule = _method(method, x0.numel(), bounds)
    settings, knobs = _settings(rule, options, tol)
    knobs |= _bounds(bounds, name, x0)
    theta = x0.detach().reshape(-1).clone()
    if knobs.keys() & {"lower", "upper"}:
        inside = _clipped(theta, knobs)
        if not torch.equal(inside, theta):
            warnings.warn("x0 lies outside the bounds: it is moved to the nearest point inside", stacklevel=2)
        theta = inside
    f = Evaluations(_objective(name, fun, x0.shape, args, jac, hess, hessp))
    return _descended(f, lifted(rule, [x0.shape]), theta, x0.shape, knobs, settings, callback)


def _descended(
    f: Evaluations,
    rule: Rule,
    theta: Tensor,
    shape: torch.Size,
    knobs: dict[str, Any],
    settings: dict[str, Any],
    callback: Callable[..., Any] | None,
) -> OptimizeResult:
    values = rule.with_defaults(knobs)
    value, g = f.value_and_gradient(theta)
    memory = rule.start(theta, **knobs)
    first = (abs(float(value)), _size(g, theta, knobs, settings["norm"]), max(1.0, float(theta.norm())))
    enough = settings["gtol"] * min(1.0, first[1])
    floor = -max(first[0], first[1] * first[2], 1.0) * torch.finfo(theta.dtype).eps ** -2
    most = settings["maxiter"] or 200 * max(theta.numel(), 50)
    best = theta, value, g
    visited = [theta.view(shape)]
    status, nit = Status.GOING_ON, 0

    def result() -> OptimizeResult:
        at, least, slope = best
        said = _said(status, slope, settings)
        extra = {"hess_inv": memory["H"]} if isinstance(memory.get("H"), Tensor) else {}
        extra |= {"allvecs": visited} if settings["return_all"] else {}
        extra |= {"rung": f.rungs["hessian"]} if "hessian" in f.rungs else {}
        return OptimizeResult(
            x=at.view(shape), fun=float(least), jac=slope.view(shape), nit=nit, nfev=f.nfev, njev=f.njev, nhev=f.nhev,
            status=int(status), message=said, success=status == Status.CONVERGED, **extra,
        )  # fmt: skip

    notify = _notifier(callback)
    while status == Status.GOING_ON:
        if not (torch.isfinite(value) and torch.isfinite(g).all()):
            status = Status.UNBOUNDED if value == -math.inf else Status.NOT_FINITE
        elif _size(g, theta, knobs, settings["norm"]) <= enough:
            status = Status.CONVERGED
        elif value < floor:
            status = Status.UNBOUNDED
        elif nit >= most:
            status = Status.ITERATIONS
        elif settings["maxfev"] is not None and f.nfev >= settings["maxfev"]:
            status = Status.EVALUATIONS
        if status != Status.GOING_ON:
            break
        with torch.no_grad():
            delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, values)
            theta = _clipped(theta + delta, knobs)
        before = value
        value, g = f.value_and_gradient(theta)
        nit += 1
        status = Status(memory.get("status", Status.GOING_ON))
        moved = bool(delta.any())
        if torch.isfinite(value) and torch.isfinite(g).all():
            best = theta, value, g
        if settings["return_all"]:
            visited.append(theta.view(shape))
        if moved and settings["ftol"] and abs(before - value) <= settings["ftol"] * max(abs(before), abs(value)):
            status = Status.CONVERGED
        if notify is not None and notify(result):
            status = Status.STOPPED
    if status == Status.CONVERGED and settings["check_saddle"] and _negative_curvature(f, best[0]):
        status = Status.SADDLE
    final = result()
    if settings["disp"]:
        print(f"{final.message}: {final.fun:.6g} after {nit} iterations, {f.nfev} evaluations")
    return final


def _start(x0: Any) -> Tensor:
    if not isinstance(x0, Tensor):
        x0 = torch.as_tensor(x0, dtype=torch.float64)
    if not x0.is_floating_point():
        if x0.is_complex():
            raise AlgorithmError("x0 is complex: give its real and imaginary parts as one real tensor")
        x0 = x0.to(torch.get_default_dtype())
    if x0.numel() == 0:
        raise AlgorithmError("x0 is empty: give at least one variable")
    start: Tensor = x0
    return start


def _objective(
    name: str, fun: Callable[..., Any], shape: torch.Size, args: tuple[Any, ...], jac: Any, hess: Any, hessp: Any
) -> Given | GivenResiduals:
    if name not in LEAST_SQUARES:
        return Given(fun, shape, args, jac, hess, hessp)
    if jac is True or hess is not None or hessp is not None:
        raise AlgorithmError(f"{name} takes the residuals and, as jac, a function for their Jacobian (m, n); no hess")
    return GivenResiduals(fun, shape, args, jac)


def _method(method: str | Rule | None, n: int, bounds: Any) -> tuple[str, Rule]:
    if isinstance(method, Rule):
        return method.name, method
    if method is None:
        method = "l-bfgs-b" if bounds is not None else "bfgs" if n <= 500 else "l-bfgs"
    asked = method.lower()
    name = METHODS.get(asked, asked.replace("-", "_"))
    if name not in ALGORITHMS:
        known = [*METHODS, *(other.replace("_", "-") for other in ALGORITHMS)]
        close = difflib.get_close_matches(asked, known, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise AlgorithmError(f"no method is called '{method}'{meant}: there are {', '.join(known)}")
    return name, ALGORITHMS[name].rule


def _settings(rule: Rule, options: dict[str, Any] | None, tol: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    given = dict(options or {})
    if tol is not None:
        given = {"gtol": tol, **given}
    knobs = {name: given.pop(name) for name in list(given) if name in rule.knobs}
    for name in given:
        if name not in OPTIONS:
            known = ", ".join([*OPTIONS, *rule.knobs])
            raise AlgorithmError(f"minimize has no option '{name}' for {rule.name}: there are {known}")
    return {**OPTIONS, **given}, knobs


def _bounds(bounds: Any, name: str, x0: Tensor) -> dict[str, Tensor]:
    """SciPy's Bounds, two tensors (lower, upper) of x0's shape, or a pair of numbers or None for each variable."""
    if bounds is None:
        return {}
    if name not in BOUNDED:
        takers = ", ".join(other.replace("_", "-") for other in BOUNDED)
        raise AlgorithmError(f"{name} takes no bounds: {takers} do")
    if hasattr(bounds, "lb"):
        pair = (bounds.lb, bounds.ub)
    elif len(bounds) == 2 and all(isinstance(part, Tensor) for part in bounds):
        pair = tuple(bounds)
    else:
        if len(bounds) != x0.numel():
            raise AlgorithmError(f"{len(bounds)} bounds were given for {x0.numel()} variables: give one pair for each")
        low = [-math.inf if b[0] is None else float(b[0]) for b in bounds]
        high = [math.inf if b[1] is None else float(b[1]) for b in bounds]
        pair = (low, high)
    lower, upper = (
        torch.as_tensor(part, dtype=x0.dtype, device=x0.device).reshape(-1).expand(x0.numel()) for part in pair
    )
    if bool((lower > upper).any()):
        where = int((lower > upper).nonzero()[0])
        raise AlgorithmError(f"the bounds of variable {where} are {lower[where]:g} and {upper[where]:g}: swap them")
    return {"lower": lower, "upper": upper}


def _clipped(theta: Tensor, knobs: dict[str, Any]) -> Tensor:
    return torch.clamp(theta, knobs["lower"], knobs["upper"]) if "lower" in knobs and "upper" in knobs else theta


def _size(g: Tensor, theta: Tensor, knobs: dict[str, Any], order: float) -> float:
    """The norm of the gradient; within bounds, of how far a step along -g can move."""
    if "lower" in knobs and "upper" in knobs:
        g = theta - _clipped(theta - g, knobs)
    return float(torch.linalg.vector_norm(g, order))


def _notifier(callback: Callable[..., Any] | None) -> Callable[[Callable[[], OptimizeResult]], bool] | None:
    if callback is None:
        return None
    by_name = "intermediate_result" in inspect.signature(callback).parameters

    def notify(result: Callable[[], OptimizeResult]) -> bool:
        try:
            if by_name:
                callback(intermediate_result=result())
            else:
                callback(result().x.clone())
        except StopIteration:
            return True
        return False

    return notify


def _said(status: Status, g: Tensor, settings: dict[str, Any]) -> str:
    if status != Status.CONVERGED:
        return status.message
    return f"{status.message}: the gradient is {float(torch.linalg.vector_norm(g, settings['norm'])):.3g}"


def _negative_curvature(f: Evaluations, theta: Tensor) -> bool:
    """Whether the Hessian has an eigenvalue below zero by more than rounding."""
    n = theta.numel()
    if n <= 500:
        values = torch.linalg.eigvalsh(hessian(f, theta).double())
        least, most = float(values[0]), float(values.abs().max())
    else:
        product = hessian_at(f, theta)
        matrix = LinearOperator((n, n), lambda u: product(torch.as_tensor(u).to(theta)).double().cpu().numpy())
        most = abs(float(eigsh(matrix, 1, which="LM", return_eigenvectors=False)[0]))
        least = float(eigsh(matrix, 1, which="SA", return_eigenvectors=False)[0])
    return bool(least < -(torch.finfo(theta.dtype).eps ** 0.5) * most)
