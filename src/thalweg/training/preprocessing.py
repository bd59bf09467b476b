"""From a table's columns to the numbers a model takes, and from its outputs back to the user's terms.

scikit-learn fits; its fitted numbers are taken out once, into plain values that JSON can hold, and one small
`transform` applies them everywhere: to the training data, to the other parts, and to new tables in `predict`.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import Tensor

from thalweg.core.errors import ProblemError

MISSING = ["", "?", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null"]
LARGEST = 1e100  # what can still be squared and summed
LEVELS = 32  # of a categorical column; the rarer ones share the last


def text(column: pl.Series) -> pl.Series:
    """A column as text, without outer blanks; the words of `MISSING` become null.

    >>> text(pl.Series([" a", "NA", None])).to_list()
    ['a', None, None]
    """
    words = column.cast(pl.String).str.strip_chars()
    return words.set(words.is_in(MISSING).fill_null(False), None)


def numbers(column: pl.Series) -> pl.Series:
    """A column as float64; what is missing, not-a-number or not a number at all becomes null.

    >>> numbers(pl.Series(["1.5", "NA", "-inf"])).to_list()
    [1.5, None, -inf]
    """
    column = column if column.dtype.is_numeric() else text(column)
    return column.cast(pl.Float64, strict=False).fill_nan(None)


def levels(column: pl.Series, boolean: bool = False) -> pl.Series:
    """A column as the text of its categories; True, TRUE and true are one level of a boolean column."""
    return text(column).str.to_lowercase() if boolean else text(column)


def pipeline(numeric: list[int], categorical: list[int], rows: int) -> ColumnTransformer:
    """The scikit-learn preprocessing that is fitted on the training part of so many rows; columns by their places.

    Numbers are imputed by the median with an indicator of where, and standardised; categories become one-hot, with
    those rarer than one row in a hundred (at least 2 rows, at most 10), or beyond the 31 most frequent, as one.
    """
    number = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    category = OneHotEncoder(
        min_frequency=min(10, max(2, rows // 100)),
        max_categories=LEVELS,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
    )
    return ColumnTransformer([("numeric", number, numeric), ("categorical", category, categorical)])


def fit(frame: pl.DataFrame, numeric: list[str], categorical: list[str], boolean: list[str]) -> dict[str, Any]:
    """The fitted numbers of `pipeline` on a training part, as plain values for JSON."""
    columns = [numbers(frame[c]) for c in numeric] + [levels(frame[c], c in boolean) for c in categorical]
    places = list(range(len(columns)))  # not names: polars would rename a column without one
    preparation = pipeline(places[: len(numeric)], places[len(numeric) :], frame.height)
    fitted = preparation.fit(pl.DataFrame(columns))
    state: dict[str, Any] = {"numeric": [], "categorical": []}
    if numeric:
        imputer, scaler = fitted.named_transformers_["numeric"]
        missing = imputer.indicator_.features_.tolist()
        for i, name in enumerate(numeric):
            where = len(numeric) + missing.index(i) if i in missing else None
            state["numeric"].append(
                {
                    "column": name,
                    "fill": float(imputer.statistics_[i]),
                    "mean": float(scaler.mean_[i]),
                    "scale": float(scaler.scale_[i]),
                    "indicator": None if where is None else [float(scaler.mean_[where]), float(scaler.scale_[where])],
                }
            )
    if categorical:
        encoder = fitted.named_transformers_["categorical"]
        for name, known, rare in zip(categorical, encoder.categories_, encoder.infrequent_categories_, strict=True):
            state["categorical"].append(_one_hot(name, known.tolist(), rare, name in boolean))
    return state


def _one_hot(name: str, known: list[str | None], rare: np.ndarray | None, boolean: bool) -> dict[str, Any]:
    """One-hot positions as scikit-learn orders them: the frequent levels, then one for all the rare ones."""
    others = [] if rare is None else rare.tolist()
    frequent = [level for level in known if level not in others]
    return {"column": name, "boolean": boolean, "levels": frequent, "rare": others}


def finite(column: pl.Series) -> pl.Series:
    """A column as `numbers`. Raises ProblemError for infinities, saying how many, and for numbers beyond 1e100.

    >>> finite(pl.Series("x", [1, None])).to_list()
    [1.0, None]
    """
    values = numbers(column)
    if infinite := int(values.is_infinite().sum()):
        many = "1 infinite value" if infinite == 1 else f"{infinite} infinite values"
        raise ProblemError(f"column '{column.name}' holds {many}: leave them empty (missing) or drop their rows")
    if (values.abs() > LARGEST).any():
        raise ProblemError(f"column '{column.name}' holds numbers beyond {LARGEST:.0e}: rescale it or drop it")
    return values


def width(preprocessing: dict[str, Any]) -> int:
    """How many numbers an example becomes."""
    numeric = sum(1 if c["indicator"] is None else 2 for c in preprocessing["numeric"])
    return numeric + sum(len(c["levels"]) + bool(c["rare"]) for c in preprocessing["categorical"])


def transform(preprocessing: dict[str, Any], frame: pl.DataFrame) -> Tensor:
    """The model's inputs `(N, d)`, float32, of a table with the columns of the training table; others are ignored.

    A level that training did not know counts as a rare one, and as none where there were no rare ones.
    Raises ProblemError for columns that are not there, infinities, and text where training had numbers.
    """
    wanted = [c["column"] for c in (*preprocessing["numeric"], *preprocessing["categorical"])]
    if absent := [name for name in wanted if name not in frame.columns]:
        near = get_close_matches(absent[0], frame.columns, n=1)
        hint = f" (is '{near[0]}' meant to be it?)" if near else ""
        raise ProblemError(f"the table has no column '{absent[0]}'{hint}: the model was trained on {', '.join(wanted)}")
    filled, indicators, one_hot = [], [], []
    for c in preprocessing["numeric"]:
        values = finite(_numeric(frame[c["column"]]))
        filled.append((values.fill_null(c["fill"]).to_numpy() - c["mean"]) / c["scale"])
        if c["indicator"] is not None:
            mean, scale = c["indicator"]
            indicators.append((values.is_null().to_numpy() - mean) / scale)
    for c in preprocessing["categorical"]:
        one_hot.append(_positions(c, levels(frame[c["column"]], c["boolean"])))
    with np.errstate(over="ignore"):  # refused below
        columns = [torch.from_numpy(np.asarray(column, np.float32))[:, None] for column in (*filled, *indicators)]
    inputs = torch.cat([*columns, *one_hot], dim=1)
    if not torch.isfinite(inputs).all():
        raise ProblemError("a number in the table is too large beside those of the training table: correct its row")
    return inputs


def _numeric(column: pl.Series) -> pl.Series:
    """The column, where all that is not missing is a number."""
    if not column.dtype.is_numeric():
        words = text(column)
        wrong = words.filter(words.is_not_null() & words.cast(pl.Float64, strict=False).is_null())
        if len(wrong):
            raise ProblemError(f"column '{column.name}' holds '{wrong[0]}': the model was trained on numbers there")
    return column


def _positions(category: dict[str, Any], column: pl.Series) -> Tensor:
    frequent, rare = category["levels"], category["rare"]
    other = len(frequent) if rare else -1
    codes = column.replace_strict(
        [*frequent, *rare], [*range(len(frequent)), *[other] * len(rare)], default=other, return_dtype=pl.Int64
    )
    places = torch.arange(len(frequent) + bool(rare))
    return (torch.from_numpy(codes.to_numpy().copy())[:, None] == places).float()  # (N, levels)


def encode(preprocessing: dict[str, Any], frame: pl.DataFrame) -> Tensor:
    """The targets of a table: `(N,)` class indices, or `(N, 1)` standardised numbers.

    Raises ProblemError for a missing target, and for a class that training did not know.
    """
    column = frame[preprocessing["target"]]
    if preprocessing["task"] == "regression":
        values = finite(_numeric(column)).to_numpy()
        if np.isnan(values).any():
            raise ProblemError(f"the target '{column.name}' is missing in some rows: drop them first")
        scaled = (values - preprocessing["mean"]) / preprocessing["scale"]
        return torch.from_numpy(np.asarray(scaled, np.float32))[:, None]
    known = preprocessing["labels"]
    numeric = not isinstance(known[0], str)
    given = classes(column, numeric, preprocessing["boolean"])
    old = [float(label) for label in known] if numeric else known
    codes = given.replace_strict(old, range(len(old)), default=-1, return_dtype=pl.Int64)
    if (codes < 0).any():
        raise ProblemError(f"the target '{column.name}' holds {given.filter(codes < 0)[0]!r}: the classes are {known}")
    return torch.from_numpy(codes.to_numpy().copy())


def classes(column: pl.Series, numeric: bool, boolean: bool) -> pl.Series:
    """A target column's classes, as numbers or as text."""
    return numbers(column) if numeric else levels(column, boolean)


def decode(preprocessing: dict[str, Any], outputs: Tensor) -> pl.DataFrame:
    """A model's outputs `(N, k)` in the user's terms: `prediction`, and each class's probability as `p(label)`.

    A regression's prediction is in the target's own units.

    >>> state = {"task": "classification", "labels": ["no", "yes"]}
    >>> decode(state, torch.tensor([[0.0, 2.0]])).row(0, named=True)["prediction"]
    'yes'
    """
    if preprocessing["task"] == "regression":
        values = outputs.double().reshape(-1) * preprocessing["scale"] + preprocessing["mean"]
        return pl.DataFrame({"prediction": values.numpy()})
    labels = preprocessing["labels"]
    probabilities = outputs.double().softmax(dim=1)
    chosen = [labels[i] for i in outputs.argmax(dim=1).tolist()]
    columns = {f"p({label})": probabilities[:, i].numpy() for i, label in enumerate(labels)}
    return pl.DataFrame({"prediction": chosen, **columns})
