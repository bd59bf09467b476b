"""Every page's examples run, every table is true, and nothing public is left unsaid.

Tables between `<!-- table: NAME -->` and `<!-- end -->` are generated: `python tests/test_docs.py` writes them anew.
"""

import ast
import contextlib
import doctest
import io
import os
import re
import runpy
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import typer

import thalweg as tw
from thalweg import cli
from thalweg.algorithms import ALGORITHMS
from thalweg.comparison import plan, race, remarks, search, study, verdict
from thalweg.comparison.spaces import SPACES
from thalweg.strategies.schedules import SCHEDULES
from thalweg.training.builtin import BUILTIN

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
COMMANDS = typer.main.get_command(cli.app).commands

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?<=<!-- table: )(?P<name>[\w -]+)( -->\n)(?P<rows>.*?)(?=<!-- end -->)", re.DOTALL)
NUMBER = re.compile(r"[+-]?\d+(,\d{3})*(\.\d+)?(e[+-]?\d+)?")
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MAKE = {"make compare", "make test"}  # run in a fresh clone by a test of their own

ids = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# What the pages show runs


@ids
def test_every_example_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    names = {}
    for kind, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            python(text, names, page.name)
        elif kind == "console":
            for command, shown in commands(text):
                console(command, shown, tmp_path)


def python(text, names, page):
    if ">>>" not in text:
        exec(compile(text, page, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(text, names, page, page, 0)
    test.globs = names  # the page's own, so that later blocks see what this one defines
    said = []
    failed, _ = doctest.DocTestRunner(optionflags=LOOSELY).run(test, out=said.append, clear_globs=False)
    assert not failed, "".join(said)


def commands(text):
    """Each command of a console block, and what is shown under it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def console(command, shown, folder):
    """Runs a command as a shell would and compares what it says, numbers aside: they differ from machine to machine."""
    if command in MAKE:
        return
    assert command.split()[0] in ("thalweg", "python", "cat"), f"a page shows '{command}'"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    wanted, said = (NUMBER.sub("#", text) for text in (shown.strip(), done.stdout.strip()))
    fits = not wanted or doctest.OutputChecker().check_output(wanted + "\n", said + "\n", LOOSELY)
    assert fits, f"$ {command}\n--- shown\n{shown}--- said\n{done.stdout}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_file_runs_and_is_short(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(example), run_name="__main__")
    assert said.getvalue()


# Nothing is left unsaid


def test_every_page_is_linked_and_every_link_leads_somewhere():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http"):
                target = (page.parent / link).resolve()
                assert target.exists(), f"{page.name} links to {link}, which is not there"
                if target.suffix == ".md" and target not in reached:
                    waiting.append(target)
    assert set(PAGES) <= reached


def test_every_example_file_is_linked():
    assert all(f"examples/{example.name}" in written() for example in EXAMPLES)


def written():
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def code():
    """All that the pages set as code."""
    blocks = [text for _, text in FENCE.findall(written())]
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", FENCE.sub("", written()))])


def test_every_public_name_is_documented():
    words = set(re.findall(r"\w+", code()))
    public = {*tw.__all__, *(name for name in vars(tw.schedules) if callable(getattr(tw.schedules, name)))}
    assert {name for name in public if not name.startswith("_") and name not in IMPORTED} <= words


IMPORTED = {"Callable", "AlgorithmError"}  # by schedules: not its own


def test_every_knob_is_documented():
    made = [*(entry.rule for entry in ALGORITHMS.values()), *(combine(tw.adam) for combine in COMBINATORS)]
    words = set(re.findall(r"\w+", code()))
    assert {knob for rule in made for knob in rule.knobs} <= words


def test_every_environment_variable_and_exit_code_is_documented():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert "OMP_NUM_THREADS" in page and "XDG_CACHE_HOME" in page
    assert all(
        f"| {number} |" in page for number in re.findall(r"\b(\d+) (?=done|something|interrupted|a fault)", cli.EPILOG)
    )


def test_every_kind_of_remark_is_documented():
    kinds = re.findall(r'Remark\(\s*"([\w -]+)"', Path(remarks.__file__).read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    assert kinds and [kind for kind in kinds if f"| `{kind}` |" not in page] == []


# Generated tables


COMBINATORS = (tw.clipped, tw.clipped_by_value, tw.decayed, tw.averaged, tw.averaged_exponentially)


def table(*rows):
    """Markdown, the first row its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def ticked(names):
    return ", ".join(f"`{name}`" for name in names) or "nothing"


def algorithms():
    rows = [
        (f"`{a.name}`", a.section, ticked(a.rule.sees), ticked(a.rule.remembers), defaults(a.rule.knobs))
        for a in ALGORITHMS.values()
    ]
    return table(("algorithm", "section", "sees", "remembers", "knobs and defaults"), *rows)


def defaults(knobs):
    return ", ".join(f"`{name}={value:g}`" for name, value in knobs.items()) or "none"


def combinators():
    bare = tw.rule(lambda g, *, lr=1.0: -lr * g)
    rows = []
    for combine in COMBINATORS:
        made = combine(bare)
        own = {name: value for name, value in made.knobs.items() if name != "lr"}
        rows.append((f"`{combine.__name__}`", ticked(made.remembers), defaults(own), combine.__doc__.splitlines()[0]))
    return table(("combinator", "adds to memory", "adds knobs", "what it does"), *rows)


def schedules():
    rows = [(f"`{name}`", *(f"{form(1.0, 1000)(t):.3g}" for t in TIMES)) for name, form in SCHEDULES.items()]
    return table(("schedule", *(f"t = {t}" for t in TIMES)), *rows)


TIMES = (0, 10, 250, 500, 750, 999)


def problems():
    rows = [(f"`{name}`", builtin.line) for name, builtin in BUILTIN.items()]
    return table(("name", "what it is"), *rows)


def spaces():
    rows = [
        (f"`{name}`", f"`{d.knob}`", box(d), str(d.from_trials or "any"))
        for name, dimensions in SPACES.items()
        for d in dimensions
    ]
    return table(("algorithm", "knob", "searched", "from trials"), *rows)


def box(dimension):
    if dimension.scale == "choice":
        return " or ".join(f"{choice:g}" for choice in dimension.choices)
    per = f" times (1 - {dimension.per})" if dimension.per else ""
    what = {"log": "log", "linear": "linear", "one_minus": f"log, of 1 - {dimension.knob}"}[dimension.scale]
    return f"{dimension.low:g} to {dimension.high:g}{per}, {what}"


def recipe():
    rows = [
        (f"`{f.name}`", "needed" if f.default is f.default_factory is MISSING else f"`{default(f)}`")
        for f in fields(tw.Recipe)
    ]
    return table(("field", "default"), *rows)


def default(field):
    return field.default_factory() if field.default is MISSING else field.default


def options(command):
    rows = []
    for parameter in COMMANDS[command].params:
        argument = parameter.param_type_name == "argument"
        name = parameter.metavar or parameter.name.upper() if argument else parameter.opts[0]
        shown = name if argument or not parameter.metavar else f"{name} {parameter.metavar}"
        rows.append((f"`{shown}`", parameter.help, "needed" if argument else start(parameter)))
    return table(("what you type", "what it does", "default"), *rows)


def start(option):
    if isinstance(option.show_default, str):
        return option.show_default
    return "none" if option.default is None or option.default is False else f"`{option.default}`"


def house():
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


def numbers():
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


def part(fraction):
    return f"1/{round(1 / fraction)}"


def schema():
    return f"```sql\n{study.SCHEMA.strip()}\n```\n"


def results(name):
    """What a benchmark printed when it was last run."""
    file = ROOT / "benchmarks" / "results" / f"{name}.md"
    return f"\n{file.read_text(encoding='utf-8').strip()}\n\n" if file.exists() else "\nNot measured yet.\n\n"


TABLES = {
    "algorithms": algorithms,
    "combinators": combinators,
    "schedules": schedules,
    "problems": problems,
    "spaces": spaces,
    "recipe": recipe,
    "house": house,
    "numbers": numbers,
    "schema": schema,
    **{f"thalweg {name}": (lambda name=name: options(name)) for name in COMMANDS},
    **{f"results of {name}": (lambda name=name: results(name)) for name in ("step", "trials", "quality")},
}


@ids
def test_every_generated_table_is_what_the_code_says(page):
    for found in TABLE.finditer(page.read_text(encoding="utf-8")):
        expected = TABLES[found["name"]]()
        assert found["rows"] == expected, f"'{found['name']}' has changed: run python tests/test_docs.py"


def test_every_table_is_on_a_page():
    assert {found["name"] for found in TABLE.finditer(written())} == set(TABLES)


if __name__ == "__main__":
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        page.write_text(TABLE.sub(lambda m: m["name"] + m[2] + TABLES[m["name"]](), old), encoding="utf-8")
