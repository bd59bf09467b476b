"""minimize: a rule of the catalogue on a function of tensors, with SciPy's conventions."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scipy.optimize import OptimizeResult, OptimizeWarning
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from thalweg import arguments
from thalweg.arguments import Settings
from thalweg.core.derivatives import hessian, hessian_at
from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.objective import Evaluations
from thalweg.core.rule import Rule
from thalweg.core.status import Status

Callback = Callable[..., Any]


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
    callback: Callback | None = None,
    options: dict[str, Any] | None = None,
) -> OptimizeResult:
    """The minimum of `fun(x, *args)` near `x0`, a tensor of any shape, with scipy.optimize.minimize's arguments.

    `fun` gives one number, made by torch's operations: derivatives are found by differentiating it, on the rung that
    `core/derivatives.py` has to take for second ones. `jac` gives the gradient instead (True: `fun` returns both),
    `hess(x)` the Hessian, `hessp(x, u)` its product with u, of x0's shape. For "lm" and "gauss-newton" `fun` gives the
    residuals, and half the sum of their squares is minimised. Without a method: "bfgs" up to 500 variables, then
    "l-bfgs", with bounds "l-bfgs-b". A method is SciPy's name, an algorithm of the catalogue, or a rule. `bounds` are
    SciPy's, or two tensors; `tol` is `gtol`.

    `options`: `gtol` (it ends where the norm of the gradient, `norm`, is at most gtol times the smaller of 1 and the
    first gradient's: a `fun` of a small scale is not taken for solved, and one of a large scale goes on until rounding
    ends it), `ftol` and `xrtol` (relative change of the value and of x in an iteration; 0: off), `maxiter`, `maxfev`,
    `hess_inv0` (for "bfgs"), `check_saddle` (look for negative curvature at the end), `return_all`, `disp`, and the
    knobs of the method's rule. `callback(x)`, or `callback(intermediate_result)` under that name, may raise
    StopIteration.

    The result has `x, fun, jac, nit, nfev, njev, nhev, status, message, success`, and what the rule remembers at the
    end as `memory`; it is a `scipy` OptimizeResult whose arrays are tensors. Where a method fails, the status says how,
    and x is the lowest point that it had reached. Raises AlgorithmError for arguments that cannot be used; x0 is never
    changed.

    >>> result = minimize(lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2, torch.zeros(2).double())
    >>> result.success, result.x
    (True, tensor([1.0000, 1.0000], dtype=torch.float64))
    """
    x0 = arguments.start(x0)
    rule = arguments.chosen(method, x0.numel(), bounds is not None)
    settings, knobs = arguments.settings(rule, options, tol)
    knobs |= arguments.box(bounds, rule, x0)
    f = Evaluations(arguments.objective(rule, fun, x0.shape, args, jac, hess, hessp))
    theta = x0.reshape(-1).clone()
    inside = _clipped(theta, rule.with_defaults(knobs))
    if knobs.keys() & {"lower", "upper"} and not torch.equal(inside, theta):
        warnings.warn("x0 lies outside the bounds: it is moved to the nearest point inside", OptimizeWarning, 2)
    descent = _Descent(f, lifted(rule, [x0.shape]), inside, x0.shape, knobs, settings)
    if jac is None and not descent.here.g.any() and not _differentiable(f.f, inside):
        raise AlgorithmError(
            "fun's value does not depend on x by torch's operations, so it has no gradient (was it detached, or taken "
            "to numpy or item()?): compute it with torch, or give jac"
        )
    result = descent.run(_notifier(callback))
    if settings.disp and result.success:
        print(f"{result.message}: {result.fun:.6g} after {result.nit} iterations, {result.nfev} evaluations")
    elif settings.disp:
        warnings.warn(result.message, OptimizeWarning, stacklevel=2)
    return result


class _Point(NamedTuple):
    theta: Tensor  # (n,)
    value: Tensor  # 0-d
    g: Tensor  # (n,)

    @property
    def finite(self) -> bool:
        return bool(torch.isfinite(self.value) and torch.isfinite(self.g).all())


class _Descent:
    """A rule on its way: where it is, the lowest point that it was at, and why it stops."""

    def __init__(
        self, f: Evaluations, rule: Rule, theta: Tensor, shape: torch.Size, knobs: dict[str, Any], settings: Settings
    ) -> None:
        self.f, self.rule, self.shape, self.settings = f, rule, shape, settings
        self.knobs, self.bounded = rule.with_defaults(knobs), bool(knobs.keys() & {"lower", "upper"})
        self.memory = rule.start(theta, **knobs) | arguments.first_memory(rule, settings.hess_inv0, theta)
        self.here = self.best = self._at(theta)
        self.visited = [theta.view(shape)]
        self.nit, self.status, self.why = 0, Status.GOING_ON, ""
        size, slope = self._size(), float(torch.linalg.vector_norm(self.here.g))
        self.enough = settings.gtol * min(1.0, size)
        scale = max(abs(float(self.here.value)), slope * max(1.0, float(theta.norm())))
        self.floor = -scale * torch.finfo(theta.dtype).eps ** -2
        self.most = 200 * max(len(theta), 50) if settings.maxiter is None else settings.maxiter

    def run(self, notify: Callable[[Callable[[], OptimizeResult]], bool]) -> OptimizeResult:
        """To the end."""
        self._judge()
        while self.status == Status.GOING_ON:
            self._step()
            if notify(lambda: self._result(self.here)):
                self._end(Status.STOPPED)
        if self.rule.answers is not None:
            self.best = self._answered()
        if self.status == Status.CONVERGED and self.settings.check_saddle and _saddle(self.f, self.best.theta):
            self._end(Status.SADDLE)
        return self._result(self.best)

    def _step(self) -> None:
        before = self.here
        with torch.no_grad():
            seen = {"g": before.g, "theta": before.theta, "f": self.f}
            delta, self.memory = self.rule.step(seen, self.memory, self.knobs)
            moved = bool(delta.any())
            self.here = self._at(_clipped(before.theta + delta, self.knobs)) if moved else before
        self.nit += 1
        if self.settings.return_all:
            self.visited.append(self.here.theta.view(self.shape))
        if self.here.finite and not self.here.value > self.best.value:  # where its value is NaN, anything is better
            self.best = self.here
        ftol, xrtol = self.settings.ftol, self.settings.xrtol
        old, new = before.value, self.here.value
        if moved and ftol and abs(old - new) <= ftol * max(abs(old), abs(new)):
            self._end(Status.CONVERGED, "its value changes by less than ftol")
        if moved and delta.norm() <= xrtol * before.theta.norm():
            self._end(Status.CONVERGED, "x changes by less than xrtol")
        self._judge(Status(self.memory.get("status", Status.GOING_ON)))

    def _judge(self, said: Status = Status.GOING_ON) -> None:
        """Whether it ends here; `said` is what the rule says."""
        size = self._size()
        gradient = f"the {'projected ' if self.bounded else ''}gradient is {size:.3g}"
        if not self.here.finite:
            self._end(Status.UNBOUNDED if self.here.value == -math.inf else Status.NOT_FINITE)
        elif size <= self.enough:
            self._end(Status.CONVERGED, gradient)
        elif self.status != Status.GOING_ON:
            return
        elif said != Status.GOING_ON:
            self._end(said, f"rounding hides what is left, {gradient}")
        elif self.here.value < self.floor:
            self._end(Status.UNBOUNDED)
        elif self.nit >= self.most:
            self._end(Status.ITERATIONS)
        elif self.settings.maxfev is not None and self.f.nfev >= self.settings.maxfev:
            self._end(Status.EVALUATIONS)

    def _end(self, status: Status, why: str = "") -> None:
        self.status, self.why = status, why
        if status == Status.CONVERGED:
            self.best = self.here

    def _at(self, theta: Tensor) -> _Point:
        return _Point(theta, *self.f.value_and_gradient(theta))

    def _answered(self) -> _Point:
        """What a rule that averages has to say, where it is a better point."""
        answer = self._at(self.rule.answer(self.here.theta, self.memory, self.knobs))
        return answer if answer.finite and not answer.value > self.best.value else self.best

    def _size(self) -> float:
        """The norm of the gradient; within bounds, of how far a step along -g can move."""
        theta, g = self.here.theta, self.here.g
        if self.bounded:
            g = torch.clamp(g, theta - self.knobs["upper"], theta - self.knobs["lower"])
        return float(torch.linalg.vector_norm(g, self.settings.norm))

    def _result(self, point: _Point) -> OptimizeResult:
        message = self.status.message + (f": {self.why}" if self.status == Status.CONVERGED else "")
        extra: dict[str, Any] = {"allvecs": self.visited} if self.settings.return_all else {}
        if isinstance(self.memory.get("H"), Tensor):
            extra["hess_inv"] = self.memory["H"].clone()
        if "hessian" in self.f.rungs:
            extra["rung"] = self.f.rungs["hessian"]
        njev = self.f.njev + getattr(self.f.f, "differenced", 0)
        return OptimizeResult(
            x=point.theta.clone().view(self.shape), fun=float(point.value), jac=point.g.clone().view(self.shape),
            nit=self.nit, nfev=self.f.nfev, njev=njev, nhev=self.f.nhev, status=int(self.status), message=message,
            success=self.status == Status.CONVERGED, memory=self.memory, **extra,
        )  # fmt: skip


def _clipped(theta: Tensor, knobs: dict[str, Any]) -> Tensor:
    return torch.clamp(theta, knobs["lower"], knobs["upper"]) if "lower" in knobs and "upper" in knobs else theta


def _differentiable(f: Any, theta: Tensor) -> bool:
    with torch.enable_grad():
        return bool(f(theta.clone().requires_grad_()).requires_grad)


def _notifier(callback: Callback | None) -> Callable[[Callable[[], OptimizeResult]], bool]:
    """Calls the callback as its parameters say, and answers whether it raised StopIteration."""
    try:
        named = callback is not None and "intermediate_result" in inspect.signature(callback).parameters
    except ValueError:  # a built-in function does not say what it takes
        named = False

    def notify(result: Callable[[], OptimizeResult]) -> bool:
        if callback is None:
            return False
        try:
            callback(intermediate_result=result()) if named else callback(result().x)
        except StopIteration:
            return True
        return False

    return notify


def _saddle(f: Evaluations, theta: Tensor) -> bool:
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
