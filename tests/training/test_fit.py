"""fit keeps what validates best, uses all the data by the book, and survives being killed at any moment."""

import json
import os
import random
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import thalweg as tw
from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.core.errors import AlgorithmError, DivergenceError, StorageError
from thalweg.learning.risk import risk
from thalweg.learning.stopping import joined
from thalweg.training.builtin import digits
from thalweg.training.fit import fit
from thalweg.training.run import Run

WHOLE = [n for n, a in ALGORITHMS.items() if a.rule.per != "element" and n not in SECOND_ORDER]

RECIPE = tw.Recipe("adam", steps=60, batch_size=7, knobs={"lr": 0.02})
TOO_FAST = tw.Recipe("sgd", steps=500, knobs={"lr": 1e6}, schedule="constant")
DECIDED = ("model.safetensors", "result.json", "recipe.toml", "problem.json", "manifest.json")


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in DECIDED}


def test_the_best_parameters_are_kept_and_the_test_part_judges_them(noisy):
    fitted = fit(noisy, RECIPE, seed=1)
    assert (fitted.best.valid_loss, fitted.best.valid_metric) == risk(fitted.network, noisy.valid, noisy.metric)
    assert fitted.test == risk(fitted.network, noisy.test, noisy.metric)
    assert fitted.best in fitted.curve and fitted.curve[-1].t == 60


def test_without_a_test_part_there_is_no_test(linear):
    untested = tw.Problem(linear.model, linear.train, linear.valid, loss=linear.loss)
    assert fit(untested, RECIPE).test is None


def test_patience_stops_early_and_says_so(noisy):
    fitted = fit(noisy, RECIPE.with_(steps=600), patience=2)
    first_best = max(fitted.curve, key=lambda point: point.valid_metric)
    assert fitted.curve[-1].t == first_best.t + 2 * 25
    assert fitted.notes == [f"stopped after {fitted.curve[-1].t} of 600 steps: 2 measurements without a better one"]


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.with_(ema_decay=0.9)], ids=["plain", "averaged"])
def test_retraining_is_a_new_run_on_all_data_for_the_steps_that_were_best(noisy, recipe):
    fitted = fit(noisy, recipe, seed=2, use_all_data="retrain")
    run = Run(replace(noisy, train=joined(noisy.train, noisy.valid)), recipe, seed=2)
    for _ in run.advance(until=fitted.best.t):
        pass
    run.keep_last()
    assert torch.equal(fitted.network.theta, run.network.theta)
    assert fitted.notes[-1].endswith(f"for the {fitted.best.t} steps that were best")


@pytest.mark.parametrize(("seed", "reached"), [(0, True), (10, False)])
def test_continuing_ends_once_the_validation_part_is_learnt_as_well_as_training_was(overfitted, seed, reached):
    before = fit(overfitted, RECIPE, seed=seed)
    level = risk(before.network, overfitted.train, overfitted.metric)[0]
    after = fit(overfitted, RECIPE, seed=seed, use_all_data="continue")
    assert after.curve == before.curve and before.best.valid_loss > level
    *above, last = [point.valid_loss for point in after.further]
    assert all(loss > level for loss in above) and (last <= level) == reached
    assert last == risk(after.network, overfitted.valid, overfitted.metric)[0]
    assert (after.further[-1].t == before.best.t) != reached, "the cap is as many steps as were best"
    assert ("until" in after.notes[-1]) == reached


def test_a_validation_part_that_is_learnt_already_needs_no_continuing():
    x = torch.linspace(-1, 1, 30)[:, None]
    easy = tw.Problem(
        lambda: torch.nn.Linear(1, 1), (x, 3 * x), (x[13:17], 3 * x[13:17]), loss=torch.nn.functional.mse_loss
    )
    fitted = fit(easy, tw.Recipe("sgd", steps=5, knobs={"lr": 0.1}), use_all_data="continue")
    assert fitted.further == [] and fitted.notes[-1].startswith("not continued on all data")


def moments_of_death(folder: Path, moment: int) -> None:
    """Kills this process at its n-th change to a folder: before a file is opened, renamed or removed."""
    left = [moment]

    def hook(event: str, args: tuple) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir") or (event == "open" and args[2] & os.O_WRONLY)
        if changes and str(folder) in str(args[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def died(work) -> bool:
    """Runs `work` in a process of its own; whether it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forking beside threads
@pytest.mark.parametrize("all_data", [None, "retrain", "continue"])
def test_killed_at_any_write_and_again_it_ends_with_the_same_bits(tmp_path, overfitted, all_data):
    go = partial(fit, overfitted, RECIPE.with_(steps=20), seed=2, use_all_data=all_data, save_every=0)
    go(tmp_path / "whole")
    chance = random.Random(f"killed {all_data}")
    kills = 0
    for repeat in range(3):
        folder = tmp_path / str(repeat)

        def doomed(folder: Path = folder, moment: int = 1) -> None:
            moments_of_death(folder, moment)
            go(folder)

        kills += sum(died(partial(doomed, moment=chance.randrange(1, 40))) for _ in range(3))
        go(folder)
        assert files(folder) == files(tmp_path / "whole")
    assert kills >= 6


def test_how_often_is_saved_changes_nothing(tmp_path, noisy):
    fit(noisy, RECIPE, tmp_path / "often", save_every=0)
    fit(noisy, RECIPE, tmp_path / "seldom", save_every=1000)
    assert files(tmp_path / "often") == files(tmp_path / "seldom")


def interrupted(problem, folder, t: int, stage: str = "train", recipe: tw.Recipe = RECIPE, **options) -> None:
    """Ctrl-C at step t of a stage."""

    def press(moment) -> None:
        if (moment.stage, moment.t) == (stage, t):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=rf"stopped at step {t} of \d+, saved in .*: the same command goes on"):
        fit(problem, recipe, folder, progress=press, **options)


@pytest.mark.parametrize(
    ("stage", "t", "options"),
    [
        ("train", 33, {}),
        ("retrain", 7, {"use_all_data": "retrain"}),
        ("continue", 7, {"use_all_data": "continue", "seed": 10}),
    ],
)
def test_ctrl_c_saves_the_step_that_was_done_and_the_same_call_goes_on(tmp_path, overfitted, stage, t, options):
    interrupted(overfitted, tmp_path / "a", t, stage, **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    heard = []
    fitted = fit(overfitted, RECIPE, tmp_path / "a", progress=heard.append, **options)
    assert heard[0].note == fitted.notes[0] == f"went on from the checkpoint of step {t}"
    assert (heard[1].stage, heard[1].t) == (stage, t + 1)
    fit(overfitted, RECIPE, tmp_path / "whole", **options)
    assert files(tmp_path / "a") == files(tmp_path / "whole")


@pytest.fixture(scope="module")
def eight_by_eight():
    return digits()


@pytest.mark.parametrize("name", WHOLE)
def test_a_rule_for_tensors_or_the_vector_goes_on_with_the_same_bits_too(tmp_path, eight_by_eight, name):
    recipe = tw.Recipe(name, steps=14)
    interrupted(eight_by_eight, tmp_path / "a", 5, recipe=recipe)
    fitted = fit(eight_by_eight, recipe, tmp_path / "a")
    assert fitted.notes[0] == "went on from the checkpoint of step 5"
    fit(eight_by_eight, recipe, tmp_path / "whole")
    assert files(tmp_path / "a") == files(tmp_path / "whole")


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_which_is_said(tmp_path, noisy):
    interrupted(noisy, tmp_path / "a", 20)
    interrupted(noisy, tmp_path / "a", 40)
    newest = max((tmp_path / "a" / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[-1] ^= 16
    newest.write_bytes(content)
    fitted = fit(noisy, RECIPE, tmp_path / "a")
    assert "is damaged" in fitted.notes[0] and fitted.notes[1].endswith("step 20")
    assert torch.equal(fitted.network.theta, fit(noisy, RECIPE).network.theta)


def test_a_finished_fit_is_not_done_again(tmp_path, noisy):
    first = fit(noisy, RECIPE, tmp_path / "a", use_all_data="retrain")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    heard = []
    again = fit(noisy, RECIPE, tmp_path / "a", use_all_data="retrain", progress=heard.append)
    assert heard == [] and stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert (again.curve, again.further, again.best, again.test) == (first.curve, first.further, first.best, first.test)
    assert torch.equal(again.network.theta, first.network.theta)
    assert "finished before" in again.notes[-1]


def test_a_damaged_model_is_made_again_from_the_last_checkpoint(tmp_path, noisy):
    fit(noisy, RECIPE, tmp_path / "a")
    whole = files(tmp_path / "a")
    model = tmp_path / "a" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-5] + b"xxxxx")
    heard = []
    fit(noisy, RECIPE, tmp_path / "a", progress=heard.append)
    assert "is damaged" in heard[0].note and files(tmp_path / "a") == whole


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 1}, "holds a fit of seed = 0, this one has 1: give another --out"),
        ({"patience": 3}, "holds a fit of patience = None, this one has 3"),
        ({"recipe": RECIPE.with_(steps=61)}, "holds a fit of steps = 60, this one has 61"),
    ],
)
def test_a_folder_goes_on_only_with_what_it_was_made_for(tmp_path, linear, other, said):
    fit(linear, RECIPE, tmp_path / "a")
    with pytest.raises(StorageError, match=said):
        fit(linear, **{"recipe": RECIPE, "out": tmp_path / "a", **other})


def test_a_folder_of_another_problem_says_whose_it_is(tmp_path, linear, noisy):
    fit(linear, RECIPE, tmp_path / "a")
    with pytest.raises(StorageError, match="holds a fit of problem = 'line', this one has 'circles'"):
        fit(noisy, RECIPE, tmp_path / "a")
    changed = tw.Problem(linear.model, linear.valid, linear.train, loss=linear.loss, name="line")
    with pytest.raises(StorageError, match="holds a fit of 'line' with other data or another model"):
        fit(changed, RECIPE, tmp_path / "a")


def test_a_folder_of_something_else_is_left_alone(tmp_path, linear):
    (tmp_path / "photo.jpg").write_text("mine")
    with pytest.raises(StorageError, match="holds something else than a fit"):
        fit(linear, RECIPE, tmp_path)
    with pytest.raises(StorageError, match="is a file: give a folder"):
        fit(linear, RECIPE, tmp_path / "photo.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_two_fits_cannot_share_a_folder(tmp_path, linear):
    heard = []

    def second(moment) -> None:
        heard.append(moment)
        if moment.t == 5:
            with pytest.raises(StorageError, match="another process is at work in"):
                fit(linear, RECIPE, tmp_path / "a")

    fit(linear, RECIPE, tmp_path / "a", progress=second)
    assert len(heard) == 60


def test_a_divergence_leaves_the_last_good_checkpoint(tmp_path, linear):
    with pytest.raises(
        DivergenceError,
        match=r"the loss is .* at step \d+ of 500, with lr 1e\+06 and gradient norm .*keeps the state of step",
    ):
        fit(linear, TOO_FAST, tmp_path / "a", save_every=0)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "a" / "checkpoints").iterdir()}
    with pytest.raises(DivergenceError):
        fit(linear, TOO_FAST, tmp_path / "a")
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "a" / "checkpoints").iterdir()}
    assert not (tmp_path / "a" / "model.safetensors").exists()


def test_parameters_that_a_step_made_infinite_are_never_saved(tmp_path, linear):
    with pytest.raises(DivergenceError, match="at step 2 of 500"):
        fit(linear, TOO_FAST.with_(knobs={"lr": 1e60}), tmp_path / "a", save_every=0)
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_a_last_step_into_infinity_is_a_divergence_too(linear):
    with pytest.raises(DivergenceError, match="no longer finite after step 1 of 1, with lr 1e"):
        fit(linear, tw.Recipe("sgd", steps=1, knobs={"lr": 1e60}, schedule="constant"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": 0}, "a patience of 0 was given"),
        ({"min_delta": -1.0}, "min_delta = -1.0 was given"),
        ({"use_all_data": "both"}, "use_all_data = 'both' was given: it is 'retrain', 'continue' or None"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_written(tmp_path, linear, options, said):
    with pytest.raises(AlgorithmError, match=said):
        fit(linear, RECIPE, tmp_path / "a", **options)
    assert not (tmp_path / "a").exists()


def test_the_result_is_json_for_everyone_even_where_a_number_is_none(tmp_path):
    x = torch.linspace(-1, 1, 20)[:, None]
    odd = tw.Problem(
        lambda: torch.nn.Linear(1, 1), (x, x), (x, x), loss=torch.nn.functional.mse_loss,
        metric=tw.metric(lambda outputs, targets: float("nan"), higher_is_better=True),
    )  # fmt: skip
    fitted = fit(odd, RECIPE, tmp_path / "a")
    text = (tmp_path / "a" / "result.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["best"]["valid_metric"] is None
    assert [p.t for p in fit(odd, RECIPE, tmp_path / "a").curve] == [p.t for p in fitted.curve]
