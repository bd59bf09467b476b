"""A trial's work, done in a process of the pool: train up to a rung, keep the state, say what came of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from thalweg.comparison.study import Trial
from thalweg.core.errors import DivergenceError, StorageError
from thalweg.training.checkpoint import load_state, save_state
from thalweg.training.problem import Problem
from thalweg.training.run import Run

EXPLODED = 1e4  # times its first loss: a trial that comes there tells as much of its lr as one that overflows


class Task(NamedTuple):
    """Train `trial` up to step `until`, measuring every `every` steps, from `state` where that file exists."""

    trial: Trial
    until: int
    every: int
    state: Path


class Orphaned(Exception):
    """The process that asked for a trial is gone: nobody waits for it any more."""


def worker(problem: Problem) -> Callable[[Task], Trial]:
    """What the pool's processes do with a Task."""
    parent = os.getpid()

    def train(task: Task) -> Trial:
        started = time.process_time()
        trial = task.trial
        run = Run(problem, trial.recipe, trial.seed, task.every)
        if task.state.is_file():
            try:
                run.load(*load_state(task.state))
            except StorageError:  # damaged: the same trial from its first step comes to the same point
                task.state.unlink()
        outcome, message = "finished", ""
        try:
            for step in run.advance(task.until):
                if step.loss > EXPLODED * (run.first_loss or math.inf):
                    knob, value = trial.recipe.leading
                    raise DivergenceError(
                        f"the loss grew from {run.first_loss:.3g} to {step.loss:.3g} by step {step.t}, "
                        f"with {knob} {step.knobs.get(knob, value):.3g}: try a smaller {knob}"
                    )
                if step.t % task.every == 0 and os.getppid() != parent and os.getpid() != parent:
                    raise Orphaned(trial.key)
        except DivergenceError as error:
            outcome, message = "diverged", str(error)
        if outcome == "finished" and task.until < trial.recipe.steps:
            outcome = "running"
            save_state(task.state, *run.state())
        else:
            task.state.unlink(missing_ok=True)
        spent = trial.cpu_seconds + time.process_time() - started
        return replace(
            trial, outcome=outcome, message=message, steps=run.t, curve=run.curve, cpu_seconds=round(spent, 4)
        )

    return train
