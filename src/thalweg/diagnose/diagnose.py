"""Diagnosis: what is wrong with a training run, shown with its error bars, and what to do (section 8.2)."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import AlgorithmError, DiagnosisError, StorageError
from thalweg.core.undisturbed import looked_into
from thalweg.diagnose.along import ALONG
from thalweg.diagnose.causes import MOMENTS, Cause, causes
from thalweg.diagnose.course import watched
from thalweg.diagnose.diagnosis import Cost, Diagnosis
from thalweg.diagnose.looks import Look, Notes, Sight
from thalweg.diagnose.probes import AT_END, AT_START, BY_THE_CLOCK
from thalweg.diagnose.trying import Tried, tried
from thalweg.training.checkpoint import latest_checkpoint
from thalweg.training.predict import MODEL, load_weights
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

STEPS = 1000  # of the run that is watched, at most
TRIED = 3  # causes whose advice is tried: the first ones
TRIED_STEPS = 200
SLOW = {"overfitting", "label noise"}  # what shows only at the end of a run
CHECKPOINTS = "checkpoints"  # as `fit` calls them
TIMED = 5  # gradients by which the cost of one is told


class Progressed(NamedTuple):
    """Progress: `done` of `total` of a stage, and what is being looked at."""

    stage: str
    done: int
    total: int
    note: str = ""


def diagnose(
    problem: Problem,
    recipe: Recipe | None = None,
    *,
    steps: int | None = None,
    seed: int = 0,
    checkpoint: Path | str | Mapping[str, Tensor] | None = None,
    attempt: bool = False,
    hardware: bool = False,
    seconds: float = math.inf,
    progress: Callable[[Progressed], None] | None = None,
) -> Diagnosis:
    """Looks at a problem before the first step, along a run of `steps` of the recipe, and after its last step.

    Without a recipe it is Adam at its defaults for the problem's own epochs; without `steps` the whole run is watched,
    up to 1,000 steps. `checkpoint` is where the run begins instead of at a new initialisation: a folder that `fit` or
    `compare` wrote, or a network's state. With `attempt` the advice of the first causes is tried; with `hardware` a
    batch size is recommended by memory, throughput and noise. Nothing more is measured once `seconds` have gone, but
    the run goes to its end. Nothing that exists is changed: training is of a network of its own. But for what reads a
    clock (the cost, `hardware`, `seconds`) everything is a function of the seed.

    What cannot be measured is in the diagnosis, with the reason. Raises DiagnosisError for a model that nothing can be
    said of (its weights are not finite, it is quantised), ProblemError for a problem that does not fit together,
    StorageError for a folder without a state.

    >>> from thalweg.training.builtin import digits
    >>> found = diagnose(digits(), Recipe("sgd", 200, knobs={"lr": 1e-6}), steps=50)
    >>> [cause.finding.name for cause in found.alarms]
    ['lr far too low']
    """
    started, tell = time.perf_counter(), progress or (lambda moment: None)
    problem = _measurable(problem)
    recipe = recipe or Recipe("adam", problem.steps, problem.batch_size)
    until = min(recipe.steps, STEPS) if steps is None else steps
    if not 1 <= until <= recipe.steps:
        raise AlgorithmError(f"{until} steps were asked for: the recipe has {recipe.steps}, give 1 to as many")
    with torch.random.fork_rng():
        run = _begun(problem, recipe, seed, checkpoint)
        state = None if checkpoint is None else run.network.state()
        notes = Notes(until=started + seconds)
        until = min(run.t + until, recipe.steps)
        before = Sight(run)
        _look(notes, "start", AT_START, before, tell)
        first_loss, begun = before.loss, run.network.state()
        course = watched(run, until, lambda t, total, loss: tell(Progressed("training", t, total, f"loss {loss:.3g}")))
        after = Sight(run, first_loss, begun)
        for name, reason in course.refused.items():
            notes.refuse("run", name, " ".join(reason.split()))
        for name, along in ALONG.items():
            notes.take("run", name, lambda along=along: along(course, after))  # type: ignore[misc]
        if not course.diverged:
            _look(notes, "end", {**AT_END, **(BY_THE_CLOCK if hardware else {})}, after, tell)
        found = causes(notes.seen)
        attempts = _attempts(problem, recipe, found, state, until, seed, tell) if attempt else {}
        spent = time.perf_counter() - started
        cost = Cost(spent, spent / _seconds_of_a_gradient(run), len(course.steps))
    return Diagnosis(problem.name, recipe, seed, found, notes.measurements, notes.refusals, attempts, cost)


def _measurable(problem: Problem) -> Problem:
    """The problem with the plain module inside of what its model gives, once it is known to fit together."""
    model = problem.model
    inside = looked_into(model) if isinstance(model, nn.Module) else lambda: looked_into(model())
    plain = replace(problem, model=inside)
    looked_into(plain.network(seed=0).module)  # what is wrong with a model is said before what is wrong with its loss
    plain.check()
    return plain


def _begun(problem: Problem, recipe: Recipe, seed: int, checkpoint: Path | str | Mapping[str, Tensor] | None) -> Run:
    """The run before its first step: new, or with a checkpoint's parameters."""
    run = Run(problem, recipe, seed)
    if isinstance(checkpoint, Mapping):
        run.start_from(dict(checkpoint))
    elif checkpoint is not None:
        _resume(run, Path(checkpoint))
    if not torch.isfinite(run.network.theta).all():
        looked_into(run.network.module)  # says which parameter
    return run


def _resume(run: Run, folder: Path) -> None:
    """From a folder: where its run was last, or its finished model's weights."""
    if (folder / MODEL).is_file():
        load_weights(folder, run.network.module)
        run.start_from(run.network.state())
        return
    if not (folder / CHECKPOINTS).is_dir() or (found := latest_checkpoint(folder / CHECKPOINTS)) is None:
        raise StorageError(f"{folder} holds no checkpoint and no model: give a folder that fit or compare wrote")
    run.start_from({name[4:]: tensor for name, tensor in found.tensors.items() if name.startswith("now.")})


def _look(
    notes: Notes, stage: str, looks: Mapping[str, Look], sight: Sight, tell: Callable[[Progressed], None]
) -> None:
    for done, (name, look) in enumerate(looks.items(), 1):
        tell(Progressed(MOMENTS[stage], done, len(looks), name))
        notes.take(stage, name, lambda look=look: look(sight))  # type: ignore[misc]


def _attempts(
    problem: Problem,
    recipe: Recipe,
    found: list[Cause],
    state: dict[str, Tensor] | None,
    steps: int,
    seed: int,
    tell: Callable[[Progressed], None],
) -> dict[str, Tried | str]:
    """What came of the advice of the first alarms that have a remedy, by their names."""
    attempts: dict[str, Tried | str] = {}
    chosen = [cause.finding for cause in found if cause.alarming][:TRIED]
    for done, finding in enumerate(chosen, 1):
        tell(Progressed("trying the advice", done, len(chosen), finding.name))
        if not finding.remedy:
            attempts[finding.name] = "not tried: it is not a matter of the recipe"
            continue
        try:
            most = steps if finding.name in SLOW else min(steps, TRIED_STEPS)
            attempts[finding.name] = tried(problem, recipe, finding.remedy, state=state, steps=most, seed=seed + 1)
        except DiagnosisError as error:
            attempts[finding.name] = f"not tried: {error}"
    return attempts


def _seconds_of_a_gradient(run: Run) -> float:
    """The median of a few, on a batch of the recipe."""
    batch, taken = run.batches[0], []
    for _ in range(TIMED):
        began = time.perf_counter()
        value_and_gradient(run.network.on(batch), run.network.theta)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
