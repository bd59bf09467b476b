"""The page of a diagnosis: causes first, the worst in front, each with its evidence; what could not be told is said."""

import json
import re
from dataclasses import replace

import pytest

from thalweg.core.errors import StorageError
from thalweg.core.measured import Measured
from thalweg.diagnose.diagnosis import Diagnosis
from thalweg.report import diagnosis_page
from thalweg.report.diagnosis_page import render_diagnosis, write_diagnosis
from thalweg.report.interval import interval
from thalweg.training.recipe import Recipe


@pytest.fixture(scope="module")
def page(diagnosis):
    return render_diagnosis(diagnosis)


@pytest.fixture(scope="module")
def read(page, reader):
    return reader(page)


def test_the_headline_comes_first_then_causes_then_what_could_not_be_told(diagnosis, page):
    places = [page.index(each) for each in (
        f"<h1>{diagnosis.headline}", ">Causes, the worst first</h2>", ">What could not be told</h2>",
        ">Noted</h2>", ">Spectrum</h2>", ">How it was measured</h2>",
    )]  # fmt: skip
    assert places == sorted(places)


def test_each_severity_has_its_card_and_a_note_is_no_card(diagnosis, read):
    cards = [a["class"] for tag, a in read.elements if tag == "li" and a.get("class", "").startswith("cause ")]
    assert cards == ["cause critical", "cause warning", "cause unclear"]
    assert {c.finding.severity for c in diagnosis.causes} == {"critical", "warning", "unclear", "note"}


def test_a_card_says_figure_interval_rule_source_section_advice_and_what_it_explains(page):
    card = page[page.index('<li class="cause critical">') : page.index('<li class="cause warning">')]
    assert "60 (55 to 66)" in card and 'aria-label="95 % interval: 60 (55 to 66)"' in card
    for said in ("a rule", "Kish 1965", "section 8.1.3", "an advice", "before the first step", "<b>plateau</b>"):
        assert said in card
    assert "1.95 (and 1 of 3 diverged)" in card and "difference" in card  # the advice when it was tried


def test_other_places_of_a_cause_are_named_once(page):
    card = page[page.index('<li class="cause warning">') : page.index(">What could not be told<")]
    assert card.count("also in layers.1") == 1 and "it cannot be tried" in card


def test_what_could_not_be_measured_is_there_with_the_reason(read):
    assert "no second derivatives" in read.text and "spectrum, end" in read.text


def test_every_drawing_has_a_name_and_every_figure_its_table(read):
    drawings = [a for a in read.tags("svg") if a.get("role") == "img"]
    assert len(drawings) > 10 and all(a["aria-label"] for a in drawings)
    tables = [a["aria-label"] for tag, a in read.elements if tag == "div" and a.get("role") == "region"]
    assert len(tables) == len(read.tags("figure")) == 8


def test_nothing_in_a_drawing_is_no_number(page):
    places = "".join(re.findall(r' (?:d|cx|cy|x|y|x1|y1|width|height)="([^"]*)"', page))
    assert "nan" not in places and "inf" not in places and "None" not in places


def test_the_json_can_be_copied_and_read_back(diagnosis, read):
    text = next(words for words in read.words if words.startswith('{\n "version"'))
    assert json.loads(text) == json.loads(json.dumps(diagnosis.json()))


def test_json_that_is_too_much_for_a_page_is_without_measurements(diagnosis, reader, monkeypatch):
    monkeypatch.setattr(diagnosis_page, "MOST", 8_000)
    read = reader(render_diagnosis(diagnosis))
    text = next(words for words in read.words if words.startswith('{\n "version"'))
    assert json.loads(text)["measurements"] == {} and "All but the measurements as JSON" in read.text


def test_the_recipe_and_the_seed_are_there(diagnosis, read):
    assert diagnosis.recipe.text() in read.words and "from seed 7" in read.text


def test_a_healthy_run_has_a_page_without_alarm(reader):
    read = reader(render_diagnosis(Diagnosis("digits", Recipe("adam", 100), 0, [])))
    assert "No difficulty was found." in read.text and "Nothing measured here is out of the ordinary." in read.text
    assert not read.tags("figure") and "What could not be told" not in read.text and "Noted" not in read.text


def test_it_is_the_same_page_each_time(diagnosis, page):
    assert render_diagnosis(replace(diagnosis)) == page


def test_the_file_holds_the_page_or_the_reason_is_one_line(diagnosis, page, tmp_path):
    write_diagnosis(diagnosis, tmp_path / "diagnosis.html")
    assert (tmp_path / "diagnosis.html").read_text(encoding="utf-8") == page
    with pytest.raises(StorageError, match=r"cannot write .*nowhere.*: No such file"):
        write_diagnosis(diagnosis, tmp_path / "nowhere" / "diagnosis.html")


def test_an_interval_that_is_a_point_to_three_digits_is_not_drawn():
    assert interval(Measured(49.4076, 49.40759, 49.40761, 9)) is None
    assert interval(Measured(49.4, 49.0, 49.8, 9)) is not None
