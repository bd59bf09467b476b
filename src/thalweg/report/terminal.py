"""What the command line shows: a calm bar while it works (without a terminal, a line now and then), and tables."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from thalweg.comparison.plan import duration

if TYPE_CHECKING:
    from thalweg.comparison.race import Event
    from thalweg.comparison.result import Study
    from thalweg.diagnose.diagnose import Progressed
    from thalweg.training.fit import Moment
    from thalweg.training.problem import Problem

REFRESH = 0.1  # seconds between two redrawings of a bar
BAR = 6  # characters: with all figures, a line of 80
SEPARATOR = " · "
METRIC = 12  # characters: a longer name would cut the columns of a narrow terminal
QUIET = 10.0  # seconds between two lines where there is no terminal
WORDS = ("sanity", "plan")  # stages of a comparison that are told in words, not as a bar
STAGES = {"train": "training", "retrain": "retraining", "continue": "continuing"}


@contextmanager
def fit_progress(console: Console, metric: str) -> Iterator[Callable[[Moment], None]]:
    """Shows a fit: steps, loss, the metric, speed and time left."""
    with _shown(console) as show:
        clock = _Clock()
        last: Moment | None = None

        def draw(moment: Moment) -> None:
            seen = [f"loss {moment.loss:.3g}"]
            if moment.point is not None:
                seen.append(f"{metric} {moment.point.valid_metric:.4g}")
            show.at(STAGES[moment.stage], moment.t, moment.steps, [*seen, *clock.pace(moment.t, moment.steps)])

        def tell(moment: Moment) -> None:
            nonlocal last
            if moment.note:
                console.print(f"  {moment.note}", style="dim", markup=False, highlight=False, soft_wrap=True)
                return
            if last is None or moment.stage != last.stage:
                if last is not None:
                    draw(last)
                clock.start(moment.t)
            if show.due():
                draw(moment)
            last = moment

        try:
            yield tell
        finally:
            if last is not None:
                draw(last)


@contextmanager
def compare_progress(console: Console) -> Iterator[Callable[[Event], None]]:
    """Shows a comparison: its sanity and plan in words, then each stage's runs."""
    with _shown(console) as show:

        def tell(event: Event) -> None:
            if event.stage in WORDS:
                for line in event.note.split("\n") if event.note else []:
                    console.print(f"  {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
            elif event.total and (show.due() or event.done == event.total):
                left = [] if event.left is None else [f"{duration(max(event.left, 0))} left"]
                show.at(event.stage, event.done, event.total, [*([event.note] if event.note else []), *left])

        yield tell


@contextmanager
def diagnose_progress(console: Console) -> Iterator[Callable[[Progressed], None]]:
    """Shows a diagnosis: what is being looked at, and the steps of the run that is watched."""
    with _shown(console) as show:

        def tell(moment: Progressed) -> None:
            if show.due() or moment.done == moment.total:
                show.at(moment.stage, moment.done, moment.total, [moment.note] if moment.note else [])

        yield tell


class _Clock:
    """How fast steps go, and how long the rest takes."""

    def start(self, t: int) -> None:
        self.first, self.started = t, time.monotonic()

    def pace(self, t: int, steps: int) -> list[str]:
        elapsed = time.monotonic() - self.started
        if t == self.first or elapsed <= 0:
            return []
        speed = (t - self.first) / elapsed
        left = [f"{duration((steps - t) / speed)} left"] if t < steps else []
        return [f"{speed:.0f}/s", *left]


class _Bar:
    """Where a terminal is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, Any] = {}
        self.drawn = 0.0

    def due(self) -> bool:
        return time.monotonic() - self.drawn >= REFRESH

    def at(self, stage: str, done: int, total: int, seen: Sequence[str]) -> None:
        self.drawn = time.monotonic()
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total, seen="")
        parts = [f"{done}/{total}", *seen]
        room = self.progress.console.width - max(map(len, self.tasks)) - BAR - 3
        while len(parts) > 1 and len(SEPARATOR.join(parts)) > room:
            parts.pop()  # what matters least stands last
        words = SEPARATOR.join(parts)
        self.progress.update(self.tasks[stage], completed=done, total=total, seen=escape(words))


class _Lines:
    """Where no terminal is: the first moment, one every few seconds, and the last."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.said = -QUIET

    def due(self) -> bool:
        return time.monotonic() - self.said >= QUIET

    def at(self, stage: str, done: int, total: int, seen: Sequence[str]) -> None:
        self.said = time.monotonic()
        words = SEPARATOR.join([f"{stage} {done}/{total}", *seen])
        self.console.print(words, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def _shown(console: Console) -> Iterator[_Bar | _Lines]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(BAR, complete_style="cyan", finished_style="green"),
        TextColumn("[dim]{task.fields[seen]}[/dim]", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress)


def fit_summary(result: Mapping[str, Any]) -> Table:
    """What a fit came to."""
    metric, best, test = result["metric"]["name"], result["best"], result["test"]
    table = _plain("", metric, "loss", "")
    table.add_row(
        "validation", _number(best["valid_metric"]), _number(best["valid_loss"]), f"best, at step {best['t']:,}"
    )
    if test is not None:
        table.add_row("test", _number(test["metric"]), _number(test["loss"]), "looked at once, at the end")
    return table


def standings(study: Study) -> Table:
    """The ranking of a comparison, best first."""
    name = study.metric.name
    metric = name if len(name) <= METRIC else "validation"  # the sentence below says which metric it is
    table = _plain("", "algorithm", metric, "95 % interval", "lr", "to target", "")
    for column in table.columns:
        column.no_wrap = True
    verdict = study.verdict
    for place, standing in enumerate(verdict.standings, 1):
        said = "recommended" if standing.algorithm == verdict.recommended else "tied" if standing.tied else ""
        if standing.diverged:
            said = f"{standing.diverged} of {standing.diverged + len(standing.values)} diverged"
        knob, value = standing.recipe.leading
        arrived = standing.steps_to_target
        if arrived is None:
            steps = "never"
        elif verdict.timed:
            steps = f"{standing.cpu_seconds * arrived / standing.recipe.steps:,.2g} s"
        else:
            steps = f"{arrived:,.0f} steps"
        table.add_row(
            str(place),
            standing.algorithm,
            f"{standing.mean:.4g}",
            f"{standing.low:.4g} to {standing.high:.4g}",
            f"{value:.3g}" if knob == "lr" else f"{knob} {value:.3g}",
            steps,
            said,
            style="bold" if said == "recommended" else None,
        )
    return table


def catalogue(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The algorithms: name, section, knobs with their defaults, and what each is in a sentence."""
    table = _plain("algorithm", "section", "what it is, and its knobs")
    for row in rows:
        knobs = "  ".join(f"{name}={value:g}" for name, value in row["knobs"].items())
        said = f"{escape(row['summary'])}\n[dim]{escape(knobs)}[/dim]"
        table.add_row(f"[bold]{row['name']}[/bold]", row["section"], said)
    return table


def _plain(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(escape(heading), overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4g}"


def introduce(console: Console, problem: Problem) -> None:
    """Says what was loaded: its parts, and what was inferred."""
    parts = (("train", problem.train), ("valid", problem.valid), ("test", problem.test))
    sizes = ", ".join(f"{len(data):,} {part}" for part, data in parts if data is not None)
    console.print(f"{problem.name}: {sizes}", markup=False, highlight=False, soft_wrap=True)
    for note in problem.about.get("notes", []):
        console.print(f"  {note}", style="dim", markup=False, highlight=False, soft_wrap=True)


def print_folder(console: Console, folder: Path, files: Sequence[tuple[str, str]]) -> None:
    """Says what lies in a folder now, and what to type next."""
    console.print()
    lines = [(what, str(folder / name)) for what, name in files]
    for what, said in [*lines, ("next", f"thalweg predict {shlex.quote(str(folder))} new.csv")]:
        console.print(f"{what:8}{said}", markup=False, highlight=False, soft_wrap=True)
