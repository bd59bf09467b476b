"""fit: train a recipe on a problem, stop early, use all the data, and survive being killed at any moment."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from thalweg.core.errors import AlgorithmError, DivergenceError, ProblemError, StorageError
from thalweg.core.network import Network
from thalweg.learning.risk import risk
from thalweg.learning.stopping import joined, out_of_patience
from thalweg.training.all_data import held, said
from thalweg.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint, write
from thalweg.training.fitted import RESULT, Fitted, recorded, result
from thalweg.training.folder import claimed
from thalweg.training.predict import load_weights, save_model
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point, Run

SAVE_EVERY = 5.0  # seconds between two checkpoints

AllData = Literal["retrain", "continue"]


class Moment(NamedTuple):
    """What whoever watches a fit is told: after each step, and where there is something to say (`note`)."""

    stage: str  # "train", "retrain" or "continue"
    t: int
    steps: int  # that the stage takes at most
    loss: float | None = None  # on the step's batch
    point: Point | None = None  # the latest measurement
    note: str = ""


@dataclass(frozen=True)
class _Settings:
    """What decides the numbers, beside the problem and the recipe."""

    seed: int
    patience: int | None
    min_delta: float
    use_all_data: AllData | None


def fit(
    problem: Problem,
    recipe: Recipe,
    out: Path | str | None = None,
    *,
    seed: int = 0,
    patience: int | None = None,
    min_delta: float = 0.0,
    use_all_data: AllData | None = None,
    save_every: float = SAVE_EVERY,
    progress: Callable[[Moment], None] | None = None,
) -> Fitted:
    """Trains `recipe` on `problem` and keeps the parameters that validate best.

    With `patience`, training stops after so many measurements (about 24 in a run) that are not better than the best
    by more than `min_delta` of the metric (Algorithm 7.1). `use_all_data` then trains on the training and validation
    data together: "retrain" from the start for as many steps as were best (Algorithm 7.2), "continue" from the best
    parameters until the loss on the validation part is under the old training loss, for as many steps again at most
    (Algorithm 7.3).

    With a folder `out`, the model and what `predict` needs are written to it, and a checkpoint every `save_every`
    seconds: the same call goes on where a killed one was, and ends with the same bits. Ctrl-C saves and raises
    KeyboardInterrupt. Raises DivergenceError for a loss that is no finite number, StorageError for a folder of
    something else, ProblemError for a problem that does not fit together.

    >>> import thalweg as tw
    >>> x = torch.linspace(-1, 1, 60)[:, None]
    >>> problem = tw.Problem(lambda: torch.nn.Linear(1, 1), (x[::2], 3 * x[::2]), (x[1::2], 3 * x[1::2]),
    ...                      loss=torch.nn.functional.mse_loss)
    >>> fitted = fit(problem, tw.Recipe("adam", steps=300, knobs={"lr": 0.1}))
    >>> round(fitted.network.theta[0].item(), 2)
    3.0
    """
    settings = _checked(seed, patience, min_delta, use_all_data)
    problem.check()
    _refuse_scores_of_a_part(problem, recipe, settings)
    folder = None if out is None else Path(out)
    Run(problem, recipe, seed)  # raises for what cannot run, before anything is written
    named = {"problem": problem.name, "fingerprint": problem.fingerprint(), **asdict(recipe), **asdict(settings)}
    with nullcontext() if folder is None else claimed(folder, named), _gentle() as interrupted:
        work = _Work(problem, recipe, settings, folder, save_every, progress or (lambda moment: None), interrupted)
        return work.finished() or work.carry_out()


def _checked(seed: int, patience: int | None, min_delta: float, use_all_data: AllData | None) -> _Settings:
    if patience is not None and patience < 1:
        raise AlgorithmError(f"a patience of {patience} was given: it counts measurements, 1 or more")
    if not min_delta >= 0:
        raise AlgorithmError(f"min_delta = {min_delta} was given: it is in units of the metric, 0 or more")
    if use_all_data not in (None, "retrain", "continue"):
        raise AlgorithmError(f"use_all_data = {use_all_data!r} was given: it is 'retrain', 'continue' or None")
    return _Settings(seed, patience, min_delta, use_all_data)


def _refuse_scores_of_a_part(problem: Problem, recipe: Recipe, settings: _Settings) -> None:
    if settings.use_all_data == "retrain" and recipe.curriculum is not None and not callable(problem.difficulty):
        raise ProblemError(
            "use_all_data='retrain' was given, and a difficulty of the training part alone: give a function of "
            "(inputs, targets), or use_all_data='continue'"
        )


@dataclass
class _Work:
    """A fit in progress, in its folder or in memory alone."""

    problem: Problem
    recipe: Recipe
    settings: _Settings
    folder: Path | None
    save_every: float
    tell: Callable[[Moment], None]
    interrupted: Callable[[], bool]
    saved_at: float = 0.0
    saved_step: int | None = None

    def carry_out(self) -> Fitted:
        """All stages, from the latest checkpoint on; then the test part, once."""
        checkpoint, resumed = self._latest()
        run, network, further = None, None, list[Point]()
        first = None if checkpoint is None else checkpoint.values["first"]
        if first is None:
            run, first = self._train(checkpoint)
            network, checkpoint = run.network, None
        notes = list(first["notes"])
        if self.settings.use_all_data is not None:
            network, further = self._all_data(run, first, checkpoint, notes)
        assert network is not None
        test = None if self.problem.test is None else risk(network, self.problem.test, self.problem.metric)
        curve, best = [Point(*p) for p in first["curve"]], Point(*first["best"])
        fitted = Fitted(network, self.recipe, self.settings.seed, curve, further, best, test, notes, self.folder)
        if self.folder is not None:
            save_model(self.folder, self.problem, network, self.recipe)
            write(self.folder / RESULT, json.dumps(result(self.problem, fitted), indent=1).encode())
        return replace(fitted, notes=resumed + notes)

    def finished(self) -> Fitted | None:
        """What the folder holds of a fit that was carried out before; None where there is still something to do."""
        if self.folder is None or not (self.folder / RESULT).is_file():
            return None
        network = self.problem.network(self.settings.seed)
        try:
            load_weights(self.folder, network.module)
            return recorded(self.folder, network, self.recipe)
        except StorageError as error:
            self.tell(Moment("train", 0, self.recipe.steps, note=f"{error}; it is made again from the last checkpoint"))
            return None

    def _latest(self) -> tuple[Checkpoint | None, list[str]]:
        checkpoint = None if self.folder is None else latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is None:
            return None, []
        self.saved_step = checkpoint.values["run"]["t"]
        notes = [*checkpoint.notes, f"went on from the checkpoint of step {self.saved_step}"]
        for note in notes:
            self.tell(Moment(checkpoint.values["stage"], self.saved_step, self.recipe.steps, note=note))
        return checkpoint, notes

    def _train(self, checkpoint: Checkpoint | None) -> tuple[Run, dict[str, Any]]:
        """Training with early stopping; what later stages and the result need of it."""
        run = Run(self.problem, self.recipe, self.settings.seed)
        if checkpoint is not None:
            run.load(checkpoint.tensors, checkpoint.values["run"])
        self._through(run, "train", self.recipe.steps, self._patience_lost, first=None)
        run.restore_best()
        _refuse_infinite(run)
        assert run.best is not None
        notes = run.notes()
        if run.t < self.recipe.steps:
            waited = self.settings.patience
            notes.append(
                f"stopped after {run.t} of {self.recipe.steps} steps: {waited} measurements without a better one"
            )
        first = {"t": run.t, "curve": [list(p) for p in run.curve], "best": list(run.best), "notes": notes}
        return run, first

    def _patience_lost(self, run: Run) -> bool:
        patience, min_delta = self.settings.patience, self.settings.min_delta
        values = [point.valid_metric for point in run.curve if point.t > run.pretrained]
        return patience is not None and out_of_patience(values, self.problem.metric, patience, min_delta)

    def _all_data(
        self, run: Run | None, first: dict[str, Any], checkpoint: Checkpoint | None, notes: list[str]
    ) -> tuple[Network, list[Point]]:
        """The second stage, on training and validation data together."""
        everything = replace(self.problem, train=joined(self.problem.train, self.problem.valid))
        stage, best = self.settings.use_all_data, Point(*first["best"])
        recipe = self.recipe if stage == "retrain" else held(self.recipe, best.t)
        second = Run(everything, recipe, self.settings.seed, every=max(1, self.recipe.steps // 24))
        if run is not None and stage == "continue":
            first["level"] = risk(run.network, self.problem.train, self.problem.metric)[0]
            second.start_from(run.best_state)
        if checkpoint is not None:
            second.load(checkpoint.tensors, checkpoint.values["run"])
        level = first.get("level")

        def reached(going: Run) -> bool:
            return level is not None and (going.curve or [best])[-1].valid_loss <= level

        self._through(second, str(stage), best.t, reached, first)
        second.keep_last()
        _refuse_infinite(second)
        notes.append(said(str(stage), second, level, reached(second)))
        return second.network, second.curve

    def _through(
        self, run: Run, stage: str, until: int, over: Callable[[Run], bool], first: dict[str, Any] | None
    ) -> None:
        """Advances a run to step `until`, or to the measurement after which it is `over`."""
        if run.t >= until or over(run):
            return
        self.saved_at = time.monotonic()
        try:
            for step in run.advance(until):
                point = run.curve[-1] if run.curve else None
                self.tell(Moment(stage, step.t, until, step.loss, point))
                ended = step.t >= until or (point is not None and point.t == step.t and over(run))
                if ended or self.interrupted() or time.monotonic() - self.saved_at >= self.save_every:
                    self._save(run, stage, first)
                if self.interrupted():
                    kept = (
                        "" if self.folder is None else f", saved in {self.folder}: the same command goes on from here"
                    )
                    raise KeyboardInterrupt(f"stopped at step {step.t} of {until}{kept}")
                if ended:
                    return
        except DivergenceError as error:
            kept = "" if self.saved_step is None else f"; {self.folder} keeps the state of step {self.saved_step}"
            raise DivergenceError(f"{error}{kept}") from error

    def _save(self, run: Run, stage: str, first: dict[str, Any] | None) -> None:
        """A checkpoint; never of parameters that a step has just made infinite."""
        finite = all(torch.isfinite(network.theta).all() for network in (run.network, run.trained))
        if self.folder is not None and finite:
            tensors, values = run.state()
            save_checkpoint(self.folder / "checkpoints", tensors, {"stage": stage, "run": values, "first": first})
            self.saved_step = run.t
        self.saved_at = time.monotonic()


def _refuse_infinite(run: Run) -> None:
    if not torch.isfinite(run.network.theta).all():
        knob, value = run.recipe.leading
        raise DivergenceError(
            f"the parameters are no longer finite after step {run.t} of {run.recipe.steps}, with {knob} {value:.3g}: "
            f"try a smaller {knob}"
        )


@contextmanager
def _gentle() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the step in hand end (ask what is yielded whether it came), a second ends at once."""
    asked: list[int] = []

    def answer(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, answer)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
