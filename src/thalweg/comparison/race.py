"""The race: screening with halving, refinement near the survivors, widening at the edges, confirmation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thalweg.comparison.plan import MOST_SEEDS, REFINEMENT, SCREENING, SEEDS, Plan, survivors
from thalweg.comparison.search import Search
from thalweg.comparison.study import Record, Trial
from thalweg.comparison.trial import Task
from thalweg.core.errors import ProblemError, StorageError
from thalweg.execution.pool import Failure, Pool
from thalweg.learning.risk import Metric
from thalweg.training.recipe import Recipe

WIDENINGS = 2  # times that a space is widened, at most
WHOLE = ("refinement", "widening")  # the stages of whole runs that an algorithm's best is chosen from
CONTROLS = 1 / 24  # of the trials that are cut, run to their end all the same
_SCREENING, _REFINEMENT, _WIDENING, _CONFIRMATION, _FINAL = range(5)


class Event(NamedTuple):
    """Progress: `done` of `total` runs of a stage, what was last seen, and the seconds left of a budget of time."""

    stage: str
    done: int
    total: int
    note: str = ""
    left: float | None = None


Progress = Callable[[Event], None]


@dataclass
class Race:
    """A comparison in progress. Every result is on disk before the next is waited for; what is there is not redone."""

    record: Record
    pool: Pool
    plan: Plan
    metric: Metric
    plans: Mapping[str, Plan]  # per algorithm: the plan, with fewer steps where a step is dearer
    searches: Mapping[str, Search]  # per algorithm
    seed: int
    states: Path  # the folder of interrupted trials
    progress: Progress
    time_left: Callable[[], float] | None  # seconds of wall time; None for a budget in trials
    workers: int

    def __post_init__(self) -> None:
        self.done = {trial.key: trial for trial in self.record.trials()}
        self._before = self._steps()  # taken before a study that goes on
        self._began = self.time_left() if self.time_left else 0.0

    def seed_of(self, stage: int, i: int = 0) -> int:
        """A seed of its own for each stage (and repeat): screening and confirmation never meet."""
        return int(np.random.SeedSequence([self.seed, stage, i]).generate_state(1)[0])

    # The stages

    def screen(self) -> None:
        """Each algorithm at its defaults, then at quasi-random points of its space, in short runs."""
        n, ends = self.plan.rounds[0], {name: plan.rungs(SCREENING)[-1] for name, plan in self.plans.items()}
        points = {
            name: [recipe.with_(steps=ends[name]) for recipe in search.screening(n, self.seed_of(_SCREENING, 1 + i))]
            for i, (name, search) in enumerate(self.searches.items())
        }
        self._halve("screening", points, SCREENING, _SCREENING)

    def refine(self) -> None:
        """Each algorithm again, from a new seed, in whole runs, at and near its two best points."""
        n = self._affordable(self.plan.rounds[1])
        seen = [t for t in self.done.values() if t.stage == "screening"]
        points = {
            name: search.refinement(*self._standing(seen, name, "screening"), n, self.seed_of(_REFINEMENT, 1 + i))
            for i, (name, search) in enumerate(self.searches.items())
        }
        self._halve("refinement", points, REFINEMENT, _REFINEMENT)

    def widen(self) -> None:
        """Where the best lr lies at the edge of its space: further points beyond, while that helps."""
        n = max(2, self.plan.trials // 8)
        seeds = [self.seed_of(_WIDENING, attempt) for attempt in range(WIDENINGS)]
        for attempt, seed in enumerate(seeds):
            seen = [t for t in self.done.values() if t.seed not in seeds[attempt:]]
            points = {
                name: beyond
                for name, search in self.searches.items()
                if (beyond := search.beyond(*self._standing(seen, name, *WHOLE), n))
            }
            if not points or (self.time_left and self.time_left() < self._seconds(n * len(points) + self._reserve())):
                return
            trials = [
                Trial(f"widening/{name}/{attempt}{i:02d}", "widening", name, recipe, seed)
                for name, recipes in points.items()
                for i, recipe in enumerate(recipes)
            ]
            self._run("widening", trials)

    def confirm(self) -> None:
        """The best of each algorithm on fresh seeds, for initialisation and data order both."""
        standings = {name: self._standing(list(self.done.values()), name, *WHOLE)[0] for name in self.searches}
        finalists = {name: best_first[0].recipe for name, best_first in standings.items() if best_first}
        if not finalists:
            last = max(self.done.values(), key=lambda t: (t.outcome == "failed", t.key))
            raise ProblemError(
                f"no trial of any algorithm came through; {last.key} {last.outcome}: {last.message or 'not finished'}"
            )
        seeds = self._decided("seeds", lambda: self._seeds(len(finalists)))
        trials = [
            Trial(f"confirmation/{name}/{i:02d}", "confirmation", name, recipe, self.seed_of(_CONFIRMATION, i))
            for i in range(seeds)
            for name, recipe in finalists.items()
        ]
        self._run("confirmation", trials)

    def finish(self, name: str, recipe: Recipe) -> Trial:
        """The trial of the final run, on one more fresh seed; it is trained where the test set is, in `contest`."""
        return Trial(f"final/{name}", "final", name, recipe, self.seed_of(_FINAL))

    def _standing(self, seen: Sequence[Trial], name: str, *stages: str) -> tuple[list[Trial], float]:
        """What is known of an algorithm from the trials `seen`, which a study that goes on must see again the same.

        Its runs that came to their end in some stages, best first; and from which lr on it diverges (see `Search`).
        """
        mine = [t for t in seen if t.algorithm == name]
        ended = [t for t in mine if t.stage in stages and t.outcome == "finished"]
        best_first = sorted(ended, key=lambda t: (t.cost(self.metric), t.key))
        return best_first, self.searches[name].upper(best_first[:1], [t for t in mine if t.outcome == "diverged"])

    # Running

    def _halve(
        self, stage: str, points: Mapping[str, Sequence[Recipe]], fractions: tuple[float, ...], number: int
    ) -> None:
        """Runs the points from one seed, cutting each algorithm's to its best at every rung; some cut ones go on."""
        alive = [
            Trial(f"{stage}/{name}/{i:03d}", stage, name, recipe, self.seed_of(number))
            for name, recipes in points.items()
            for i, recipe in enumerate(recipes)
        ]
        cut: list[Trial] = []
        rungs = {name: plan.rungs(fractions) for name, plan in self.plans.items()}
        for i, steps in enumerate(self.plan.rungs(fractions)):
            ended = self._run(f"{stage}, {steps} steps", alive, {name: ends[i] for name, ends in rungs.items()})
            if i + 1 == len(fractions):
                break
            alike: dict[tuple[str, str | None, str | None], list[Trial]] = defaultdict(list)
            for trial in ended:  # one that was pretrained or began with easy examples is elsewhere in its run by then
                alike[trial.algorithm, trial.recipe.pretrain, trial.recipe.curriculum].append(trial)
            alive = []
            for (name, *_), trials in alike.items():
                rung = rungs[name][i]
                ranked = sorted(trials, key=lambda t: (t.cost(self.metric, rung), t.key))
                kept = survivors(len(ranked))
                alive += [t for t in ranked[:kept] if math.isfinite(t.cost(self.metric, rung)[0])]
                cut += [t for t in ranked[kept:] if t.outcome not in ("diverged", "failed")]
        self._controls(stage, cut, {name: ends[-1] for name, ends in rungs.items()}, number)

    def _controls(self, stage: str, cut: list[Trial], ends: Mapping[str, int], number: int) -> None:
        cut = sorted(cut, key=lambda t: t.key)
        chosen: set[int] = set()
        if cut:
            drawn = np.random.default_rng([self.seed, number]).permutation(len(cut))
            chosen = set(drawn[: max(1, round(len(cut) * CONTROLS))].tolist())
        self._run(f"{stage}, controls", [replace(cut[i], control=True) for i in sorted(chosen)], ends)
        for i, trial in enumerate(cut):
            if i not in chosen and self.done[trial.key].outcome == "running":
                self._keep(replace(self.done[trial.key], outcome="cut"))
                self._state(trial).unlink(missing_ok=True)

    def _run(self, what: str, trials: Sequence[Trial], until: Mapping[str, int] | None = None) -> list[Trial]:
        """Brings trials up to their algorithm's step (or their end), skipping what the record has.

        Returns them as they then are, in order.
        """
        ends = until or {name: plan.steps for name, plan in self.plans.items()}
        missing = [t for t in trials if not self._reached(t, ends[t.algorithm])]
        tasks = [
            Task(self._known(t), ends[t.algorithm], self.plans[t.algorithm].every, self._state(t)) for t in missing
        ]
        done = len(trials) - len(missing)
        self.progress(Event(what, done, len(trials)))
        for task, result in self.pool.run(tasks):
            if isinstance(result, Failure):
                if isinstance(result.error, StorageError):  # a full disk is everybody's
                    raise result.error
                result = replace(task.trial, outcome="failed", steps=task.trial.steps + 1, message=result.message)
            self._keep(result)
            done += 1
            left = self.time_left() if self.time_left else None
            self.progress(Event(what, done, len(trials), self._note(result), left))
        return [self.done[t.key] for t in trials]

    def _known(self, trial: Trial) -> Trial:
        """The trial with what the record knows of it; from the start where its state was lost."""
        known = self.done.get(trial.key)
        if known is None or not self._state(trial).is_file():
            return trial if known is None else replace(trial, cpu_seconds=known.cpu_seconds)
        return replace(known, control=trial.control)

    def _reached(self, trial: Trial, until: int) -> bool:
        known = self.done.get(trial.key)
        if known is None:
            return False
        if known.outcome == "cut":
            return not trial.control
        return known.outcome in ("diverged", "failed", "finished") or known.steps >= until

    def _keep(self, trial: Trial) -> None:
        self.record.write(trial)
        self.done[trial.key] = trial

    def _state(self, trial: Trial) -> Path:
        return self.states / f"{trial.key.replace('/', '-')}.safetensors"

    def _note(self, trial: Trial) -> str:
        point = trial.best(self.metric)
        what = (
            f"{self.metric.name} {point.valid_metric:.4g}" if point and trial.outcome != "diverged" else trial.outcome
        )
        return f"{trial.algorithm}: {what}"

    # Time

    def _seconds(self, runs: float) -> float:
        """Wall seconds that so many whole runs will take, at the pace since the race (or its continuation) began."""
        assert self.time_left is not None
        pace = (self._began - self.time_left()) / max(self._steps() - self._before, 1)
        return runs * self.plan.steps * pace

    def _steps(self) -> float:
        """Steps taken, those of a dearer algorithm counted as the many others that they cost."""
        return sum(t.steps * self.plan.steps / self.plans[t.algorithm].steps for t in self.done.values())

    def _reserve(self) -> float:
        return len(self.searches) * SEEDS + self.workers

    def _affordable(self, n: int) -> int:
        """As many trials of an algorithm, from 1 to n, as the time allows beside confirmation."""
        if self.time_left is None:
            return n
        left = self.time_left()
        costs = {k: self.plan.cost(k, REFINEMENT) * len(self.searches) + self._reserve() for k in range(1, n + 1)}
        fitting = [k for k, runs in costs.items() if self._seconds(runs) <= left]
        return self._decided("refinement", lambda: max(fitting, default=1))  # no whole run, nothing to confirm

    def _seeds(self, finalists: int) -> int:
        if self.time_left is None:
            return self.plan.seeds
        affordable = int(self.time_left() / max(self._seconds(finalists), 1e-9) - self.workers / max(finalists, 1))
        return max(SEEDS, min(affordable, MOST_SEEDS))

    def _decided(self, name: str, decide: Callable[[], int]) -> int:
        """A decision that a clock had a part in: taken once, and kept for a study that goes on."""
        decisions = self.record.facts().get("decisions", {})
        if name not in decisions:
            decisions[name] = decide()
            self.record.note("decisions", decisions)
        return int(decisions[name])
