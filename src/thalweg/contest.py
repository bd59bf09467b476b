"""compare, the main job: find the recipe that validates best here, say how sure that is, train with it."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from thalweg.algorithms import RACED
from thalweg.comparison import plan as planning
from thalweg.comparison import sanity
from thalweg.comparison.plan import Plan
from thalweg.comparison.pruning import pruning
from thalweg.comparison.race import Event, Progress, Race
from thalweg.comparison.remarks import remarks
from thalweg.comparison.result import Study
from thalweg.comparison.search import Search
from thalweg.comparison.spaces import Space, space
from thalweg.comparison.spaces import base as starting
from thalweg.comparison.study import Record, Trial
from thalweg.comparison.trial import worker
from thalweg.core.errors import BudgetError, StorageError
from thalweg.diagnose.why import Rank, explained
from thalweg.execution.pool import Pool
from thalweg.learning.risk import risk
from thalweg.report.page import write_report
from thalweg.training.folder import locked
from thalweg.training.predict import save_model
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

BUDGET = "2m"  # where none is given
DIAGNOSED = 0.05  # of a budget of time


def compare(
    problem: Problem,
    *,
    budget: float | str | None = None,
    trials: int | None = None,
    algorithms: Sequence[str] | None = None,
    spaces: Mapping[str, Space] | None = None,
    seed: int = 0,
    workers: int | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Study:
    """Races algorithms on a problem and trains with the recipe that wins; everything is written to a folder.

    Where no `algorithms` are given, ten are raced: those of `thalweg.algorithms.RACED`.
    The budget is wall time ("5m", or seconds), or `trials` per algorithm, which reads no clock and gives the same
    study every time, with any number of `workers`. `spaces` replaces the published search spaces (and `algorithms`).
    A folder `out` (runs/<name> where none is given) that holds the same study, stopped, is gone on with.

    Raises BudgetError where the budget buys nothing, AlgorithmError for unknown algorithms, ProblemError for a
    model, loss and data that do not fit each other, StorageError for a folder of another study.

    >>> import tempfile, thalweg as tw
    >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> problem = tw.Problem(lambda: torch.nn.Linear(2, 2), (x[:40], y[:40]), (x[40:], y[40:]), epochs=5)
    >>> study = compare(problem, trials=2, algorithms=["sgd", "adam"], out=tempfile.mkdtemp())
    >>> study.recipe.algorithm in ("sgd", "adam")
    True
    """
    names = list(dict.fromkeys(spaces or algorithms or RACED))
    if budget is not None and trials is not None:
        raise BudgetError("both a budget of time and one of trials were given: give one of them")
    limit = None if trials is not None else planning.seconds(BUDGET if budget is None else budget)
    for name in [] if spaces else names:
        space(name, trials=0)
    folder = Path(out or Path("runs") / problem.name)
    settings = {
        "algorithms": names, "seed": seed, "budget": limit, "trials": trials,
        "epochs": problem.epochs, "batch_size": problem.batch_size,
        "spaces": {name: [asdict(d) for d in dimensions] for name, dimensions in (spaces or {}).items()},
    }  # fmt: skip
    contest = _Contest(problem, folder, settings, spaces or {}, workers or os.cpu_count() or 1, progress or _silent)
    with _one_thread():
        known = contest.known()
        if known is None or "final" not in known:
            facts = known or contest.prepared(command)
            with locked(folder):
                contest.carry_out(facts, new=known is None)
    study = Study.open(folder)
    write_report(study, folder / "report.html")
    return study


@dataclass
class _Contest:
    problem: Problem
    folder: Path
    settings: dict[str, Any]
    given: Mapping[str, Space]
    workers: int
    progress: Progress

    def carry_out(self, facts: dict[str, Any], new: bool) -> None:
        """Everything up to the final model, skipping what the folder's record has."""
        record = Record(self.folder / "study.db")
        try:
            for name, value in facts.items() if new else ():
                record.note(name, value)
            self._race(record, facts)
        finally:
            record.close()

    def known(self) -> dict[str, Any] | None:
        """The facts of the study in the folder; None where there is nothing. Raises StorageError for another's."""
        path = self.folder / "study.db"
        if not path.is_file():
            if self.folder.is_file() or (self.folder.is_dir() and _holds_something(self.folder)):
                raise StorageError(f"{self.folder} is not empty and holds no study: give another --out")
            return None
        record = Record(path)
        facts = record.facts()
        record.close()
        if "times" not in facts:  # stopped before the race began
            return None
        theirs, mine = facts["problem"]["fingerprint"], self.problem.fingerprint()
        if theirs != mine:
            raise StorageError(
                f"{self.folder} holds a study of another problem ({facts['problem']['name']}, {theirs}; this one is "
                f"{self.problem.name}, {mine}): give another --out"
            )
        for name, value in json.loads(json.dumps(self.settings)).items():
            if facts["settings"][name] != value:
                was = "" if name == "spaces" else f" ({facts['settings'][name]}, now {value})"
                raise StorageError(f"{self.folder} holds a study with other {name}{was}: give another --out")
        return facts

    def prepared(self, command: str) -> dict[str, Any]:
        """What is known before the race: the problem, its sanity, and the plan that the budget buys."""
        problem, trials, names = self.problem, self.settings["trials"], self.settings["algorithms"]
        elapsed = stopwatch()
        problem.check()
        self.progress(Event("sanity", 0, 1))
        found = sanity.checks(problem, self.settings["seed"])
        theta = problem.network(seed=0).theta
        examples = len(problem.train)
        execution = sanity.warm(names, theta)
        base = Recipe("adam", problem.steps, problem.batch_size)
        pace = sanity.seconds_per_step(problem, base, max(1, problem.steps // planning.MEASUREMENTS))
        recipes = {name: starting(name, problem.steps, problem.batch_size, examples) for name in names}
        costs = sanity.costs(problem, recipes, base, None if trials is not None else pace)
        if trials is not None:
            plan = planning.fixed(problem.steps, problem.batch_size, trials)
        else:
            plan = planning.planned(
                self.settings["budget"], problem.steps, problem.batch_size, len(names), pace, self.workers
            )
        text = plan.sentences(len(names), pace * plan.steps, self.workers)
        dear = {name: plan.at_pace(cost).steps for name, cost in costs.items() if cost > 1}
        if dear:
            each = ", ".join(f"{name} {steps}" for name, steps in dear.items())
            what = "time" if trials is None else "evaluations"
            text.append(f"where a step costs more, runs have fewer steps, for the same {what}: {each}")
        if plan.steps < problem.steps:
            text.append(f"runs were shortened from {problem.steps} steps to {plan.steps} to fit the budget")
        self.progress(Event("sanity", 1, 1, "\n".join(check.text for check in found)))
        self.progress(Event("plan", 1, 1, "\n".join(text)))
        return {
            "problem": _described(problem, len(theta)),
            "settings": self.settings,
            "sanity": {"checks": [asdict(check) for check in found], "steps_per_second": round(1 / pace, 1)},
            "plan": {**asdict(plan), "costs": costs, "text": text},
            "machine": {**_machine(), "workers": self.workers, "execution": execution},
            "command": command,
            "times": {"wall_seconds": round(elapsed(), 1)},  # the last to be written: what comes before it is whole
        }

    def _race(self, record: Record, facts: dict[str, Any]) -> None:
        plan = Plan(**{name: facts["plan"][name] for name in Plan.__dataclass_fields__})
        examples = len(self.problem.train)
        plans = {name: plan.at_pace(cost) for name, cost in facts["plan"]["costs"].items()}
        searches = {
            name: Search(
                starting(name, own.steps, own.batch_size, examples), self.given.get(name) or space(name, plan.trials)
            )
            for name, own in plans.items()
        }
        limit = self.settings["budget"]
        elapsed = stopwatch(facts["times"]["wall_seconds"])
        sanity.warm(list(searches), self.problem.network(seed=0).theta)
        states = self.folder / "trials"
        states.mkdir(exist_ok=True)
        with Pool(worker(self.problem), self.workers) as pool:
            race = Race(
                record, pool, plan, self.problem.metric, plans, searches, self.settings["seed"], states,
                self._noting(record, elapsed), None if limit is None else lambda: limit - elapsed(), self.workers,
            )  # fmt: skip
            race.screen()
            race.refine()
            race.widen()
            race.confirm()
        study = Study.open(self.folder)
        record.note("pruning", asdict(pruning(study.trials, study.metric)))
        noted = remarks(study.verdict, study.trials, searches, self.problem)
        record.note("remarks", [asdict(remark) for remark in noted])
        recommended = study.verdict.recommended
        self.progress(Event("diagnosis", 0, 1))
        ranks = [
            Rank(standing.algorithm, standing.algorithm in study.verdict.tied) for standing in study.verdict.standings
        ]
        seconds = math.inf if limit is None else DIAGNOSED * limit
        why = explained(self.problem, study.recipe, ranks, self.settings["seed"], seconds)
        record.note("why", [reason._asdict() for reason in why])
        self.progress(Event("diagnosis", 1, 1, why[0].text))
        self._final(record, race.finish(recommended, study.recipe), plans[recommended])
        record.note("times", {"wall_seconds": round(elapsed(), 1), "cpu_seconds": _cpu_seconds(record)})
        shutil.rmtree(states)

    def _noting(self, record: Record, elapsed: Callable[[], float]) -> Progress:
        """The caller's progress, and the time spent written down at most once a second."""
        last = 0.0

        def progress(event: Event) -> None:
            nonlocal last
            if elapsed() - last > 1:
                last = elapsed()
                record.note("times", {"wall_seconds": round(last, 1)})
            self.progress(event)

        return progress

    def _final(self, record: Record, trial: Trial, plan: Plan) -> None:
        """Trains with the recommended recipe on a fresh seed; the test set is touched here, and only here."""
        started = time.process_time()
        run = Run(self.problem, trial.recipe, trial.seed, plan.every)
        for step in run.advance():
            if step.t % plan.every == 0 or step.t == plan.steps:
                note = f"{self.problem.metric.name} {run.curve[-1].valid_metric:.4g}"
                self.progress(Event("final", step.t, plan.steps, note))
        run.restore_best()
        best = run.best
        assert best is not None
        final = {
            "algorithm": trial.algorithm, "seed": trial.seed, "steps": run.t, "best_step": best.t,
            "train_loss": best.train_loss, "valid_loss": best.valid_loss, "valid_metric": best.valid_metric,
        }  # fmt: skip
        if self.problem.test is not None:
            final["test_loss"], final["test_metric"] = risk(run.network, self.problem.test, self.problem.metric)
        save_model(self.folder, self.problem, run.network, trial.recipe)
        spent = round(time.process_time() - started, 4)
        record.write(replace(trial, outcome="finished", steps=run.t, curve=run.curve, cpu_seconds=spent))
        record.note("final", final)


def stopwatch(before: float = 0.0) -> Callable[[], float]:
    """Seconds of wall time since now, on top of what was spent before."""
    started = time.monotonic()
    return lambda: before + time.monotonic() - started


def _described(problem: Problem, parameters: int) -> dict[str, Any]:
    sizes = {part: len(data) for part in ("train", "valid", "test") if (data := getattr(problem, part)) is not None}
    return {
        "name": problem.name, "source": problem.source, "fingerprint": problem.fingerprint(),
        "metric": {name: getattr(problem.metric, name) for name in ("name", "higher_is_better", "low", "high")},
        "loss": getattr(problem.loss, "__name__", type(problem.loss).__name__), "chance": problem.chance,
        "about": problem.about, "sizes": sizes, "parameters": parameters, "epochs": problem.epochs,
        "model": str(problem.network(seed=0).module),
    }  # fmt: skip


def _machine() -> dict[str, Any]:
    packages = {name: version(name) for name in ("torch", "numpy", "numba", "thalweg")}
    return {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "system": platform.platform(),
        "python": platform.python_version(), **packages,
    }  # fmt: skip


def _cpu_seconds(record: Record) -> float:
    return round(sum(trial.cpu_seconds for trial in record.trials()), 1)


def _holds_something(folder: Path) -> bool:
    return any(found.name != ".lock" for found in folder.iterdir())


def _silent(event: Event) -> None:
    """For who wants no progress."""


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small models run fastest on one thread a process; more processes x threads than cores is ruin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
