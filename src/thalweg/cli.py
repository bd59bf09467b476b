"""The command line. torch takes seconds to import: what needs it is imported by the command that needs it."""

from __future__ import annotations

import functools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from thalweg.core.errors import AlgorithmError, ThalwegError

if TYPE_CHECKING:
    from thalweg.training.problem import Problem
    from thalweg.training.recipe import Recipe

THREADS_GIVEN = "OMP_NUM_THREADS" in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores, times processes, is ruin: see `_threads`
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads must not spin on the cores of other processes
SMALL = 2_000_000  # parameters: up to here one thread is the fastest

EPILOG = (
    "Exit codes: 0 done; 2 something given does not work, a line on stderr says what and why (a loss that diverged "
    "among it); 130 interrupted, the same command goes on; 1 a fault of Thalweg's own, with its traceback."
)
PROBLEM = "A built-in problem, file.py:name, or a CSV or Parquet file (with --target)."

app = typer.Typer(
    help="Find, prove and train the best optimisation recipe for a PyTorch model.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out_console = Console()
err_console = Console(stderr=True)

ProblemArgument = Annotated[str, typer.Argument(metavar="PROBLEM", help=PROBLEM, show_default=False)]
Target = Annotated[str | None, typer.Option(help="The column of a table to predict.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides initialisation, data order and dropout.")]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, all else on stderr.")]


class AllData(StrEnum):
    """The book's two ways of using the validation data too."""

    retrain = "retrain"
    continue_ = "continue"


def answering(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose user's mistakes are one line and exit code 2, and whose interruption is 130."""

    @functools.wraps(command)
    def answered(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except ThalwegError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            print(str(error) or "stopped: the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from error

    return answered


@app.command()
@answering
def compare(
    problem: ProblemArgument,
    target: Target = None,
    budget: Annotated[str | None, typer.Option(help="Wall time, such as 90s, 5m or 1h30m.", show_default="2m")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials per algorithm, instead of a budget of time.")] = None,
    algorithms: Annotated[
        str | None, typer.Option(help="Which to race, such as sgd,adam,lion.", show_default="ten of them")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data in a whole run.", show_default="the problem's")
    ] = None,
    seed: Seed = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.", show_default="runs/NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Race the algorithms on a problem; recommend, train and explain the best recipe.

    Writes report.html, recipe.toml, model.safetensors and study.db. Stopped at any moment, the same command goes on.
    """
    from thalweg.contest import compare as run
    from thalweg.report.terminal import compare_progress, introduce, print_folder, standings
    from thalweg.training.load import load

    names = None if algorithms is None else [name.strip() for name in algorithms.split(",") if name.strip()]
    loaded = load(problem, target)
    if epochs is not None:
        loaded = replace(loaded, epochs=epochs)
    introduce(err_console, loaded)
    with compare_progress(err_console) as progress:
        study = run(
            loaded, budget=budget, trials=trials, algorithms=names, seed=seed, workers=workers, out=out,
            progress=progress, command=shlex.join(["thalweg", *sys.argv[1:]]),
        )  # fmt: skip
    verdict = study.verdict
    if as_json:
        _print_json(
            {
                "folder": str(study.folder),
                "report": str(study.folder / "report.html"),
                "winner": verdict.winner,
                "recommended": verdict.recommended,
                "tied": verdict.tied,
                "sentence": verdict.sentence,
                "recipe": study.recipe.__dict__,
                "standings": [
                    standing.__dict__ | {"recipe": standing.recipe.__dict__} for standing in verdict.standings
                ],
                "final": study.facts.get("final"),
                "remarks": study.facts.get("remarks"),
            }
        )
        return
    out_console.print()
    out_console.print(standings(study))
    out_console.print(f"\n{verdict.sentence}", markup=False, highlight=False)
    if (tested := (study.facts.get("final") or {}).get("test_metric")) is not None:
        name = study.metric.name
        out_console.print(f"On the test part, looked at once: {name} {tested:.4g}.", markup=False, highlight=False)
    for remark in study.facts.get("remarks", []):
        out_console.print(f"- {remark['text']}", style="dim", markup=False, highlight=False)
    print_folder(
        out_console,
        study.folder,
        [("report", "report.html"), ("recipe", "recipe.toml"), ("model", "model.safetensors")],
    )


@app.command()
@answering
def fit(
    problem: ProblemArgument,
    recipe: Annotated[Path | None, typer.Option(help="A recipe.toml, as compare writes it.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="An algorithm, instead of a recipe file.")] = None,
    knobs: Annotated[
        list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="A knob, such as lr=0.003.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.", show_default="the problem's")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Examples a step.", show_default="the problem's")
    ] = None,
    target: Target = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write, and to go on from.", show_default="none")
    ] = None,
    seed: Seed = 0,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many measurements without a better one.")
    ] = None,
    min_delta: Annotated[float, typer.Option(min=0, help="How much better is better, in the metric's units.")] = 0.0,
    use_all_data: Annotated[AllData | None, typer.Option(help="Then train on the validation data too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train one recipe on a problem; killed at any moment, the same command goes on and ends with the same bits.

    For example: thalweg fit digits --algorithm adam --set lr=0.003 --epochs 20 --out runs/a
    """
    from thalweg.report.terminal import fit_progress, fit_summary, introduce, print_folder
    from thalweg.training.fit import fit as run
    from thalweg.training.fitted import result
    from thalweg.training.load import load

    loaded = load(problem, target)
    chosen = _recipe(loaded, recipe, algorithm, knobs or [], epochs, batch_size)
    introduce(err_console, loaded)
    _threads(loaded)
    with fit_progress(err_console, loaded.metric.name) as progress:
        fitted = run(
            loaded, chosen, out, seed=seed, patience=patience, min_delta=min_delta,
            use_all_data=None if use_all_data is None else use_all_data.value, progress=progress,
        )  # fmt: skip
    found = result(loaded, fitted)
    if as_json:
        _print_json(found | {"folder": None if out is None else str(out)})
        return
    out_console.print()
    out_console.print(fit_summary(found))
    for note in fitted.notes:
        out_console.print(note, style="dim", markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        print_folder(out_console, out, [("model", "model.safetensors"), ("curve", "result.json")])


@app.command()
@answering
def predict(
    folder: Annotated[Path, typer.Argument(help="A folder that fit or compare wrote.", show_default=False)],
    examples: Annotated[
        Path, typer.Argument(help="A table like the training table; else .npy, or .csv of numbers.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write the predictions.", show_default="stdout")] = None,
) -> None:
    """What a trained model says of new examples, as CSV (as .npy where --out ends so)."""
    from thalweg.training.predict import predict_file, write_predictions

    predictions = predict_file(folder, examples)
    said = write_predictions(predictions, out)
    if said:
        print(said, file=sys.stderr)


@app.command()
@answering
def diagnose(
    problem: ProblemArgument,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe.toml, as compare writes it.", show_default="Adam at its defaults")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the run that is watched.", show_default="the recipe's, to 1,000")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A folder of fit or compare to go on from.", show_default="a new model")
    ] = None,
    attempt: Annotated[
        bool, typer.Option("--try", help="Try the advice, with and without, and say what it did.")
    ] = False,
    hardware: Annotated[
        bool, typer.Option("--hardware", help="Time batches, and recommend a size by memory, time and noise.")
    ] = False,
    target: Target = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.", show_default="none")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a training run, how that was measured, and what to do.

    It looks before the first step, along a short run, and after its last step. Findings are no failure: the exit code
    is 0 with or without.
    """
    from thalweg.diagnose.diagnose import diagnose as run
    from thalweg.diagnose.diagnosis import save
    from thalweg.report.diagnosis_page import write_diagnosis
    from thalweg.report.findings import print_diagnosis
    from thalweg.report.terminal import diagnose_progress, introduce
    from thalweg.training.load import load
    from thalweg.training.recipe import Recipe

    loaded = load(problem, target)
    chosen = None if recipe is None else Recipe.load(recipe)
    introduce(err_console, loaded)
    _threads(loaded)
    with diagnose_progress(err_console) as progress:
        found = run(
            loaded, chosen, steps=steps, seed=seed, checkpoint=checkpoint, attempt=attempt, hardware=hardware,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        save(found, out)
        write_diagnosis(found, out / "diagnosis.html")
    if as_json:
        _print_json(found.json() | {"folder": None if out is None else str(out)})
        return
    out_console.print()
    print_diagnosis(out_console, found)
    if out is not None:
        page = str(out / "diagnosis.html")
        out_console.print(f"\npage        {page}", markup=False, highlight=False, soft_wrap=True)


@app.command()
@answering
def algorithms(as_json: AsJson = False) -> None:
    """What there is: each algorithm with its section of the book, and its knobs."""
    from thalweg.algorithms import ALGORITHMS
    from thalweg.report.terminal import catalogue

    rows = [
        {
            "name": name,
            "section": entry.section,
            "knobs": entry.rule.knobs,
            "summary": entry.summary,
        }
        for name, entry in ALGORITHMS.items()
    ]
    if as_json:
        _print_json(rows)
    else:
        out_console.print(catalogue(rows))


def main() -> None:
    """The command `thalweg`."""
    app()


def _recipe(
    problem: Problem,
    path: Path | None,
    algorithm: str | None,
    knobs: list[str],
    epochs: int | None,
    batch_size: int | None,
) -> Recipe:
    """The recipe of a file, or of the options that stand for one."""
    from thalweg.training.recipe import Recipe

    if (path is None) == (algorithm is None):
        raise AlgorithmError(
            "give one of --recipe recipe.toml and --algorithm NAME (thalweg algorithms lists the names)"
        )
    if path is not None:
        if knobs or epochs or batch_size:
            raise AlgorithmError("--set, --epochs and --batch-size go with --algorithm: with --recipe, edit the file")
        return Recipe.load(path)
    size = batch_size or problem.batch_size
    steps = (epochs or problem.epochs) * -(-len(problem.train) // size)
    return Recipe(str(algorithm), steps=steps, batch_size=size, knobs=dict(map(_knob, knobs)))


def _knob(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise AlgorithmError(f"--set {text} was given: write a knob and a number, such as --set lr=0.003") from error


def _threads(problem: Problem) -> None:
    """One thread for a small model; all cores for a large one, unless OMP_NUM_THREADS says otherwise."""
    import torch

    if not THREADS_GIVEN and problem.network(seed=0).theta.numel() > SMALL:
        torch.set_num_threads(os.cpu_count() or 1)


def _print_json(value: Any) -> None:
    print(json.dumps(_strict(value), indent=2, allow_nan=False))


def _strict(value: Any) -> Any:
    """The value as strict JSON has it: numbers that are none are null."""
    if isinstance(value, dict):
        return {name: _strict(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
