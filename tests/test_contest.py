"""compare as a function: the same study every time, whatever the processes; what bad input gets."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.comparison.result import Study
from thalweg.comparison.study import Record, digest
from thalweg.contest import compare
from thalweg.core.errors import AlgorithmError, BudgetError, ProblemError, StorageError
from thalweg.training.builtin import digits
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe


def spirals(name="spirals", width=16, seed=0):
    """Two interleaved spirals, 240 points: a small problem on which recipes differ."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(240, generator=generator) * 6
    label = torch.arange(240) % 2
    turn = angle + label * torch.pi
    points = torch.stack([angle * turn.cos(), angle * turn.sin()], 1) / 3
    points += 0.05 * torch.randn(240, 2, generator=generator)
    parts = [(points[a:b], label[a:b]) for a, b in ((0, 120), (120, 180), (180, 240))]
    model = lambda: nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))  # noqa: E731
    return Problem(model, *parts, name=name, batch_size=16, epochs=20, chance=0.6931)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study in trials, that several tests read."""
    return compare(spirals(), trials=12, algorithms=["sgd", "adam", "rmsprop"], out=tmp_path_factory.mktemp("s") / "a")


def test_the_same_seed_gives_the_same_study_on_any_number_of_processes(study, tmp_path):
    for workers in (1, 3):
        again = compare(
            spirals(), trials=12, algorithms=["sgd", "adam", "rmsprop"], out=tmp_path / str(workers), workers=workers
        )
        assert digest(again.trials) == digest(study.trials)
        assert again.verdict.sentence == study.verdict.sentence
        assert again.facts["final"] == study.facts["final"] and again.facts["remarks"] == study.facts["remarks"]
        assert (again.folder / "model.safetensors").read_bytes() == (study.folder / "model.safetensors").read_bytes()


def test_another_seed_gives_another_study(study, tmp_path):
    other = compare(spirals(), trials=12, algorithms=["sgd", "adam", "rmsprop"], out=tmp_path / "a", seed=1)
    assert digest(other.trials) != digest(study.trials)


def test_every_algorithm_gets_the_same_budget_and_its_best_is_confirmed_on_the_same_fresh_seeds(study):
    for stage in ("screening", "refinement", "confirmation"):
        counts = {name: [t.seed for t in study.of(stage) if t.algorithm == name] for name in ("sgd", "adam", "rmsprop")}
        assert counts["sgd"] == counts["adam"] == counts["rmsprop"] != []
    searched = {t.seed for t in study.trials if t.stage not in ("confirmation", "final")}
    confirmed = {t.seed for t in study.of("confirmation")}
    assert len(confirmed) == 3 and not searched & confirmed
    assert study.of("final")[0].seed not in searched | confirmed


def test_no_trial_is_forgotten_and_none_left_running(study):
    outcomes = {t.outcome for t in study.trials}
    assert outcomes <= {"finished", "cut", "diverged"} and "cut" in outcomes
    assert any(t.control for t in study.trials) and study.facts["pruning"]["controls"] >= 1
    assert not (study.folder / "trials").exists()


def test_confirmed_recipes_are_the_best_whole_runs_of_the_search(study):
    for name in ("sgd", "adam", "rmsprop"):
        whole = [t for t in study.trials if t.algorithm == name and t.stage in ("refinement", "widening")]
        best = min((t for t in whole if t.outcome == "finished"), key=lambda t: (t.cost(study.metric), t.key))
        assert {json.dumps(t.recipe.knobs) for t in study.of("confirmation") if t.algorithm == name} == {
            json.dumps(best.recipe.knobs)
        }


def test_the_folder_holds_report_recipe_model_and_record(study):
    names = {path.name for path in study.folder.iterdir()}
    assert {"report.html", "recipe.toml", "model.safetensors", "study.db"} <= names
    assert Recipe.load(study.folder / "recipe.toml") == study.recipe
    assert study.verdict.recommended in (study.folder / "report.html").read_text()


def test_rules_for_tensors_or_the_vector_are_raced_like_any_other(tmp_path):
    names = [name for name, a in ALGORITHMS.items() if a.rule.per != "element" and name not in SECOND_ORDER]
    raced = compare(replace(digits(), epochs=1), trials=2, algorithms=names, out=tmp_path / "a", workers=1)
    confirmed = {name: [t.outcome for t in raced.of("confirmation") if t.algorithm == name] for name in names}
    assert confirmed == dict.fromkeys(names, ["finished"] * 3)
    assert raced.recipe.algorithm in names


def test_second_order_is_raced_beside_the_first_with_fewer_steps_of_the_whole_batch(tmp_path):
    arguments = {"trials": 2, "algorithms": ["sgd", "lbfgs", "trust_ncg", "levenberg_marquardt"]}
    study = compare(bowl(1.0), **arguments, out=tmp_path / "a", workers=1)
    recipes = {t.algorithm: t.recipe for t in study.of("confirmation")}
    assert {t.outcome for t in study.of("confirmation")} == {"finished"}
    assert recipes["sgd"].batch_size == 20 and recipes["lbfgs"].batch_size == 40
    assert recipes["sgd"].steps > recipes["lbfgs"].steps > recipes["levenberg_marquardt"].steps
    means = {s.algorithm: s.mean for s in study.verdict.standings}
    assert max(means["lbfgs"], means["trust_ncg"], means["levenberg_marquardt"]) < 1e-6
    assert "CPU seconds" in (study.folder / "report.html").read_text() and study.verdict.timed
    again = compare(bowl(1.0), **arguments, out=tmp_path / "b", workers=2)
    assert digest(again.trials) == digest(study.trials)


def bowl(steepness):
    """Least squares: its best lr goes with 1 / steepness², above most of SGD's space, or below."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) * steepness
    y = x @ torch.ones(4, 1)
    model = lambda: nn.Linear(4, 1, bias=False)  # noqa: E731
    return Problem(model, (x[:40], y[:40]), (x[40:], y[40:]), loss=nn.functional.mse_loss, batch_size=20, epochs=30)


@pytest.mark.parametrize(("steepness", "happens"), [(20.0, "diverged"), (0.02, "widening")])
def test_a_stopped_study_goes_on_to_the_same_end(steepness, happens, tmp_path):
    """Cut down to what a kill would have left at several moments, the same call ends in the same study."""
    arguments = {"trials": 12, "algorithms": ["sgd", "momentum"]}
    study = compare(bowl(steepness), **arguments, out=tmp_path / "whole")
    assert happens in {t.outcome for t in study.trials} | {t.stage for t in study.trials}
    order = ["screening", "refinement", "widening", "confirmation", "final"]
    rows = sorted(study.trials, key=lambda t: (order.index(t.stage), t.key))
    for kept in (0, 5, *(i for i in range(len(rows)) if rows[i - 1].stage != rows[i].stage), len(rows) - 3):
        folder = tmp_path / str(kept)
        folder.mkdir(exist_ok=True)
        shutil.copy(study.folder / "study.db", folder)
        record = Record(folder / "study.db")
        record._db.execute("DELETE FROM trials")
        record._db.execute("DELETE FROM facts WHERE name IN ('final', 'remarks', 'pruning')")
        for trial in rows[:kept]:
            record.write(trial)
        record.close()
        again = compare(bowl(steepness), **arguments, out=folder)
        assert digest(again.trials) == digest(study.trials)


def test_a_finished_study_is_not_run_again(study):
    before = (study.folder / "study.db").read_bytes()
    again = compare(spirals(), trials=12, algorithms=["sgd", "adam", "rmsprop"], out=study.folder)
    assert again.facts["times"] == study.facts["times"]
    assert (study.folder / "study.db").read_bytes() == before


def test_a_folder_of_another_study_is_refused_and_left_alone(study, tmp_path):
    before = (study.folder / "study.db").read_bytes()
    other = replace(spirals(), train=(torch.randn(20, 2), torch.arange(20) % 2))
    with pytest.raises(StorageError, match="a study of another problem"):
        compare(other, trials=12, algorithms=["sgd", "adam", "rmsprop"], out=study.folder)
    with pytest.raises(StorageError, match=r"other seed \(0, now 5\)"):
        compare(spirals(), trials=12, algorithms=["sgd", "adam", "rmsprop"], out=study.folder, seed=5)
    assert (study.folder / "study.db").read_bytes() == before
    (tmp_path / "mine.txt").write_text("dear diary")
    with pytest.raises(StorageError, match="not empty and holds no study"):
        compare(spirals(), trials=2, out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithms": ["adamm"]}, AlgorithmError, "did you mean adam"),
        ({"budget": "1s"}, BudgetError, "too small to try anything here: 10 algorithms need about"),
        ({"budget": "soon"}, BudgetError, "is no duration"),
        ({"budget": "1m", "trials": 4}, BudgetError, "give one of them"),
        ({"trials": 1}, BudgetError, "2 are the least"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        compare(replace(spirals(), epochs=2000), out=tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_a_model_that_does_not_fit_is_refused_with_the_shapes(tmp_path):
    with pytest.raises(ProblemError, match=r"\(4, 2\) float32.*4x2 and 3x2"):
        compare(replace(spirals(), model=lambda: nn.Linear(3, 2)), trials=2, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_recipe_that_diverges_is_information_not_a_lost_row(tmp_path):
    """On a steep quadratic bowl most of SGD's space diverges: the study says where, and finds what does not."""
    study = compare(bowl(20.0), trials=12, algorithms=["sgd"], out=tmp_path / "a")
    diverged = [t for t in study.trials if t.outcome == "diverged"]
    assert diverged and all("try a smaller lr" in t.message for t in diverged)
    assert all(t.steps < t.recipe.steps for t in diverged)
    assert study.verdict.standings[0].diverged == 0
    limit = min(t.recipe.knobs["lr"] for t in diverged)
    assert study.recipe.knobs["lr"] < limit


def test_a_study_opens_from_its_folder_alone(study):
    opened = Study.open(study.folder)
    assert opened.recipe == study.recipe and opened.verdict == study.verdict
    with pytest.raises(StorageError, match="no study"):
        Study.open(study.folder.parent)


def test_a_model_that_refuses_the_last_short_batch_is_refused_before_the_race(tmp_path):
    """BatchNorm cannot take the last batch of an epoch, which is one example."""
    model = lambda: nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))  # noqa: E731
    points = spirals()
    problem = replace(points, model=model, train=tuple(points.train.take(torch.arange(33))), batch_size=16)
    with pytest.raises(ProblemError, match=r"last batch, of 1, .*Expected more than 1 value"):
        compare(problem, trials=2, algorithms=["sgd"], out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


class Moody(nn.Linear):
    """A layer that works in the process that made it, and fails in every other."""

    home = os.getpid()

    def forward(self, x):
        if os.getpid() != self.home:
            raise ValueError("not in the mood")
        return super().forward(x)


def test_when_no_trial_comes_through_the_reason_is_said(tmp_path):
    with pytest.raises(ProblemError, match=r"no trial of any algorithm came through.*ValueError: not in the mood"):
        compare(replace(spirals(), model=lambda: Moody(2, 2)), trials=2, algorithms=["sgd"], out=tmp_path / "a")


def test_the_report_is_copied_where_it_is_wanted(study, tmp_path):
    study.report(tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_bytes() == (study.folder / "report.html").read_bytes()


def test_it_says_what_explains_the_ranking_or_that_nothing_does(study):
    assert study.facts["why"] and all(set(reason) == {"kind", "text"} for reason in study.facts["why"])
    assert study.recipe.algorithm in study.facts["why"][0]["text"]
    assert study.facts["why"][0]["text"] in (study.folder / "report.html").read_text(encoding="utf-8")
