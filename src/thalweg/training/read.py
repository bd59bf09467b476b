"""Tables from files: what is read is a table, or it is refused with a line that says what to do."""

from __future__ import annotations

import csv
from collections import Counter
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from thalweg.core.errors import ProblemError

SEPARATORS = {".csv": ",;\t|", ".tsv": "\t"}
PARQUET = (".parquet", ".pq")
SUFFIXES = (*SEPARATORS, *PARQUET)


def read_table(path: str | Path) -> pl.DataFrame:
    """The table in a CSV (.csv, .tsv) or Parquet (.parquet, .pq) file.

    The columns of a CSV come as text, their names without outer blanks; its separator is the one its header holds
    most of: comma, semicolon, tab or bar. Raises ProblemError for a file that is missing, empty, cut off, not UTF-8,
    ragged, or no table, and for two columns of one name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "t.csv").write_text("size,colour\\n1.5,red\\n2,blue\\n")
    ...     read_table(Path(folder, "t.csv")).shape
    (2, 2)
    """
    path = Path(path)
    kind = path.suffix.lower()
    if path.is_dir():
        raise ProblemError(f"{path} is a folder: give a table in a CSV or Parquet file")
    if not path.is_file():
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1)
        raise ProblemError(f"there is no file {path}" + (f": did you mean {path.with_name(near[0])}?" if near else ""))
    if kind not in SUFFIXES:
        raise ProblemError(f"{path} ends in '{kind}': give a table as {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise ProblemError(f"{path} is empty: give a table with a header and rows")
    frame = _parquet(path) if kind in PARQUET else _csv(path, SEPARATORS[kind])
    if frame.is_empty():
        raise ProblemError(f"{path} has no rows: a header alone is nothing to learn from")
    return frame


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ProblemError(f"{path} cannot be read as Parquet, it may be cut off: write it anew ({reason})") from error


def _csv(path: Path, separators: str) -> pl.DataFrame:
    with path.open("rb") as file:
        if b"\0" in file.read(65536):
            raise ProblemError(f"{path} is no table: it holds binary data; give a CSV file of UTF-8 text")
    separator = _inspected(path, separators)
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ProblemError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error
    if frame.width > 1:  # blank lines come as rows of nothing
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    return frame.rename(str.strip)


def _inspected(path: Path, separators: str) -> str:
    """The separator of a CSV whose every row has as many fields as its header; polars fills short rows silently."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(separators, key=header.count)
            file.seek(0)
            rows = csv.reader(file, delimiter=separator, strict=True)
            names = [name.strip() for name in next(row for row in rows if row)]
            for row in rows:
                if row and len(row) != len(names):
                    raise ProblemError(
                        f"{path} is ragged: line {rows.line_num} has {len(row)} fields, the header has {len(names)}; "
                        "correct that line, or save the table anew if the file was cut off"
                    )
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path} is not UTF-8 text (byte {error.start}): save it with the encoding UTF-8") from error
    except (csv.Error, StopIteration) as error:
        raise ProblemError(f"{path} is no CSV table, or was cut off: {error or 'it has no header'}") from error
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ProblemError(f"{path} has two columns called '{twice[0]}': give each column its own name")
    return separator
