"""The command line: what is said to the user, where, and with which exit code."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

import thalweg as tw
from thalweg import cli

run = typer.testing.CliRunner().invoke
QUICK = ["--algorithm", "adam", "--set", "lr=0.01", "--epochs", "2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


def refused(*arguments: str) -> str:
    """What a command says that ends with exit code 2 and writes nothing."""
    before = sorted(Path().rglob("*"))
    done = run(cli.app, list(arguments))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert sorted(Path().rglob("*")) == before
    return done.stderr


def test_help_and_import_need_no_torch():
    check = "import sys, thalweg.cli as c; c.app(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=False).returncode == 0


def test_every_public_name_is_there_and_typed():
    assert tw.__all__ == sorted(tw.__all__) == dir(tw) == sorted(tw._PLACES)
    for name in tw.__all__:
        assert getattr(tw, name) is not None
    checked = next(node for node in ast.walk(ast.parse(Path(tw.__file__).read_text())) if isinstance(node, ast.If))
    assert sorted(alias.name for node in checked.body for alias in node.names) == tw.__all__
    with pytest.raises(AttributeError, match="no attribute 'adamm'"):
        tw.adamm


def test_descend_stays_the_function_though_its_module_shares_the_name():
    check = "import thalweg.descend, thalweg as tw; print(callable(tw.descend))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_every_command_and_every_option_is_explained():
    commands = typer.main.get_command(cli.app).commands
    assert sorted(commands) == ["algorithms", "compare", "diagnose", "fit", "predict"]
    for command in commands.values():
        assert command.help
        assert all(parameter.help for parameter in command.params)
    assert "Exit codes: 0" in run(cli.app, ["--help"]).stdout


def test_algorithms_lists_every_algorithm_with_section_and_knobs():
    said = run(cli.app, ["algorithms"]).stdout
    listed = {row["name"]: row for row in json.loads(run(cli.app, ["algorithms", "--json"]).stdout)}
    assert "rmsprop_nesterov" in said and "8.5.2" in said and "momentum=0.9" in said
    assert listed["adam"]["knobs"] == tw.adam.knobs and listed["adam"]["section"] == "8.5.3"


def test_fit_says_what_it_found_and_goes_on_by_itself():
    first = run(cli.app, ["fit", "digits", *QUICK, "--out", "runs/a"])
    assert first.exit_code == 0, first.output
    assert "validation" in first.stdout and "test" in first.stdout and "thalweg predict runs/a" in first.stdout
    assert first.stderr.startswith("digits: 1,078 train")
    again = run(cli.app, ["fit", "digits", *QUICK, "--out", "runs/a"])
    assert "this was finished before" in again.stdout


def test_json_alone_is_on_stdout():
    done = run(cli.app, ["fit", "digits", *QUICK, "--json"])
    found = json.loads(done.stdout)
    assert found["recipe"]["knobs"] == {"lr": 0.01} and found["recipe"]["steps"] == 2 * 34
    assert set(found["test"]) == {"loss", "metric"} and "training" in done.stderr


def test_fit_takes_a_recipe_file_as_well():
    tw.Recipe("lion", steps=30).save(Path("recipe.toml"))
    done = run(
        cli.app, ["fit", "digits", "--recipe", "recipe.toml", "--json", "--use-all-data", "retrain", "--patience", "3"]
    )
    assert json.loads(done.stdout)["recipe"]["algorithm"] == "lion"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "digits"], "error: give one of --recipe recipe.toml and --algorithm NAME"),
        (["fit", "digitz", *QUICK], "error: no problem is called 'digitz': did you mean digits?"),
        (["fit", "digits", "--algorithm", "adamm"], "error: no algorithm is called 'adamm' (did you mean adam?)"),
        (["fit", "digits", "--algorithm", "adam", "--set", "beta=1"], "error: adam has no knob 'beta'"),
        (
            ["fit", "digits", "--algorithm", "adam", "--set", "lr"],
            "error: --set lr was given: write a knob and a number",
        ),
        (["fit", "digits", "--recipe", "none.toml"], "error: there is no recipe at none.toml"),
        (
            ["fit", "digits", "--recipe", "r", "--epochs", "3"],
            "error: --set, --epochs and --batch-size go with --algorithm",
        ),
        (["fit", "digits", "--algorithm", "sgd", "--set", "lr=1e9"], "error: the loss is "),
        (["fit", "table.csv", *QUICK], "error: there is no file table.csv"),
        (["predict", "nothing", "new.csv"], "error: nothing is no folder: train one with thalweg fit"),
        (["compare", "digits", "--budget", "soon"], "error: 'soon' is no duration: write 90s, 5m, 1h30m or 2h"),
        (["compare", "digits", "--budget", "1m", "--trials", "4"], "error: both a budget"),
        (["compare", "digits", "--algorithms", "adam,sdg", "--trials", "2"], "error: no algorithm is called 'sdg'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_do(arguments, said):
    line = refused(*arguments).splitlines()[-1]
    assert line.startswith(said)


@pytest.mark.parametrize(
    "arguments",
    [["fit"], ["fit", "digits", "--use-all-data", "both"], ["compare", "digits", "--seed", "x"], ["paint"]],
    ids=" ".join,
)
def test_a_command_that_is_written_wrong_ends_with_2_too(arguments):
    assert "Usage" in refused(*arguments)
