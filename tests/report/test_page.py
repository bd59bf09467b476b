"""The page as a file: whole, escaped, closed to the network, and there for every study, finished or not."""

import re
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from thalweg.comparison.study import Trial
from thalweg.core.errors import StorageError
from thalweg.report.figures import figures
from thalweg.report.page import render, write_report
from thalweg.report.panels import spread
from thalweg.report.rows import targets
from thalweg.report.scales import Tick, linear, logarithmic, nines
from thalweg.training.recipe import Recipe


@pytest.fixture(scope="module")
def page(study):
    return render(study)


@pytest.fixture(scope="module")
def read(page, reader):
    return reader(page)


def test_the_verdict_comes_first_and_the_commands_can_be_typed(study, read, page):
    headline = study.verdict.sentence.split(". ")[0]
    assert page.index(headline) < page.index("What to do now") < page.index("Ranking</h2>")
    assert f"thalweg predict {study.folder} new.csv" in "".join(read.words)
    assert "thalweg fit houses.csv --target 'price <b>' --recipe" in "".join(read.words)
    assert study.facts["command"] in "".join(read.words)


def test_the_recipe_in_the_page_is_the_recommended_one(study, read):
    text = next(words for words in read.words if words.startswith("algorithm = "))
    assert Recipe(**tomllib.loads(text)) == study.recipe


def test_every_trial_has_its_row(study, page):
    body = page[page.index('<table id="trials">') :]
    assert body[: body.index("</table>")].count("<tr>") == len(study.trials) + 1


def test_it_is_the_same_page_each_time(study, page):
    assert render(study) == page


def test_a_stopped_study_has_a_page_that_says_so(stopped, reader):
    read = reader(render(stopped))
    assert "There is no verdict yet" in read.text and "has not come to its end" in read.text
    assert set(figures(stopped, None)) == {"sensitivity"}


def test_the_section_why_is_there_only_where_the_study_says_why(study, reader):
    reasons = [{"kind": "layers", "text": "gradients differ 30-fold <img src=x onerror=alert(3)>"}]
    read = reader(render(replace(study, facts={**study.facts, "why": reasons})))
    assert "gradients differ 30-fold <img src=x onerror=alert(3)>" in read.text and not read.tags("img")
    assert {"href": "#why"} in read.tags("a") and {"href": "#why"} not in reader(render(study)).tags("a")


def test_a_study_without_any_trial_has_a_page(stopped, reader):
    assert "no verdict yet" in reader(render(replace(stopped, trials=[]))).text


def test_a_study_stopped_before_its_final_run_keeps_its_verdict(study, reader):
    facts = {name: study.facts[name] for name in ("problem", "settings", "plan")}
    read = reader(render(replace(study, facts=facts)))
    assert study.verdict.recommended in read.text and "has not come to its end" in read.text


def test_a_problem_without_test_set_or_source_is_said_so(study, reader):
    final = {**study.facts["final"], "test_loss": None, "test_metric": None}
    problem = {**study.facts["problem"], "source": None}
    read = reader(render(replace(study, facts={**study.facts, "final": final, "problem": problem})))
    assert "the problem has no test set" in read.text and "thalweg fit" not in read.text


def test_one_seed_has_no_interval_and_still_a_place(study):
    single = [t for t in study.trials if t.stage != "confirmation" or t.key.endswith("/00")]
    alone = replace(study, trials=single)
    ranking = figures(alone, alone.verdict)["ranking"]
    assert not any(series.lines for series in ranking.variants[0].panels[0].series)


def test_a_loss_that_is_no_number_leaves_a_gap_in_its_curve(study):
    broken = [_with_nan(t) if t.key == "confirmation/adam/00" else t for t in study.trials]
    page = render(replace(study, trials=broken))
    assert "nan" not in "".join(re.findall(r' (?:d|cx|cy|x|y)="([^"]*)"', page))


def _with_nan(trial: Trial) -> Trial:
    first, *rest = trial.curve
    return replace(trial, curve=[first._replace(valid_loss=float("nan"), valid_metric=float("nan")), *rest])


def test_diverged_trials_are_crosses_above_all_others_and_cut_ones_hollow(study):
    sensitivity = figures(study, study.verdict)["sensitivity"]
    marks = [mark for panel in sensitivity.variants[0].panels for series in panel.series for mark in series.marks]
    searched = study.of("screening")
    counted = {shape: sum(mark.shape == shape for mark in marks) for shape in ("cross", "hollow", "chosen")}
    assert counted["cross"] == sum(t.outcome in ("diverged", "failed") for t in searched) > 0
    assert counted["hollow"] == sum(t.outcome == "cut" for t in searched) > 0
    assert counted["chosen"] == len({t.algorithm for t in searched})
    assert {m.y for m in marks if m.shape == "cross"} == {7.0}  # in the middle of the band that is kept for them
    assert min(m.y for m in marks if m.shape != "cross") > 14


def test_time_to_target_counts_the_seeds_that_never_got_there(study):
    colours = {s.algorithm: i for i, s in enumerate(study.verdict.standings)}
    rows = {row[0]: row for row in targets(study, study.verdict, colours).table.rows}
    for standing in study.verdict.standings:
        assert rows[standing.algorithm][1] == f"{standing.reached} of 5"
        late = standing.reached < 3  # of five: the median seed never got there
        assert [cell == "–" for cell in rows[standing.algorithm][2:]] == [late, late]


def test_a_metric_that_is_the_loss_is_drawn_once_and_the_lowest_ranks_first(study, reader):
    problem = {**study.facts["problem"], "metric": {"name": "cross_entropy", "higher_is_better": False}}
    as_loss = [replace(t, curve=[p._replace(valid_metric=p.valid_loss) for p in t.curve]) for t in study.trials]
    other = replace(study, facts={**study.facts, "problem": problem}, trials=as_loss)
    drawn = figures(other, other.verdict)
    assert [variant.label for variant in drawn["sensitivity"].variants] == ["cross_entropy"]
    large = [m for s in drawn["ranking"].variants[0].panels[0].series for m in s.marks if m.shape == "large"]
    assert [m.x for m in large] == sorted(m.x for m in large)
    assert "(lower is better)" in reader(render(other)).text


def test_every_figure_has_its_numbers_in_a_table(study):
    for figure in figures(study, study.verdict).values():
        assert figure.table.rows and all(len(row) == len(figure.table.head) for row in figure.table.rows)


def test_a_scale_puts_its_ends_at_its_ends_and_goes_up_between():
    for build in (linear, logarithmic):
        scale = build([0.1, 1.0], padding=0, start=100, end=14)
        assert (scale.at(0.1), scale.at(1.0)) == (100, 14)
        assert scale.at(0.2) > scale.at(0.5) > scale.at(0.9)
        assert scale.at(-5) == 100 and scale.at(5) == 14


def test_scales_stand_constant_empty_and_perfect_values():
    for build in (linear, logarithmic, nines):
        for values in ([], [0.5], [0.2, 0.8], [0.5, 0.5], [1.0, 1.0], [float("nan"), 0.5, 0.7], [float("inf"), 0.5]):
            scale = build(values)
            assert 0 <= scale.at(0.5) <= 100 and all(0 <= tick.at <= 100 for tick in scale.ticks)


def test_labels_that_meet_move_apart_and_stay_inside():
    moved = [tick.at for tick in spread([Tick(at, "") for at in (0, 1, 50, 50, 50, 99)], 10)]
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(moved))
    assert min(moved) >= 0 and max(moved) <= 100


def test_a_report_that_cannot_be_written_is_one_line(study, tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*nowhere.*: No such file"):
        write_report(study, tmp_path / "nowhere" / "report.html")


def test_the_file_holds_the_page(study, page, tmp_path):
    write_report(study, tmp_path / "report.html")
    assert Path(tmp_path / "report.html").read_text(encoding="utf-8") == page
