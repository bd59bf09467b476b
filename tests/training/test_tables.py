"""A table becomes a problem: what is inferred is said, and what cannot be used is refused."""

import datetime
import json
import math

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.core.errors import ProblemError
from thalweg.training.preprocessing import levels, numbers, pipeline
from thalweg.training.read import read_table
from thalweg.training.tables import decode, encode, from_table, rebuilt, split, transform


def houses(n: int = 200) -> pl.DataFrame:
    """Numbers with gaps, categories with gaps and rare levels, a boolean, names, a counter, and two targets."""
    random = np.random.default_rng(0)
    size = random.normal(100, 20, n)
    return pl.DataFrame(
        {
            "row": range(n),
            "size": [None if i % 9 == 0 else s for i, s in enumerate(size)],
            "age": random.integers(0, 90, n),
            "town": [None if i % 13 == 0 else f"t{int(k)}" for i, k in enumerate(random.geometric(0.3, n))],
            "garden": random.random(n) > 0.5,
            "owner": [f"owner {i}" for i in range(n)],
            "flat": ["yes"] * n,
            "price": 3 * size + random.normal(0, 5, n),
            "kind": random.choice(["house", "hut", "villa"], n, p=[0.6, 0.3, 0.1]),
        }
    )


def plain(**columns) -> pl.DataFrame:
    return pl.DataFrame({"x": [float(i * 7 % 40) for i in range(40)], **columns})


def refused(frame: pl.DataFrame, target: str = "y") -> str:
    with pytest.raises(ProblemError) as caught:
        from_table(frame, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_transform_is_scikit_learns_own_pipeline():
    frame = houses()
    problem = from_table(frame, "price", seed=3)
    rows = split(frame.height, 3)
    columns = [*(numbers(frame[c]) for c in ("size", "age")), levels(frame["town"]), levels(frame["garden"], True)]
    columns.append(levels(frame["kind"]))
    readable = pl.DataFrame(columns)
    theirs = pipeline([0, 1], [2, 3, 4], 120).fit(readable[rows[0]])
    for part, data in zip(rows, (problem.train, problem.valid, problem.test), strict=True):
        expected = torch.tensor(theirs.transform(readable[part]), dtype=torch.float32)
        torch.testing.assert_close(data.inputs, expected, rtol=1e-6, atol=1e-6)


def test_unknown_and_new_missing_levels_are_those_of_scikit_learn():
    train = pl.DataFrame({"a": ["x"] * 9 + ["y"] * 9 + ["rare", None] + ["z"] * 9, "b": ["u", "v"] * 14 + ["u"]})
    frame = train.with_columns(y=pl.Series([0.5, 1.5, 2.5] * 9 + [3.5, 4.5]))
    state = from_table(frame, "y").preprocessing
    new = pl.DataFrame({"a": ["x", "never seen", None], "b": ["w", None, "u"]})
    encoded = transform(state, new)
    assert encoded.shape == (3, state["layers"][0])
    rare = next(c for c in state["categorical"] if c["column"] == "a")
    other = len(rare["levels"])
    assert encoded[1, other] == (1 if rare["rare"] else 0)
    assert encoded[:, -2:].tolist() == [[0, 0], [0, 0], [1, 0]]


def test_preprocessing_is_plain_json_and_does_the_same_after_a_round_trip():
    for target in ("price", "kind", "garden"):
        problem = from_table(houses(), target)
        again = json.loads(json.dumps(problem.preprocessing, allow_nan=False))
        assert again == problem.preprocessing
        assert torch.equal(transform(again, houses()), transform(problem.preprocessing, houses()))
        assert str(rebuilt(again)) == str(problem.model())


def test_preprocessing_sees_the_training_part_only():
    frame = houses()
    rows = split(frame.height, 0)
    spoilt = frame.with_row_index("i").with_columns(
        size=pl.when(pl.col("i").is_in(rows[0].tolist())).then(pl.col("size")).otherwise(1e6)
    )
    assert from_table(spoilt.drop("i"), "price").preprocessing == from_table(frame, "price").preprocessing


def test_missing_numbers_become_the_median_and_an_indicator():
    frame = plain(y=[i % 2 for i in range(40)]).with_columns(x=pl.when(pl.col("x") > 30).then(None).otherwise("x"))
    state = from_table(frame, "y").preprocessing
    (column,) = state["numeric"]
    missing, there = transform(state, pl.DataFrame({"x": [None, column["fill"]]}))
    assert missing[0] == there[0] and missing[1] > there[1]


def test_a_missing_category_is_a_level_of_its_own():
    frame = plain(c=["a", "b", None, "a"] * 10, y=[i % 2 for i in range(40)])
    (column,) = from_table(frame, "y").preprocessing["categorical"]
    assert column["levels"] == ["a", "b", None]


def test_what_is_inferred_and_left_out_is_said():
    notes = from_table(houses(), "price").about["notes"]
    assert notes == [
        "target 'price' is numeric with 200 different values: regression",
        "column 'row' only numbers the rows: left out",
        "column 'owner' is text, 120 values in 120 rows, like a name: left out",
        "column 'flat' is constant in the training part: left out",
    ]


def test_a_column_of_many_levels_is_capped_and_said():
    frame = houses(2000).with_columns(street=pl.Series([f"s{i % 50}" for i in range(2000)]))
    problem = from_table(frame, "price")
    column = next(c for c in problem.preprocessing["categorical"] if c["column"] == "street")
    assert len(column["levels"]) == 31 and len(column["rare"]) == 19
    assert "column 'street' has 50 different values: the rarer ones are taken as one" in problem.about["notes"]


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        (["no", "yes"], "classification", ["no", "yes"]),
        ([True, False], "classification", ["false", "true"]),
        (["True", "FALSE"], "classification", ["false", "true"]),
        ([0, 1, 2], "classification", [0, 1, 2]),
        ([1.0, 2.0], "classification", [1, 2]),
        ([0.5, 1.5], "classification", [0.5, 1.5]),
        (["3", "4"], "classification", [3, 4]),
        ([0.5, 1.5, 2.5], "regression", None),
        (list(range(40)), "regression", None),
    ],
)
def test_the_task_is_inferred(values, task, labels):
    problem = from_table(plain(y=(values * 40)[:40]), "y")
    assert problem.about["task"] == task
    assert problem.preprocessing.get("labels") == labels
    assert f": {task}" in problem.about["notes"][0]


def test_the_parts_are_disjoint_seeded_and_recorded():
    problem = from_table(houses(), "kind", seed=5)
    assert problem.about["split"] == {"how": "stratified by class", "seed": 5, "train": 120, "valid": 40, "test": 40}
    parts = split(200, 5)
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    assert not np.array_equal(parts[0], split(200, 6)[0])


def test_every_part_has_its_share_of_every_class():
    strata = np.repeat([0, 1, 2], [700, 200, 100])
    for part, share in zip(split(1000, 1, strata), (0.6, 0.2, 0.2), strict=True):
        assert np.abs(np.bincount(strata[part]) - share * np.array([700, 200, 100])).max() <= 1


def test_a_class_of_two_is_learnt_and_judged():
    strata = np.array([0] * 50 + [1] * 2)
    assert all(1 in strata[split(52, seed, strata)[0]] for seed in range(20))


def test_regression_is_trained_standardised_and_judged_in_its_own_units():
    problem = from_table(houses(), "price")
    y = problem.train.targets
    assert y.shape == (120, 1) and abs(float(y.mean())) < 1e-5 and problem.chance == pytest.approx(1, abs=1e-5)
    scale = problem.preprocessing["scale"]
    assert problem.metric(y, y + 1) == pytest.approx(scale, rel=1e-5)
    prices = houses()["price"].to_numpy()[split(200, 0)[0]]
    assert decode(problem.preprocessing, y)["prediction"].to_numpy() == pytest.approx(prices, rel=1e-5)


def test_classification_is_decoded_to_labels_and_probabilities():
    problem = from_table(houses(), "kind")
    truth = houses()["kind"].to_numpy()[split(200, 0, houses()["kind"].to_numpy())[0]]
    decoded = decode(problem.preprocessing, 9 * torch.nn.functional.one_hot(problem.train.targets, 3).float())
    assert decoded.columns == ["prediction", "p(house)", "p(hut)", "p(villa)"]
    assert decoded["prediction"].to_list() == truth.tolist()
    assert decoded.select(pl.sum_horizontal(pl.exclude("prediction"))).to_series().to_numpy() == pytest.approx(1)


def test_chance_is_the_entropy_of_the_classes():
    assert from_table(plain(y=[0, 0, 0, 1] * 10), "y").chance == pytest.approx(
        -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=0.02
    )


def test_good_problems_pass_their_check():
    for target in ("price", "kind", "garden"):
        from_table(houses(), target).check()


def test_rows_without_a_target_are_left_out_and_said():
    problem = from_table(plain(y=[None, "NA", "", "a", "b", "a", "b", "b"] * 5), "y")
    assert sum(map(len, (problem.train, problem.valid, problem.test))) == 25
    assert problem.about["notes"][0] == "15 of 40 rows have no target: left out"


def test_a_csv_and_a_parquet_of_one_table_are_one_problem(tmp_path):
    frame = houses().with_columns(pl.col("size").round(3))
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for target in ("price", "kind", "garden"):
        one, other = (from_table(read_table(tmp_path / name), target) for name in ("t.csv", "t.parquet"))
        assert one.preprocessing == other.preprocessing
        assert one.fingerprint() == other.fingerprint()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["a"] * 40, "the target 'y' is a in all 40 rows: there is nothing to learn"),
        ([7] * 39 + [None], "the target 'y' is 7.0 in all 39 rows"),
        ([None] * 40, "the target 'y' is missing in all 40 rows"),
        (["?", "NA"] * 20, "the target 'y' is missing in all 40 rows"),
        (["a", "b"] * 19 + ["c", "a"], "target 'y': class 'c' has one example, too few"),
        ([0, 1] * 19 + [2, 3], "target 'y': the classes '2', '3' have one example"),
        ([f"name {i}" for i in range(40)], "is text with 40 different values in 40 rows: too many for classes"),
        ([1.5] * 39 + [math.inf], "column 'y' holds 1 infinite value: "),
        ([datetime.date(2020, 1, 1 + i % 9) for i in range(40)], "dates and times are not supported (column 'y')"),
        (
            [f"{i}.5" for i in range(39)] + ["cheap"],
            "column 'y' holds numbers but for 1 of 40 values (such as 'cheap')",
        ),
        ([1e300 * (-1) ** i * i for i in range(40)], "column 'y' holds numbers beyond 1e+100"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(target, message):
    assert message in refused(plain(y=target))


def test_an_unknown_target_is_met_with_the_closest_and_the_list():
    assert refused(houses(), "pric") == (
        "the table has no column 'pric': did you mean 'price'? "
        "its columns are 'row', 'size', 'age', 'town', 'garden', 'owner', 'flat', 'price', 'kind'"
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([datetime.datetime(2020, 1, 1)] * 40, "dates and times are not supported (column 'c')"),
        (["2020-01-31"] * 40, "dates and times are not supported (column 'c')"),
        (["31.1.2020", "NA"] * 20, "dates and times are not supported (column 'c')"),
        (["1/31/20 10:00"] * 40, "dates and times are not supported (column 'c')"),
        (["12:30"] * 40, "dates and times are not supported (column 'c')"),
        ([[1, 2]] * 40, "column 'c' holds List(Int64)"),
        ([1.0, math.inf, -math.inf, None] * 10, "column 'c' holds 20 infinite values"),
        ([str(i) for i in range(38)] + ["inf", "2"], "column 'c' holds 1 infinite value:"),
        ([f"1,{i:03}" for i in range(40)], "column 'c' holds numbers but for 40 of 40 values (such as '1,000')"),
        ([1e308, -1e308] * 20, "column 'c' holds numbers beyond 1e+100"),
    ],
)
def test_columns_that_cannot_be_used_are_refused_by_name(column, message):
    assert message in refused(plain(c=pl.Series(column, strict=False), y=[i % 2 for i in range(40)]))


def test_infinities_are_counted_over_the_whole_table():
    frame = plain(y=[i % 2 for i in range(40)]).with_columns(x=pl.lit(math.inf))
    assert "column 'x' holds 40 infinite values" in refused(frame.with_columns(z=pl.int_range(40).shuffle(1)))


def test_not_a_number_is_missing():
    frame = plain(y=[i % 2 for i in range(40)], z=[math.nan, 1.0, 2.0, 5.0] * 10)
    column = from_table(frame, "y").preprocessing["numeric"][1]
    assert column["column"] == "z" and column["indicator"] is not None


def test_too_small_tables_are_refused():
    assert "the table has 10 rows with a target: give at least 20" in refused(plain(y=[0, 1] * 20)[:10])
    assert "no column to learn 'y' from: it is the only column" in refused(pl.DataFrame({"y": [0, 1] * 20}))
    only = pl.DataFrame({"y": [0, 1] * 20, "c": ["a"] * 40})
    assert "to learn 'y' from: column 'c' is constant" in refused(only)


def test_a_new_table_must_have_the_columns_of_the_old():
    state = from_table(houses(), "price").preprocessing
    with pytest.raises(
        ProblemError, match=r"no column 'size' \(is 'sizes' meant to be it\?\): .* trained on size, age"
    ):
        transform(state, houses().rename({"size": "sizes"}))
    with pytest.raises(ProblemError, match="column 'age' holds 'old': the model was trained on numbers"):
        transform(state, houses().with_columns(age=pl.lit("old")))
    with pytest.raises(ProblemError, match="column 'age' holds 200 infinite values"):
        transform(state, houses().with_columns(age=pl.lit(-math.inf)))
    with pytest.raises(ProblemError, match="too large beside those of the training table"):
        transform(state, houses().with_columns(age=pl.lit(1e99)))


def test_new_tables_may_come_as_text_in_any_order_with_other_columns():
    state = from_table(houses(), "price").preprocessing
    shuffled = houses().select(reversed(houses().columns)).with_columns(pl.all().cast(pl.String), extra=pl.lit(1))
    torch.testing.assert_close(transform(state, shuffled), transform(state, houses()))
    assert torch.equal(transform(state, houses()[:1]), transform(state, houses())[:1])


def test_targets_of_a_new_table_must_be_known():
    state = from_table(houses(), "kind").preprocessing
    assert encode(state, pl.DataFrame({"kind": ["villa", "house"]})).tolist() == [2, 0]
    with pytest.raises(ProblemError, match="the target 'kind' holds 'tent': the classes are"):
        encode(state, pl.DataFrame({"kind": ["tent"]}))
    state = from_table(houses(), "price").preprocessing
    with pytest.raises(ProblemError, match="the target 'price' is missing"):
        encode(state, pl.DataFrame({"price": [1.0, None]}))


def test_columns_may_have_any_name():
    frame = plain(**{"count": [0, 1] * 20, "": ["a", "b"] * 20, "<b>": [1.5, 2.5, 3.5, 4.5] * 10})
    assert from_table(frame, "count").preprocessing["labels"] == [0, 1]
