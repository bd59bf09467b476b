"""What the user types becomes a problem, or a line that says what to do."""

import sys

import polars as pl
import pytest

from thalweg.core.errors import ProblemError
from thalweg.training.load import load
from thalweg.training.read import read_table

GOOD = """
from functools import partial
import torch
from torch import nn
import thalweg.training.problem as tw
x, y = torch.ones(6, 4), torch.arange(6) % 3
problem = tw.Problem(partial(nn.Linear, 4, 3), (x, y), (x, y))
def make():
    return problem
def number():
    return 3
def late():
    import neighbour
    return neighbour.problem(problem)
def picky(x):
    return problem
def narrow():
    return tw.Problem(partial(nn.Linear, 4, 2), (x, y), (x, y))
class Broken(nn.Linear):
    def forward(self, x):
        return {}[self.in_features]
def broken():
    return tw.Problem(partial(Broken, 4, 3), (x, y), (x, y))
def unbuildable():
    return tw.Problem(lambda: 1 / 0, (x, y), (x, y))
"""

BAD = """import statistics

def inner():
    return statistics.mean([])

def problem():
    return inner()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pl.DataFrame({"size": [float(i * 7 % 40) for i in range(40)], "kind": ["a", "b"] * 20})
    frame.write_csv("houses.csv")
    frame.write_parquet("houses.parquet")
    (tmp_path / "mine.py").write_text(GOOD)
    (tmp_path / "neighbour.py").write_text("def problem(given):\n    return given\n")
    (tmp_path / "folder.csv").mkdir()
    yield tmp_path
    for name in ("neighbour", "thalweg_problem_mine"):
        sys.modules.pop(name, None)


def refused(spec: str, target: str | None = None) -> str:
    with pytest.raises(ProblemError) as caught:
        load(spec, target)
    return str(caught.value)


@pytest.mark.parametrize("spec", ["mine.py:problem", "mine.py:make", "mine.py:late", "./mine.py:problem"])
def test_a_problem_comes_from_a_python_file(folder, spec):
    path = list(sys.path)
    problem = load(spec)
    assert problem.source == spec and len(problem.train) == 6
    assert sys.path == path


@pytest.mark.parametrize("file", ["houses.csv", "houses.parquet"])
def test_a_problem_comes_from_a_table(folder, file):
    problem = load(file, target="kind", seed=4)
    assert problem.source == f"{file} --target kind"
    assert problem.name == "houses" and problem.about["split"]["seed"] == 4


def test_a_source_can_be_pasted_into_a_shell(folder):
    pl.read_csv("houses.csv").rename({"kind": "the kind"}).write_csv("my houses.csv")
    assert load("my houses.csv", "the kind").source == "'my houses.csv' --target 'the kind'"


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_is_found_in_the_header(folder, separator):
    pl.read_csv("houses.csv").write_csv("other.csv", separator=separator, include_bom=True)
    assert load("other.csv", "kind").fingerprint() == load("houses.csv", "kind").fingerprint()


def test_blanks_around_names_and_values_are_no_part_of_them(folder):
    text = (folder / "houses.csv").read_text()
    (folder / "other.csv").write_text(text.replace(",", " , "))
    assert load("other.csv", "kind").fingerprint() == load("houses.csv", "kind").fingerprint()


def test_blank_lines_and_windows_line_ends_change_nothing(folder):
    text = (folder / "houses.csv").read_text()
    (folder / "other.csv").write_bytes(text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert load("other.csv", "kind").fingerprint() == load("houses.csv", "kind").fingerprint()
    assert read_table("other.csv").height == 40


@pytest.mark.parametrize(
    ("spec", "target", "message"),
    [
        (
            "digit",
            None,
            "no problem is called 'digit': did you mean digits? There are digits, breast_cancer, ",
        ),
        ("qqq", None, "no problem is called 'qqq': There are digits"),
        ("digits", "y", "digits has its own targets: --target is for"),
        ("mine.py:problem", "y", "mine.py:problem has its own targets"),
        ("houses.csv", None, "houses.csv needs --target, the column to predict: its columns are 'size', 'kind'"),
        ("houses.csv", "knid", "the table has no column 'knid': did you mean 'kind'? its columns are 'size', 'kind'"),
        ("house.csv", "kind", "there is no file house.csv: did you mean houses.csv?"),
        ("folder.csv", "kind", "folder.csv is a folder: give a table"),
        ("./mine.txt", "kind", "there is no file mine.txt: did you mean mine.py?"),
        ("mine.py", None, "mine.py holds several things: say which, as mine.py:name ('problem', 'make',"),
        ("mine.py:problm", None, "mine.py has no 'problm': did you mean problem? It defines 'problem', 'make'"),
        ("mime.py:problem", None, "there is no file mime.py: did you mean mine.py?"),
        ("mine.py:number", None, "mine.py:number returned a int: it must be a thalweg.Problem"),
        ("mine.py:x", None, "mine.py:x is a Tensor: it must be a thalweg.Problem"),
        ("mine.py:picky", None, "mine.py:picky raised TypeError: picky() missing 1 required positional argument: 'x'"),
        ("mine.py:narrow", None, "the train targets hold class 2, the model gives outputs (4, 2)"),
        ("mine.py:broken", None, "the model does not take the inputs ((4, 4) float32): 4"),
        ("mine.py:unbuildable", None, "the model or data of mine.py:unbuildable raised ZeroDivisionError: division by"),
    ],
)
def test_what_names_no_problem_is_answered_with_what_does(folder, spec, target, message):
    assert message in refused(spec, target)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "t.csv is empty: give a table with a header and rows"),
        ("t.parquet", b"", "t.parquet is empty"),
        ("t.csv", b"a,b\n", "t.csv has no rows"),
        ("t.csv", b"\n\n", "t.csv is no CSV table"),
        ("t.csv", b"a,b\n1,2\n3,4\n5", "t.csv is ragged: line 4 has 1 fields, the header has 2"),
        ("t.csv", b"a,b\n1,2,3\n3,4\n", "t.csv is ragged: line 2 has 3 fields, the header has 2"),
        ("t.csv", b'a,b\n1,"x\n3,4\n', "t.csv is no CSV table, or was cut off: unexpected end of data"),
        ("t.csv", b"a,b,a\n1,2,3\n", "t.csv has two columns called 'a'"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "t.csv is no table: it holds binary data"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "t.csv is no table: it holds binary data; give a CSV file of UTF-8"),
        ("t.csv", "a,b\né,2\n".encode("latin-1"), "t.csv is not UTF-8 text (byte 4): save it with the encoding UTF-8"),
        ("t.csv", b"\xff\xd8\xff\xe0JFIF", "t.csv is not UTF-8 text"),
        ("t.parquet", b"a,b\n1,2\n3,4\n5,6\n", "t.parquet cannot be read as Parquet"),
        ("t.xlsx", b"PK", "t.xlsx ends in '.xlsx': give a table as .csv, .tsv, .parquet, .pq"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_a_line(folder, name, content, message):
    (folder / name).write_bytes(content)
    said = refused(f"./{name}", "b")
    assert message in said and "\n" not in said


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_parquet_that_was_cut_off_is_refused(folder, kept):
    whole = (folder / "houses.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: int(kept * len(whole))])
    assert "cut.parquet cannot be read as Parquet, it may be cut off: write it anew" in refused("cut.parquet", "kind")


def test_an_exception_in_the_file_is_told_by_its_own_lines(folder):
    (folder / "bad.py").write_text(BAD)
    assert refused("bad.py:problem").splitlines() == [
        "bad.py:problem raised StatisticsError: mean requires at least one data point",
        "  bad.py:7 in problem: return inner()",
        "  bad.py:4 in inner: return statistics.mean([])",
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", "importing bad.py raised SyntaxError: '(' was never closed (bad.py, line 1)\n  bad.py:1: x = ("),
        (
            "import nowhere",
            "ModuleNotFoundError: No module named 'nowhere'\n  bad.py:1 in <module>: import nowhere",
        ),
        ("raise SystemExit(3)", "importing bad.py raised SystemExit: 3\n  bad.py:1 in <module>: raise SystemExit(3)"),
        ("assert False", "importing bad.py raised AssertionError: without a message\n"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_by_its_own_lines(folder, source, message):
    (folder / "bad.py").write_text(source)
    assert message in refused("bad.py:problem")
