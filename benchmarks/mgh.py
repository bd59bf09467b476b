"""Moré, Garbow and Hillstrom's 35 problems: ours beside SciPy, torch and pytorch-minimize, measured in the same run.

69 runs a solver, in float64, from the standard start and from ten times it (benchmarks/mgh_problems.py). Every solver
has the same function under it, which counts: an evaluation is a point at which the residuals are asked for, with all
derivatives there; what is asked again at one of the last two points is the same evaluation. A run ends after 2,000 of
them or 25 CPU seconds (a cap: its answer is the best point seen); one that raises has no answer. Tolerances of the
gradient are 1e-6, those of least squares 1e-8, the iterations unlimited; all else is the solver's default, unless the
row says what.

Solved: F is the optimum, or a local minimum that is listed, to 1e-8 max(1, |F|) or to 1e-6 of it. tau: an evaluation
came within 1e-5 of the way from F(x0) to the optimum (Moré and Wild). Gradient: at most 1e-5 max(1, |F|) in every
component. Silent: it reports success, or nothing (torch has no status), where it is neither solved nor stationary.

    python benchmarks/mgh.py > benchmarks/results/mgh.md      (about twenty minutes)
    python benchmarks/mgh.py bfgs trust-exact                 these methods, of every library
"""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from mgh_problems import Problem, runs
from scipy import optimize
from torch import Tensor

from thalweg import minimize
from thalweg.algorithms import SECOND_ORDER
from thalweg.arguments import LEAST_SQUARES, METHODS

EVALUATIONS, CPU_SECONDS, TAU, GTOL, UNLIMITED = 2000, 25.0, 1e-5, 1e-6, 10**6


class CapReached(BaseException):
    """Ends a run; no `except Exception` of a solver may swallow it."""


class Counted:
    """The residuals of a problem, and F, for any library: what is evaluated is counted, the best point kept."""

    def __init__(self, problem: Problem, x0: Tensor) -> None:
        self.problem, self.started = problem, time.process_time()
        self.evaluations, self.best, self.best_x, self.last = 0, math.inf, x0, [x0 * math.nan] * 2
        start = float(problem.objective(x0))
        self.target = problem.optimum + TAU * (start - problem.optimum)
        self.reached: int | None = None

    def residuals(self, x: Tensor) -> Tensor:
        """The residuals, counted."""
        r = self.problem.residuals(x)
        at = x.detach()
        if not any(torch.equal(at, known) for known in self.last):
            if self.evaluations >= EVALUATIONS or time.process_time() - self.started > CPU_SECONDS:
                raise CapReached
            self.evaluations, self.last = self.evaluations + 1, [at.clone(), self.last[0]]
            value = float(r.detach().square().sum())
            if value < self.best:
                self.best, self.best_x = value, at.clone()
            if self.reached is None and value <= self.target:
                self.reached = self.evaluations
        return r

    def objective(self, x: Tensor) -> Tensor:
        """F, counted."""
        return self.residuals(x).square().sum()

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """F and its gradient, counted."""
        leaf = torch.tensor(x, requires_grad=True)
        value = self.objective(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    def hessian(self, x: np.ndarray) -> np.ndarray:
        """The Hessian of F, at a point that was counted."""
        return torch.func.jacrev(torch.func.grad(self.problem.objective))(torch.tensor(x)).numpy()

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """The Jacobian of the residuals, at a point that was counted."""
        return torch.func.jacrev(self.problem.residuals)(torch.tensor(x)).numpy()


class Ended(NamedTuple):
    """Where a solver says the minimum is, and whether it says so; torch.optim says nothing, which reads as success."""

    x: Tensor
    success: bool = True


Solver = Callable[[Counted, Tensor], Ended]


def ours(method: str) -> Solver:
    def solve(f: Counted, x0: Tensor) -> Ended:
        squares = method in LEAST_SQUARES
        options = {"maxiter": UNLIMITED, "gtol": 1e-8 if squares else GTOL}
        found = minimize(f.residuals if squares else f.objective, x0, method=method, options=options)
        return Ended(found.x, found.success)

    return solve


def scipys(method: str, **options: Any) -> Solver:
    if method != "Newton-CG":  # which tests the step
        options = {"gtol": GTOL, **options}
    second = method in ("Newton-CG", "dogleg", "trust-ncg", "trust-krylov", "trust-exact")

    def solve(f: Counted, x0: Tensor) -> Ended:
        given = {"jac": True, "hess": f.hessian if second else None, "options": {"maxiter": UNLIMITED, **options}}
        found = optimize.minimize(f.value_and_gradient, x0.numpy(), method=method, **given)
        return Ended(torch.from_numpy(found.x), bool(found.success))

    return solve


def scipys_squares(method: str, **options: Any) -> Solver:
    def solve(f: Counted, x0: Tensor) -> Ended:
        given = {"jac": f.jacobian, "method": method, "max_nfev": UNLIMITED, **options}
        found = optimize.least_squares(lambda x: f.residuals(torch.tensor(x)).numpy(), x0.numpy(), **given)
        return Ended(torch.from_numpy(found.x), bool(found.success))

    return solve


def torchs(**options: Any) -> Solver:
    def solve(f: Counted, x0: Tensor) -> Ended:
        x = x0.clone().requires_grad_()
        limits = {"max_iter": UNLIMITED, "max_eval": UNLIMITED, "history_size": 10}
        optimizer = torch.optim.LBFGS([x], line_search_fn="strong_wolfe", **limits, **options)

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = f.objective(x)
            value.backward()
            return value

        optimizer.step(closure)
        return Ended(x.detach())

    return solve


def torchmins(method: str) -> Solver:
    def solve(f: Counted, x0: Tensor) -> Ended:
        import torchmin

        if method == "trf":
            found = torchmin.least_squares(f.residuals, x0.clone(), max_nfev=UNLIMITED)
        else:
            tol = None if method.startswith("newton") else GTOL  # those test the step
            found = torchmin.minimize(f.objective, x0.clone(), method=method, max_iter=UNLIMITED, tol=tol)
        return Ended(found.x.detach(), bool(found.success))

    return solve


# They are for minibatches, for likelihoods, for the layers of a network, or for one coordinate after the other.
NOT_HERE = ("stochastic_lbfgs", "hessian_free", "natural_gradient", "kfac", "ekfac")
OURS = [name for name in SECOND_ORDER if name not in NOT_HERE and not name.endswith("coordinate_descent")]
SCIPYS = ("BFGS", "CG", "L-BFGS-B", "Newton-CG", "dogleg", "trust-ncg", "trust-krylov", "trust-exact")
TORCHMINS = (
    "bfgs", "l-bfgs", "cg", "newton-cg", "newton-exact", "dogleg", "trust-ncg", "trust-krylov", "trust-exact", "trf"
)  # fmt: skip
SOLVERS: dict[tuple[str, str], Solver] = {
    **{("thalweg", method): ours(method) for method in OURS},
    **{("SciPy", method): scipys(method) for method in SCIPYS},
    ("SciPy", "L-BFGS-B, ftol 1e-15"): scipys("L-BFGS-B", ftol=1e-15, maxfun=UNLIMITED),
    **{("SciPy", f"least_squares {method}"): scipys_squares(method) for method in ("lm", "trf", "dogbox")},
    ("torch", "LBFGS, its tolerances"): torchs(),
    ("torch", "LBFGS, tolerance_change 0"): torchs(tolerance_grad=GTOL, tolerance_change=0.0),
    **{("pytorch-minimize", method): torchmins(method) for method in TORCHMINS},
}


class Outcome(NamedTuple):
    """One run of one solver."""

    problem: Problem
    factor: int
    solved: bool
    stationary: bool
    reached: int | None  # the evaluations to tau
    evaluations: int
    end: str  # "success", "failure", "cap", or the name of what it raised

    @property
    def silent(self) -> bool:
        """Whether it reports success where there is none."""
        return self.end == "success" and not self.solved and not self.stationary


def outcome(solver: Solver, problem: Problem, factor: int, x0: Tensor) -> Outcome:
    f = Counted(problem, x0)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            x, success = solver(f, x0)
            end = "success" if success else "failure"
        except CapReached:
            x, end = f.best_x, "cap"
        except Exception as error:  # noqa: BLE001 - a solver that raises is a result
            x, end = x0 * math.nan, type(error).__name__
    leaf = x.clone().requires_grad_()
    value = problem.objective(leaf)
    (g,) = torch.autograd.grad(value, leaf)
    stationary = float(g.abs().max()) <= 1e-5 * max(1.0, abs(float(value.detach())))
    return Outcome(problem, factor, problem.solved(float(value.detach())), stationary, f.reached, f.evaluations, end)


COLUMNS = ("solved of 35", "of 69", "tau, of 69", "gradient, of 69", "median to tau", "evaluations", "caps", "raised",
           "silent", "CPU s")  # fmt: skip


def row(outcomes: list[Outcome], seconds: float) -> list[str]:
    ends = [one.end for one in outcomes]
    reached = [one.reached for one in outcomes if one.reached is not None]
    cells = (
        sum(one.solved for one in outcomes if one.factor == 1),
        sum(one.solved for one in outcomes),
        len(reached),
        sum(one.stationary for one in outcomes),
        f"{statistics.median(reached or [0]):g}",
        f"{sum(one.evaluations for one in outcomes):,}",
        ends.count("cap"),
        sum(end not in ("success", "failure", "cap") for end in ends),
        sum(one.silent for one in outcomes),
        f"{seconds:.0f}",
    )
    return [str(cell) for cell in cells]


def main(wanted: list[str]) -> None:
    torch.set_num_threads(1)
    wanted = [name.lower().replace("_", "-") for name in wanted]
    torchmin = importlib.util.find_spec("torchmin") is not None
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "scipy"))
    print(f"{versions}, pytorch-minimize {version('pytorch-minimize') if torchmin else 'is not installed'}\n")
    print(f"| library | method | {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * len(COLUMNS)}")
    missed = []
    for (library, method), solver in SOLVERS.items():
        plain = method.lower().replace("_", "-").removeprefix("least-squares ").split(",")[0]
        names = {plain, *(alias for alias, name in METHODS.items() if name == method)}
        if (library == "pytorch-minimize" and not torchmin) or (wanted and names.isdisjoint(wanted)):
            continue
        started = time.process_time()
        outcomes = [outcome(solver, *run) for run in runs()]
        print(f"| {library} | {method} | {' | '.join(row(outcomes, time.process_time() - started))} |", flush=True)
        runs_missed = [f"{o.problem.number}{'×10' * (o.factor == 10)}" for o in outcomes if not o.solved]
        missed.append(f"- {library} {method}: {', '.join(runs_missed) or 'none'}")
    print("\nNot solved, by the number in the paper:\n", *missed, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
