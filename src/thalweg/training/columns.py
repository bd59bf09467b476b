"""What a table's columns are: the target and its task, the columns to learn from, and what cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import polars as pl

from thalweg.core.errors import ProblemError
from thalweg.training.preprocessing import LEVELS, classes, finite, levels, numbers, text

FEWEST = 20  # rows
MOST_CLASSES = 20  # different whole numbers that still are classes
DATE = r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}/\d{1,2}/\d{2})([ T].*)?$"
TIME = r"^\d{1,2}:\d{2}(:\d{2})?$"
NEAR_NUMBER = r"^[$€£]?[+-]?\d+(,\d+)*(\.\d+)?%?$|^[+-]?\d+(\.\d{3})*,\d+$"  # 1,234.5 and $5 and 45% and 1.234,5


class Target(NamedTuple):
    """What is to be predicted: `values: (n,)` of the rows where it is `given: (N,)`; `labels` where it has classes."""

    name: str
    task: str
    values: np.ndarray
    given: pl.Series
    labels: list[int | float | str]
    boolean: bool
    notes: list[str]


class Columns(NamedTuple):
    """The columns to learn from; the boolean ones are among the categorical."""

    numeric: list[str]
    categorical: list[str]
    boolean: list[str]


def target_of(frame: pl.DataFrame, name: str) -> Target:
    """The target column of a table, its task inferred. Raises ProblemError where it cannot be learnt."""
    if name not in frame.columns:
        near = get_close_matches(name, frame.columns, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ProblemError(f"the table has no column '{name}': {hint}its columns are {listed(frame.columns)}")
    refuse_unsupported(frame.select(name))
    numeric = _is_numeric(frame[name])
    values = numbers(frame[name]) if numeric else text(frame[name])
    given = values.is_not_null()
    missing = int((~given).sum())
    if missing == frame.height:
        raise ProblemError(f"the target '{name}' is missing in all {missing} rows: there is nothing to learn")
    notes = [f"{missing} of {frame.height} rows have no target: left out"] if missing else []
    values = values.filter(given)
    if numeric:
        finite(frame[name])
    distinct = values.n_unique()
    if distinct == 1:
        raise ProblemError(f"the target '{name}' is {values[0]} in all {len(values)} rows: there is nothing to learn")
    if len(values) < FEWEST:
        raise ProblemError(f"the table has {len(values)} rows with a target: give at least {FEWEST}")
    whole = numeric and bool((values == values.round()).all())
    few = distinct <= min(MOST_CLASSES, len(values) // 5)
    if numeric and distinct > 2 and not (whole and few):
        notes.append(f"target '{name}' is numeric with {distinct} different values: regression")
        return Target(name, "regression", values.to_numpy(), given, [], False, notes)
    boolean = not numeric and _is_boolean(values)
    what = "numeric" if numeric else "boolean" if boolean else "text"
    notes.append(f"target '{name}' is {what} with {distinct} different values: classification")
    answers = classes(values, numeric, boolean)
    labels = _labels(answers, name, notes)
    return Target(name, "classification", answers.to_numpy(), given, labels, boolean, notes)


def _labels(answers: pl.Series, name: str, notes: list[str]) -> list[int | float | str]:
    counts = Counter(answers.to_list())
    if len(counts) > max(MOST_CLASSES, len(answers) // 5):
        raise ProblemError(
            f"the target '{name}' is text with {len(counts)} different values in {len(answers)} rows: "
            "too many for classes; is another column meant?"
        )
    labels = [int(x) if isinstance(x, float) and x.is_integer() else x for x in sorted(counts)]
    if alone := [str(label) for label in labels if counts[label] == 1]:
        what = f"class {listed(alone)} has" if len(alone) == 1 else f"the classes {listed(alone)} have"
        raise ProblemError(
            f"target '{name}': {what} one example, too few to learn from and to judge by: "
            "drop its row, join it with another class, or give more examples"
        )
    common, count = counts.most_common(1)[0]
    notes.append(f"always answering '{common}' would be right for {count / len(answers):.1%} of the rows")
    return labels


def refuse_unsupported(frame: pl.DataFrame) -> None:
    """Raises ProblemError for columns of dates and times, and of anything but numbers, text and booleans."""
    dates = [c.name for c in frame if c.dtype.is_temporal() or _all_match(c, f"{DATE}|{TIME}")]
    if dates:
        raise ProblemError(
            f"dates and times are not supported (column {listed(dates)}): drop them, or turn them into numbers "
            "such as the year, the month, or days since a start"
        )
    for name, kind in frame.schema.items():
        if not (kind.is_numeric() or kind in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null)):
            raise ProblemError(f"column '{name}' holds {kind}: numbers, text and booleans can be learnt from; drop it")


def row_numbers(frame: pl.DataFrame) -> list[str]:
    """The columns that only count the rows, from 0 or 1, beside others."""
    counting = [pl.Series(range(start, start + frame.height), dtype=pl.Float64) for start in (0, 1)]
    if frame.width < 2:
        return []
    numeric = [c for c in frame if c.dtype.is_numeric() or c.dtype == pl.String]
    return [c.name for c in numeric if any(numbers(c).equals(count) for count in counting)]


def features(frame: pl.DataFrame, train: np.ndarray, numbering: list[str]) -> tuple[Columns, list[str]]:
    """The columns of a table to learn from, and a sentence for each that is left out or grouped.

    A column's kind is that of the whole of it; whether it varies is asked of the rows `train: (n,)` alone.
    Raises ProblemError for infinities, and for numbers with a few slips among them.
    """
    columns, notes = Columns([], [], []), []
    for column in frame:
        name = column.name
        is_number = _is_numeric(column)
        values = (finite(column) if is_number else text(column))[train]
        distinct = values.drop_nulls().n_unique()
        if values.n_unique() == 1:
            notes.append(f"column '{name}' is {'constant' if distinct else 'empty'} in the training part: left out")
        elif name in numbering:
            notes.append(f"column '{name}' only numbers the rows: left out")
        elif is_number:
            columns.numeric.append(name)
        elif distinct > max(LEVELS, len(train) // 2):
            notes.append(f"column '{name}' is text, {distinct} values in {len(train)} rows, like a name: left out")
        else:
            columns.categorical.append(name)
            if _is_boolean(column):
                columns.boolean.append(name)
            if distinct > LEVELS:
                notes.append(f"column '{name}' has {distinct} different values: the rarer ones are taken as one")
    return columns, notes


def listed(names: Iterable[str]) -> str:
    """Names in quotes, at most a dozen.

    >>> listed(["a", "b"])
    "'a', 'b'"
    """
    names = list(names)
    return ", ".join(f"'{n}'" for n in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _all_match(column: pl.Series, pattern: str) -> bool:
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum):
        return False
    words = text(column).drop_nulls()
    return len(words) > 0 and bool(words.str.contains(pattern).all())


def _is_boolean(column: pl.Series) -> bool:
    return column.dtype == pl.Boolean or bool(levels(column, True).drop_nulls().is_in(["true", "false"]).all())


def _is_numeric(column: pl.Series) -> bool:
    """Whether all that is not missing is a number; numbers with a few slips among them are refused, not guessed at."""
    if column.dtype.is_numeric():
        return True
    if column.dtype != pl.String:
        return False
    words = text(column).drop_nulls()
    parsed = words.cast(pl.Float64, strict=False)
    wrong = words.filter(parsed.is_null())
    if wrong.is_empty():
        return len(words) > 0
    near = int((parsed.is_not_null() | words.str.contains(NEAR_NUMBER)).sum())
    if words.n_unique() > MOST_CLASSES and near >= 0.8 * len(words):
        raise ProblemError(
            f"column '{column.name}' holds numbers but for {len(wrong)} of {len(words)} values (such as '{wrong[0]}'): "
            "write them as 1234.5, or leave them empty where they are missing"
        )
    return False
