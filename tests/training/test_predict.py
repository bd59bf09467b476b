"""A folder is all that predict needs: it answers as the trained network does, in the user's terms."""

import json

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

import thalweg as tw
from thalweg.core.errors import ProblemError, StorageError
from thalweg.training.fit import fit
from thalweg.training.predict import predict, predict_file, write_predictions
from thalweg.training.tables import from_table, transform

RECIPE = tw.Recipe("adam", steps=20, knobs={"lr": 0.02})

SCRIPT = """
import torch, thalweg as tw
from torch import nn

def problem(loss=nn.functional.cross_entropy, outputs=3):
    torch.manual_seed(0)
    x, y = torch.randn(60, 2, 2), torch.arange(60) % outputs
    def model():
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, outputs))
    return tw.Problem(model, (x[::2], y[::2]), (x[1::2], y[1::2]), loss=loss)

def regression():
    torch.manual_seed(0)
    x = torch.randn(60, 2, 2)
    data = (x, x.sum((1, 2))[:, None])
    return tw.Problem(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), data, data, loss=nn.functional.mse_loss)
"""


@pytest.fixture
def houses() -> pl.DataFrame:
    n = 60
    return pl.DataFrame(
        {
            "size": [str(40 + i) for i in range(n)],
            "colour": [("red", "blue", "green")[i * 7 % 3] for i in range(n)],
            "price": [f"{1000 + 10 * i + (i % 3)}.5" for i in range(n)],
            "sold": ["yes" if i % 3 else "no" for i in range(n)],
        }
    )


@pytest.fixture
def classifier(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    problem = tw.load(f"{tmp_path}/mine.py:problem")
    return fit(problem, RECIPE, tmp_path / "a")


def test_a_table_is_answered_in_its_own_terms(tmp_path, houses):
    problem = from_table(houses, "sold")
    fitted = fit(problem, RECIPE, tmp_path / "a")
    answer = predict(tmp_path / "a", houses.drop("sold"))
    assert answer.columns == ["prediction", "p(no)", "p(yes)"]
    outputs = fitted.network.outputs(transform(problem.preprocessing, houses))
    expected = outputs.double().softmax(1).numpy()
    np.testing.assert_array_equal(answer.select("p(no)", "p(yes)").to_numpy(), expected)


def test_a_regression_answers_in_the_units_of_its_target(tmp_path, houses):
    problem = from_table(houses, "price")
    fit(problem, tw.Recipe("adam", steps=300, knobs={"lr": 0.02}), tmp_path / "a")
    houses.write_csv(tmp_path / "houses.csv")
    answer = predict_file(tmp_path / "a", tmp_path / "houses.csv")["prediction"]
    assert np.abs(answer.to_numpy() - houses["price"].cast(float).to_numpy()).mean() < 60


def test_a_table_needs_the_columns_of_the_training_table_and_ignores_others(tmp_path, houses):
    fit(from_table(houses, "sold"), RECIPE, tmp_path / "a")
    with pytest.raises(ProblemError, match="no column 'colour'"):
        predict(tmp_path / "a", houses.drop("colour"))
    more = houses.with_columns(pl.lit("?").alias("note"))
    assert predict(tmp_path / "a", more).equals(predict(tmp_path / "a", houses))


def test_a_model_from_a_file_is_built_anew(tmp_path, classifier):
    x = torch.randn(5, 2, 2)
    assert torch.equal(predict(tmp_path / "a", x), classifier.network.outputs(x))
    assert torch.equal(predict(tmp_path / "a", x.double().numpy()), classifier.network.outputs(x))


def test_its_classes_and_their_probabilities_come_from_npy_and_csv_alike(tmp_path, classifier):
    x = np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "x.csv", x.reshape(5, 4), delimiter=",", fmt="%.9g")
    np.savetxt(tmp_path / "headed.csv", x.reshape(5, 4), delimiter=",", fmt="%.9g", header="a,b,c,d", comments="")
    answers = [predict_file(tmp_path / "a", tmp_path / name) for name in ("x.npy", "x.csv", "headed.csv")]
    assert answers[0].columns == ["prediction", "p(0)", "p(1)", "p(2)"]
    assert answers[0].equals(answers[1]) and answers[0].equals(answers[2])
    chosen = classifier.network.outputs(torch.from_numpy(x)).argmax(1).tolist()
    assert answers[0]["prediction"].to_list() == chosen


def test_other_outputs_are_columns(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    fit(tw.load(f"{tmp_path}/mine.py:regression"), RECIPE, tmp_path / "a")
    np.save(tmp_path / "x.npy", np.zeros((2, 2, 2)))
    answer = predict_file(tmp_path / "a", tmp_path / "x.npy")
    assert answer.columns == ["output"] and len(answer) == 2
    assert write_predictions(answer, tmp_path / "y.npy") == f"2 predictions in {tmp_path / 'y.npy'}"
    assert np.load(tmp_path / "y.npy").shape == (2, 1)


def test_plain_pytorch_can_load_the_weights(tmp_path, classifier):
    weights = safetensors.torch.load_file(tmp_path / "a" / "model.safetensors")
    assert set(weights) == set(classifier.network.module.state_dict())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.npy", np.zeros((3, 4)), r"inputs \(3, 4\) were given: the model takes \(N, 2, 2\)"),
        ("x.npy", np.zeros((0, 2, 2)), "no examples to predict"),
        ("x.npy", np.full((1, 2, 2), np.nan), "hold NaN or infinity"),
        ("x.npy", np.array([[["a", "b"], ["c", "d"]]]), "the inputs are <U1 values: give numbers"),
        ("x.npy", b"nonsense", "cannot be read as .npy"),
        ("x.npy", b"", "cannot be read as .npy"),
        ("x.csv", b"1,2,3\n4,5,6\n", "has 3 columns: the model takes 4 numbers an example"),
        ("x.csv", b"1,2,3,4\n4,5,x,6\n", "is not a table of numbers"),
        ("x.csv", b"", "is empty: give a row of numbers"),
        ("x.csv", b"a,b,c,d\n", "is empty: give a row of numbers"),
        ("x.txt", b"1", "ends in '.txt': this model reads .npy, or .csv of numbers"),
        ("nothing", None, "there is no file"),
    ],
)
def test_inputs_that_do_not_fit_say_what_would(tmp_path, classifier, name, content, said):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(ProblemError, match=said):
        predict_file(tmp_path / "a", path)


def test_a_folder_without_a_finished_model_says_how_to_get_one(tmp_path):
    with pytest.raises(StorageError, match="is no folder: train one with thalweg fit"):
        predict(tmp_path / "nothing", torch.zeros(1, 4))
    with pytest.raises(StorageError, match="holds no finished model"):
        predict(tmp_path, torch.zeros(1, 4))


@pytest.mark.parametrize("name", ["model.safetensors", "problem.json"])
def test_a_flipped_bit_is_found_before_anything_is_predicted(tmp_path, classifier, name):
    path = tmp_path / "a" / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{name} is damaged: its SHA-256"):
        predict(tmp_path / "a", torch.zeros(1, 2, 2))


def test_a_model_whose_code_has_changed_is_refused(tmp_path, classifier):
    (tmp_path / "mine.py").write_text(SCRIPT.replace("outputs=3", "outputs=4"))
    with pytest.raises(StorageError, match="not this model's, has its code changed since"):
        predict(tmp_path / "a", torch.zeros(1, 2, 2))


def test_a_model_of_unknown_source_says_how_to_load_it(tmp_path, linear):
    fit(linear, RECIPE, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "problem.json").read_text())["source"] is None
    with pytest.raises(StorageError, match="does not say where its model came from"):
        predict(tmp_path / "a", torch.zeros(1, 1))
