import json
import math

import pytest
import torch
from rich.console import Console

from thalweg.challenges.finding import Finding
from thalweg.core.errors import StorageError
from thalweg.core.measured import Measured
from thalweg.diagnose.causes import Seen, causes
from thalweg.diagnose.diagnosis import Cost, Diagnosis, plain, save
from thalweg.diagnose.trying import Tried
from thalweg.report.findings import print_diagnosis
from thalweg.training.recipe import Recipe


def found(name, severity, where="", high=3.0):
    return Finding(
        name, f"{name} [was] seen", severity, Measured(2.0, 1.0, high, 9), "one", "Book 2016", "8.2", "do it", where
    )


SEEN = [
    Seen(found("sorted data", "critical", high=math.inf), "start"),
    Seen(found("plateau", "warning"), "run"),
    Seen(found("dead units", "warning", "fc1"), "start"),
    Seen(found("dead units", "warning", "fc2"), "start"),
    Seen(found("label noise", "unclear"), "start"),
    Seen(found("minimum", "note"), "end"),
]


@pytest.fixture
def diagnosis():
    tried = {"sorted data": Tried({"shuffle": True}, 200, (2.0, 2.1), (1.0, 1.1))}
    measurements = {"start": {"order": Measured(1.0, 0.0, math.inf, 3), "top": torch.zeros(30_000)}}
    refusals = {"stability, before the first step": "lion has no limit"}
    cost = Cost(3.2, 1234.5, 100)
    return Diagnosis("digits", Recipe("sgd", 10), 0, causes(SEEN), measurements, refusals, tried, cost)


def test_the_headline_names_the_alarms_the_worst_first(diagnosis):
    assert diagnosis.headline == "2 difficulties were found: sorted data, dead units; 1 could not be told."
    assert Diagnosis("digits", Recipe("sgd", 10), 0, []).headline == "No difficulty was found."


def test_the_text_says_all_there_is_to_say(diagnosis):
    text = diagnosis.text()
    for said in (
        "critical: sorted data (section 8.2)",
        "sorted data [was] seen (before the first step)",
        "measured  2.00 (1.00 to inf), against one (Book 2016)",
        "explains  plateau",
        "also in   fc2",
        "loss 2.05 -> 1.05 (difference -1, -1 to -1) in 200 steps",
        "- minimum: minimum [was] seen",
        "- stability, before the first step: lion has no limit",
        "it took 3.2 s, as long as 1,234 gradients, of which 100 were steps",
    ):
        assert said in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_terminal_says_the_same_and_reads_no_markup(diagnosis):
    console = Console(width=100, no_color=True)
    with console.capture() as captured:
        print_diagnosis(console, diagnosis)
    words = " ".join(captured.get().split())
    for line in diagnosis.text().split("\n"):
        name, _, said = line.strip().partition("  ")
        assert not said or " ".join(said.split()) in words, name


def test_json_is_strict_and_leaves_directions_in_parameter_space_out(diagnosis):
    said = json.loads(json.dumps(diagnosis.json(), allow_nan=False))
    first = said["causes"][0]
    assert first["measured"] == {"value": 2.0, "low": 1.0, "high": None, "n": 9}
    assert [symptom["name"] for symptom in first["explains"]] == ["plateau"]
    assert first["tried"]["helped"] and first["tried"]["without"] == [2.0, 2.1]
    assert said["measurements"]["start"]["top"] == {"shape": [30_000]}
    assert said["recipe"]["algorithm"] == "sgd" and said["cost"]["trained"] == 100


def test_plain_data_is_plain():
    assert plain({"a": (1, 2.5), "b": torch.ones(2), "c": None, "d": math.nan, 3: True}) == {
        "a": [1, 2.5], "b": [1.0, 1.0], "c": None, "d": None, "3": True,
    }  # fmt: skip


def test_it_is_saved_and_a_place_that_cannot_be_is_said(diagnosis, tmp_path):
    save(diagnosis, tmp_path / "a" / "b")
    assert json.loads((tmp_path / "a" / "b" / "diagnosis.json").read_text()) == diagnosis.json()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the folder"):
        save(diagnosis, tmp_path / "file" / "b")
