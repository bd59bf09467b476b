"""What `minimize` is given, checked: the start, the method, the bounds and the options."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.algorithms import ALGORITHMS
from thalweg.core.errors import AlgorithmError
from thalweg.core.given import Given, GivenResiduals
from thalweg.core.rule import Rule

# SciPy's names of methods, and the catalogue's name where it is another.
METHODS = {
    "cg": "hager_zhang_cg",
    "l-bfgs": "lbfgs",
    "l-bfgs-b": "lbfgsb",
    "lm": "levenberg_marquardt",
}
LEAST_SQUARES = ("gauss_newton", "levenberg_marquardt")


class Settings(NamedTuple):
    """The options that are not a rule's knobs."""

    gtol: float = 1e-5
    ftol: float = 0.0
    xrtol: float = 0.0
    maxiter: float | None = None
    maxfev: float | None = None
    norm: float = math.inf
    hess_inv0: Any = None
    check_saddle: bool = False
    return_all: bool = False
    disp: bool = False


def start(x0: Any) -> Tensor:
    """x0 as a tensor of floating point, not copied: what torch or NumPy have keeps its dtype, numbers become float64.

    >>> start([1, 2])
    tensor([1., 2.], dtype=torch.float64)
    """
    if not isinstance(x0, Tensor):
        array = np.asarray(x0)
        x0 = torch.as_tensor(array if array.dtype.kind in "fc" else array.astype(np.float64))
    if x0.is_complex():
        raise AlgorithmError("x0 is complex: give its real and imaginary parts as one real tensor")
    if x0.numel() == 0:
        raise AlgorithmError("x0 is empty: give at least one variable")
    found: Tensor = x0.detach() if x0.is_floating_point() else x0.to(torch.get_default_dtype())
    return found


def chosen(method: Any, n: int, bounded: bool) -> Rule:
    """The rule of a method of n variables: SciPy's name, an algorithm's, or a rule; None is for the usual one.

    >>> chosen("adam", 2, False).name
    'adam'
    """
    if isinstance(method, Rule):
        return method
    if method is None:
        method = "l-bfgs-b" if bounded else "bfgs" if n <= 500 else "l-bfgs"
    if not isinstance(method, str):
        raise AlgorithmError(f"method is {method!r}: give a name, a rule, or None")
    asked = method.lower()
    name = METHODS.get(asked, asked.replace("-", "_"))
    if name not in ALGORITHMS:
        known = [*METHODS, *(other.replace("_", "-") for other in ALGORITHMS)]
        close = difflib.get_close_matches(asked, known, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise AlgorithmError(f"no method is called '{method}'{meant}: there are {', '.join(known)}")
    return ALGORITHMS[name].rule


def objective(
    rule: Rule, fun: Callable[..., Any], shape: torch.Size, args: Any, jac: Any, hess: Any, hessp: Any
) -> Given | GivenResiduals:
    """fun and its derivatives as an objective of theta, for the rule: a sum of squares for one of least squares."""
    args = args if isinstance(args, tuple) else (args,)
    if rule.name not in LEAST_SQUARES:
        return Given(fun, shape, args, jac, hess, hessp)
    if jac is True or hess is not None or hessp is not None:
        raise AlgorithmError(
            f"{rule.name} takes the residuals and, as jac, a function for their Jacobian (m, n); no hess"
        )
    return GivenResiduals(fun, shape, args, jac or None)


def settings(rule: Rule, options: dict[str, Any] | None, tol: float | None) -> tuple[Settings, dict[str, Any]]:
    """The options, divided into settings and knobs of the rule."""
    given: dict[str, Any] = {} if tol is None else {"gtol": tol}
    given |= options or {}
    knobs = {name: given.pop(name) for name in list(given) if name in rule.knobs}
    for name in given:
        if name not in Settings._fields:
            known = ", ".join([*Settings._fields, *rule.knobs])
            raise AlgorithmError(f"minimize has no option '{name}' for {rule.name}: there are {known}")
    if {"c1", "c2"} <= rule.knobs.keys():
        c1, c2 = (knobs.get(name, rule.knobs[name]) for name in ("c1", "c2"))
        if not 0 < c1 < c2 < 1:
            raise AlgorithmError(f"'c1' and 'c2' are {c1:g} and {c2:g}: it must be that 0 < c1 < c2 < 1")
    return Settings(**given), knobs


def first_memory(rule: Rule, hess_inv0: Any, theta: Tensor) -> dict[str, Tensor]:
    """What a rule that remembers an inverse Hessian H begins with, where that is given."""
    if hess_inv0 is None:
        return {}
    if "H" not in rule.remembers:
        raise AlgorithmError(f"{rule.name} remembers no inverse Hessian: hess_inv0 is for bfgs")
    H = torch.as_tensor(hess_inv0, dtype=theta.dtype, device=theta.device)
    n = len(theta)
    if H.shape != (n, n) or not torch.allclose(H, H.T):
        raise AlgorithmError(f"'hess_inv0' has the shape {tuple(H.shape)}: a symmetric matrix ({n}, {n}) is wanted")
    if torch.linalg.cholesky_ex(H)[1]:
        raise AlgorithmError("'hess_inv0' matrix isn't positive definite.")
    return {"H": H.clone()}


def box(bounds: Any, rule: Rule, x0: Tensor) -> dict[str, Tensor]:
    """The knobs `lower` and `upper: (n,)` of a rule, of SciPy's Bounds, of two tensors of x0's shape, or of pairs.

    >>> from scipy.optimize import Bounds
    >>> from thalweg.core.rule import rule
    >>> @rule
    ... def inside(g, theta, *, lr=1.0, lower=-math.inf, upper=math.inf):
    ...     return (theta - lr * g).clamp(lower, upper) - theta
    >>> box([(0, None)], inside, torch.ones(1))
    {'lower': tensor([0.]), 'upper': tensor([inf])}
    """
    if bounds is None:
        return {}
    if not _bounded(rule):
        scipys = {name: other for other, name in METHODS.items()}
        takers = [
            scipys.get(name, name.replace("_", "-")) for name, entry in ALGORITHMS.items() if _bounded(entry.rule)
        ]
        raise AlgorithmError(f"{rule.name} takes no bounds: {', '.join(takers)} do")
    if hasattr(bounds, "lb"):
        lower, upper = bounds.lb, bounds.ub
    elif len(bounds) == 2 and all(isinstance(part, Tensor) for part in bounds):
        lower, upper = bounds
    else:
        pairs = [tuple(pair) for pair in bounds]
        if len(pairs) != x0.numel() or any(len(pair) != 2 for pair in pairs):
            raise AlgorithmError(f"bounds has {len(pairs)} parts: give a pair for each of {x0.numel()} variables")
        lower = [-math.inf if low is None else float(low) for low, _ in pairs]
        upper = [math.inf if high is None else float(high) for _, high in pairs]
    found = {name: _each(part, x0) for name, part in (("lower", lower), ("upper", upper))}
    crossed = (found["lower"] > found["upper"]).nonzero().flatten().tolist()
    if crossed:
        low, high = (float(part[crossed[0]]) for part in found.values())
        raise AlgorithmError(f"the bounds of variable {crossed[0]} are {low:g} and {high:g}: the lower one comes first")
    return found


def _bounded(rule: Rule) -> bool:
    return {"lower", "upper"} <= rule.knobs.keys()


def _each(part: Any, x0: Tensor) -> Tensor:
    tensor = torch.as_tensor(part, dtype=x0.dtype, device=x0.device).reshape(-1)
    if len(tensor) not in (1, x0.numel()):
        raise AlgorithmError(f"{len(tensor)} bounds were given for {x0.numel()} variables: give one pair for each")
    return tensor.expand(x0.numel())
