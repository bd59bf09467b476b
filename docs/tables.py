"""Writes the generated tables of these pages anew, from the code: python docs/tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; a test fails where one is not what the code says.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer

import thalweg as tw
from thalweg import cli
from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.arguments import METHODS
from thalweg.comparison import plan, race, search, study, verdict
from thalweg.comparison.spaces import SPACES, Dimension
from thalweg.core.status import Status
from thalweg.strategies.schedules import SCHEDULES
from thalweg.training.builtin import BUILTIN

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACE = re.compile(r"(?<=<!-- table: )(?P<name>[\w -]+)( -->\n)(?P<rows>.*?)(?=<!-- end -->)", re.DOTALL)
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
COMBINATORS = (
    tw.clipped, tw.clipped_by_value, tw.clipped_adaptively, tw.guarded, tw.centralised, tw.maximised,
    tw.penalised, tw.decayed, tw.cautious, tw.sharpness_aware, tw.lookahead, tw.accumulated,
    tw.averaged, tw.averaged_exponentially, tw.averaged_late, tw.compensated, tw.stochastically_rounded,
)  # fmt: skip
RESULTS = (
    "step", "optim_step", "trials", "quality", "mgh", "autoencoder", "pretraining", "diagnosis", "learning_rate",
    "monitor",
)  # fmt: skip
TIMES = (0, 10, 250, 500, 750, 999)  # steps at which schedules are shown


def table(*rows: Sequence[str]) -> str:
    """Markdown, the first row its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def ticked(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def algorithms() -> str:
    rows = [
        (f"`{a.name}`", a.section, ticked(a.rule.sees), ticked(a.rule.remembers), defaults(a.rule.knobs))
        for a in ALGORITHMS.values()
        if a.name not in SECOND_ORDER
    ]
    return table(("algorithm", "section", "sees", "remembers", "knobs and defaults"), *rows)


def second_order() -> str:
    named = {catalogued: scipys for scipys, catalogued in METHODS.items()}
    rows = []
    for name in SECOND_ORDER:
        algorithm = ALGORITHMS[name]
        method = named.get(name, name.replace("_", "-"))
        knobs = defaults(algorithm.rule.knobs)
        rows.append((f"`{name}`", f'`"{method}"`', algorithm.section, algorithm.summary, knobs))
    return table(("algorithm", "method", "section", "what it is", "knobs and defaults"), *rows)


def statuses() -> str:
    rows = [(str(int(status)), f"`{status.name}`", status.message) for status in Status if status != Status.GOING_ON]
    return table(("status", "name", "message"), *rows)


def defaults(knobs: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}={value:g}`" for name, value in knobs.items()) or "none"


def combinators() -> str:
    bare = tw.rule(lambda g, *, lr=1.0: -lr * g)
    rows = []
    for combine in COMBINATORS:
        made = combine(bare)
        own = {name: value for name, value in made.knobs.items() if name != "lr"}
        rows.append((f"`{combine.__name__}`", ticked(made.remembers), defaults(own), combine.__doc__.splitlines()[0]))
    return table(("combinator", "adds to memory", "adds knobs", "what it does"), *rows)


def optimizers() -> str:
    rows = []
    for name in tw.optim.__all__:
        made = getattr(tw.optim, name)
        says = " ".join((made.__doc__ or "").split("\n\n")[0].split())
        rows.append((f"`{name}`", "yes" if hasattr(torch.optim, name) else "", says))
    return table(("class", "in torch.optim", "what it is"), *(row for row in rows if row[0] != "`Optimizer`"))


def schedules() -> str:
    rows = [(f"`{name}`", *(f"{form(1.0, 1000)(t):.3g}" for t in TIMES)) for name, form in SCHEDULES.items()]
    return table(("schedule", *(f"t = {t}" for t in TIMES)), *rows)


def problems() -> str:
    rows = [(f"`{name}`", builtin.line) for name, builtin in BUILTIN.items()]
    return table(("name", "what it is"), *rows)


def spaces() -> str:
    rows = [
        (f"`{name}`", f"`{d.knob}`", box(d), str(d.from_trials or "any"))
        for name, dimensions in SPACES.items()
        for d in dimensions
    ]
    return table(("algorithm", "knob", "searched", "from trials"), *rows)


def box(dimension: Dimension) -> str:
    if dimension.scale == "choice":
        return " or ".join(f"{choice:g}" for choice in dimension.choices)
    per = f" times (1 - {dimension.per})" if dimension.per else ""
    what = {"log": "log", "linear": "linear", "one_minus": f"log, of 1 - {dimension.knob}"}[dimension.scale]
    return f"{dimension.low:g} to {dimension.high:g}{per}, {what}"


def recipe() -> str:
    rows = [
        (f"`{f.name}`", "needed" if f.default is f.default_factory is MISSING else f"`{default(f)}`")
        for f in fields(tw.Recipe)
    ]
    return table(("field", "default"), *rows)


def default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


def options(command: str) -> str:
    rows = []
    for parameter in COMMANDS[command].params:
        argument = parameter.param_type_name == "argument"
        name = parameter.metavar or parameter.name.upper() if argument else parameter.opts[0]
        shown = name if argument or not parameter.metavar else f"{name} {parameter.metavar}"
        rows.append((f"`{shown}`", parameter.help, "needed" if argument else start(parameter)))
    return table(("what you type", "what it does", "default"), *rows)


def start(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    return "none" if option.default is None or option.default is False else f"`{option.default}`"


def house() -> str:
    floors = runpy.run_path(str(ROOT / "tests" / "test_floors.py"))["FLOORS"]
    source = Path(tw.__file__).parent
    rows = []
    for number, names in enumerate(floors):
        for file in sorted(source.rglob("*.py")):
            module = file.relative_to(source)
            said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
            if module.parts[0].removesuffix(".py") in names and said:
                rows.append((str(number), f"`{module}`", " ".join(said.split("\n\n")[0].split())))
    return table(("floor", "file", "what it is"), *rows)


def numbers() -> str:
    """The figures of a comparison, as the code has them."""
    return table(
        ("what", "figure"),
        ("trials of an algorithm that a budget of time may buy", ", ".join(map(str, plan.TRIALS))),
        ("part of a budget of time that is planned with", f"{plan.SLACK:.0%}"),
        ("screening: cut after, and ended after, this part of a run", " and ".join(map(part, plan.SCREENING))),
        ("refinement: cut after this part of a run", part(plan.REFINEMENT[0])),
        ("trials of an algorithm that go on after a cut, one at least", f"{plan.KEEP:.0%}"),
        ("trials that were cut and run to their end all the same, one a stage at least", part(race.CONTROLS)),
        ("boxes of refinement, as parts of the space", " and ".join(map(str, search.WIDTHS))),
        ("the edge of a space, as a part of it", str(search.EDGE)),
        ("fresh seeds of confirmation", f"{plan.SEEDS} to {plan.MOST_SEEDS}"),
        ("measurements in a run, about", str(plan.MEASUREMENTS)),
        ("level of the corrected test", str(verdict.LEVEL)),
    )


def part(fraction: float) -> str:
    return f"1/{round(1 / fraction)}"


def schema() -> str:
    return f"```sql\n{study.SCHEMA.strip()}\n```\n"


def results(name: str) -> str:
    """What a benchmark printed when it was run last."""
    file = ROOT / "benchmarks" / "results" / f"{name}.md"
    return f"\n{file.read_text(encoding='utf-8').strip()}\n\n" if file.exists() else "\nNot measured yet.\n\n"


TABLES: dict[str, Callable[[], str]] = {
    "algorithms": algorithms,
    "second order": second_order,
    "statuses": statuses,
    "combinators": combinators,
    "optimizers": optimizers,
    "schedules": schedules,
    "problems": problems,
    "spaces": spaces,
    "recipe": recipe,
    "house": house,
    "numbers": numbers,
    "schema": schema,
    **{f"thalweg {name}": partial(options, name) for name in COMMANDS},
    **{f"results of {name}": partial(results, name) for name in RESULTS},
}


if __name__ == "__main__":
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        page.write_text(PLACE.sub(lambda m: m["name"] + m[2] + TABLES[m["name"]](), old), encoding="utf-8")
