"""Every page's examples run, every table is true, and nothing public is left unsaid.

`python docs/tables.py` writes the generated tables anew.
"""

import contextlib
import doctest
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg as tw
from thalweg import cli
from thalweg.algorithms import ALGORITHMS
from thalweg.comparison import remarks

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
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
    made = [*(entry.rule for entry in ALGORITHMS.values()), *(combine(tw.adam) for combine in TABLES["COMBINATORS"])]
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


@ids
def test_every_generated_table_is_what_the_code_says(page):
    for found in TABLES["PLACE"].finditer(page.read_text(encoding="utf-8")):
        expected = TABLES["TABLES"][found["name"]]()
        assert found["rows"] == expected, f"'{found['name']}' has changed: run python docs/tables.py"


def test_every_table_is_on_a_page():
    assert {found["name"] for found in TABLES["PLACE"].finditer(written())} == set(TABLES["TABLES"])
