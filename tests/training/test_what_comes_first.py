"""Recipes with pretraining or a curriculum: the same run by hand, resumed anywhere, raced, its steps counted."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg import descend
from thalweg.comparison.spaces import CURRICULUM, PRETRAIN, Dimension
from thalweg.core.errors import AlgorithmError, ProblemError
from thalweg.execution.kernels import executable
from thalweg.learning.batches import Batches
from thalweg.learning.curriculum import PACINGS, Curriculum, easiest_first
from thalweg.training.all_data import held
from thalweg.training.builtin import digits
from thalweg.training.checkpoint import load_state, save_state
from thalweg.training.pretraining import PRETRAINING, stages
from thalweg.training.run import Run


def far_from_the_middle(inputs, targets):
    """Easy examples are those far from the line between the classes."""
    return -(inputs.sum(1) - 1).abs()


def circles(hidden=3, **about):
    """Two classes that overlap; batch normalisation and dropout on the way."""
    random = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 2
    x = torch.randn(90, 2, generator=random) * 0.6 + y[:, None]
    parts = [(x[i::3], y[i::3]) for i in range(3)]

    def model():
        layers = [nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(0.1)]
        for _ in range(hidden - 1):
            layers += [nn.Linear(8, 8), nn.Sigmoid()]
        return nn.Sequential(*layers, nn.Linear(8, 2))

    about = {"difficulty": far_from_the_middle, **about}
    return tw.Problem(model, *parts, metric=tw.accuracy, name="circles", batch_size=8, **about)


ADAM = tw.Recipe("adam", steps=40, batch_size=7, knobs={"lr": 0.02}, warmup=0.1)
RECIPES = {
    **{kind: ADAM.with_(pretrain=kind, pretrain_share=0.5) for kind in PRETRAINING},
    **{pacing: ADAM.with_(curriculum=pacing) for pacing in PACINGS},
    "both": ADAM.with_(pretrain="supervised", curriculum="root", curriculum_mix=0.0),
    "averaged": ADAM.with_(pretrain="denoising", ema_decay=0.9, clip_norm=0.5),
    "tensors": tw.Recipe("muon_adamw", steps=40, batch_size=7, pretrain="unsupervised", pretrain_share=0.4),
    "the whole batch": tw.Recipe("lbfgs", 20, 1000, schedule="constant", pretrain="unsupervised", pretrain_share=0.5),
}


def finished(run):
    for _ in run.advance():
        pass
    return run


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_run_saved_and_resumed_is_the_uninterrupted_one(recipe, tmp_path):
    problem = circles()
    whole = finished(Run(problem, recipe, seed=3, every=6))
    ends = [*whole.ends, recipe.steps // 2]
    for stop in sorted({*ends, ends[0] - 2, ends[0] + 1, ends[-1] + 1}):
        first, resumed = (Run(problem, recipe, seed=3, every=6) for _ in range(2))
        for _ in first.advance(until=stop):
            pass
        save_state(tmp_path / "state", *first.state())
        resumed.load(*load_state(tmp_path / "state"))
        finished(resumed)
        assert resumed.state()[1] == whole.state()[1], stop
        assert same(resumed.state()[0], whole.state()[0]), stop


@pytest.mark.parametrize("kind", PRETRAINING)
def test_a_pretrained_run_is_its_stages_and_then_descent_by_hand(kind):
    problem, recipe = circles(), RECIPES[kind]
    run = finished(Run(problem, recipe, seed=1))
    network, t = problem.network(1), 0
    batches = Batches(problem.train, 7, seed=1)
    few = problem.train.take(torch.arange(2))
    for stage, until in zip(stages(network, few, kind, seed=1), [6, 13, 20], strict=False):
        seen = stage.batches((batches[i] for i in range(t, until)), t)
        rule = executable(recipe.rule(), stage.network.theta).rule
        for step in descend(stage.network, rule, seen, t=t, seed=1, **recipe.schedules()):
            t = step.t
    rule = executable(recipe.rule(), network.theta).rule
    rest = (batches[i] for i in range(20, 40))
    for step in descend(network, rule, rest, t=t, seed=1, **recipe.schedules()):  # noqa: B007
        pass
    assert torch.equal(run.network.theta, network.theta) and step.t == 40


def test_steps_and_lr_are_those_of_the_recipe_pretraining_included():
    recipe = RECIPES["unsupervised"]
    run = Run(circles(), recipe, seed=0)
    steps = list(run.advance())
    lr = recipe.schedules()["lr"]
    assert [step.t for step in steps] == list(range(1, 41)) and run.ends == [6, 13, 20] and run.pretrained == 20
    assert [step.knobs["lr"] for step in steps] == [lr(t) for t in range(40)]
    assert [len(step.g) for step in steps[:7]] != [len(step.g) for step in steps[6:13]]


def test_measuring_more_often_does_not_change_a_pretrained_run():
    for name in ("supervised", "averaged"):
        often, seldom = (finished(Run(circles(), RECIPES[name], seed=0, every=every)) for every in (1, 20))
        assert torch.equal(often.network.theta, seldom.network.theta)
        assert [p[2:] for p in often.curve if p.t % 20 == 0] == [p[2:] for p in seldom.curve]


def test_a_run_with_a_curriculum_has_its_batches_and_all_examples_after_half_of_its_steps():
    problem, recipe = circles(), ADAM.with_(curriculum="linear", curriculum_start=0.3, curriculum_mix=0.1)
    order = easiest_first(far_from_the_middle, problem.train)
    assert order.tolist() == sorted(range(30), key=lambda i: float(far_from_the_middle(*problem.train.take([i]))))
    by_hand = Curriculum(Batches(problem.train, 7, 2), order, over=20, start=0.3, mix=0.1)
    run = Run(problem, recipe, seed=2)
    assert all(torch.equal(step.batch.inputs, by_hand[step.t - 1].inputs) for step in run.advance())
    assert torch.equal(by_hand[20].inputs, Batches(problem.train, 7, 2)[0].inputs)


def test_a_deep_network_of_sigmoids_learns_where_it_did_not():
    """As in 2006: five hidden layers, momentum, at a lr at which the whole stays at chance."""
    layers = [part for i in range(5) for part in (nn.Linear(64, 64), nn.Sigmoid())]
    problem = replace(digits(), model=nn.Sequential(*layers, nn.Linear(64, 10)))
    recipe = tw.Recipe("momentum", steps=900, knobs={"lr": 0.5})
    plain, pretrained = (
        finished(Run(problem, recipe.with_(pretrain=kind, pretrain_share=0.5), seed=0)).best.valid_metric
        for kind in (None, "supervised")
    )
    assert plain < 0.15 and pretrained > 0.9


# fit


@pytest.mark.parametrize("name", ["denoising", "linear", "both"])
@pytest.mark.parametrize("t", [3, 13, 30])
def test_ctrl_c_anywhere_and_the_same_call_ends_with_the_same_bits(tmp_path, name, t):
    problem, recipe = circles(), RECIPES[name]

    def stop(moment):
        if moment.t == t and not moment.note:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {t} of 40"):
        tw.fit(problem, recipe, tmp_path / "a", progress=stop)
    resumed, whole = tw.fit(problem, recipe, tmp_path / "a"), tw.fit(problem, recipe, tmp_path / "b")
    assert torch.equal(resumed.network.theta, whole.network.theta) and resumed.curve == whole.curve
    assert tw.Recipe.load(tmp_path / "a" / "recipe.toml") == recipe
    assert (tmp_path / "a" / "result.json").read_bytes() == (tmp_path / "b" / "result.json").read_bytes()


def test_patience_waits_for_fine_tuning_and_pretraining_is_said():
    recipe = ADAM.with_(pretrain="unsupervised", pretrain_share=0.8, steps=200, schedule="constant", knobs={"lr": 1e-9})
    fitted = tw.fit(circles(), recipe, patience=2)
    assert fitted.curve[-1].t == 184  # 160 steps of pretraining, then three measurements, the best the first
    assert fitted.notes[0] == "the first 160 of 200 steps pretrained 3 blocks, unsupervised"


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.05, "the first 2 of 40 steps pretrained 2 blocks, supervised; 1 had no step"),
     (0.0, "the first 0 of 40 steps pretrained 0 blocks, supervised; 3 had no step")],
)  # fmt: skip
def test_blocks_for_which_there_is_no_step_are_said(share, said):
    run = Run(circles(), ADAM.with_(pretrain="supervised", pretrain_share=share), seed=0)
    assert run.notes() == [said]


def test_what_goes_on_after_a_fit_has_neither_before_it():
    fitted = tw.fit(circles(), RECIPES["both"], use_all_data="continue")
    assert fitted.further or "not continued" in fitted.notes[-1]
    left = held(RECIPES["both"], 5)
    assert (left.steps, left.pretrain, left.curriculum) == (5, None, None)
    again = tw.fit(circles(), RECIPES["both"], use_all_data="retrain")
    assert again.notes[-1].startswith("retrained from the start on training and validation data")


def test_scores_of_the_training_part_do_not_do_for_all_the_data():
    problem = circles(difficulty=torch.arange(30.0))
    assert tw.fit(problem, RECIPES["linear"]).best.t <= 40
    with pytest.raises(ProblemError, match="a difficulty of the training part alone: give a function"):
        tw.fit(problem, RECIPES["linear"], use_all_data="retrain")


def test_another_difficulty_is_another_problem():
    plain, scored, other = (circles(difficulty=d) for d in (None, torch.arange(30.0), torch.arange(30.0).flip(0)))
    assert len({problem.fingerprint() for problem in (plain, scored, other)}) == 3
    assert circles(difficulty=torch.arange(30.0)).fingerprint() == scored.fingerprint()


# Recipes


@pytest.mark.parametrize("recipe", [*RECIPES.values(), ADAM], ids=[*RECIPES, "neither"])
def test_what_is_saved_is_loaded_and_nothing_is_said_of_what_is_not_there(tmp_path, recipe):
    recipe.save(tmp_path / "recipe.toml")
    assert tw.Recipe.load(tmp_path / "recipe.toml") == recipe
    text = recipe.text()
    assert ("pretrain" in text) == (recipe.pretrain is not None)
    assert ("curriculum" in text) == (recipe.curriculum is not None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pretrain": "greedy"}, "pretrain = 'greedy': there are supervised, unsupervised, denoising"),
        ({"curriculum": "quadratic"}, "curriculum = 'quadratic': there are linear, root, exponential, step"),
        ({"pretrain": True}, "pretrain = True: it must be a name"),
        ({"pretrain_share": 1.0}, "pretrain_share = 1.0: it is a share, 0 to under 1"),
        ({"curriculum_start": 0.0}, "curriculum_start = 0.0: it is a share, above 0"),
        ({"curriculum_mix": 1.5}, "curriculum_mix = 1.5: it is a share, 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(fields, said):
    with pytest.raises(AlgorithmError, match=said):
        ADAM.with_(**fields)


def test_what_a_problem_does_not_know_is_asked_for_before_anything_is_written(tmp_path):
    with pytest.raises(ProblemError, match=r"not how difficult an example is: give Problem\(difficulty=\)"):
        tw.fit(circles(difficulty=None), RECIPES["linear"], tmp_path / "a")
    with pytest.raises(ProblemError, match="batches of all 30 examples"):
        tw.fit(circles(), RECIPES["linear"].with_(batch_size=30), tmp_path / "a")
    with pytest.raises(ProblemError, match="none below the last can be trained"):
        tw.fit(replace(circles(), model=nn.Linear(2, 2), blocks=lambda m: [m]), RECIPES["both"], tmp_path / "a")
    assert not (tmp_path / "a").exists()


# compare


SPACES = {"adam": [Dimension("lr", 1e-3, 1e-1), PRETRAIN], "sgd": [Dimension("lr", 1e-2, 1.0), CURRICULUM]}


def test_the_first_choice_stands_for_a_default_that_is_none_of_them():
    assert Dimension("pretrain", scale="choice", choices=("supervised", "denoising")).of(None) == 0.25
    assert [PRETRAIN.at(PRETRAIN.of(kind)) for kind in (None, *PRETRAINING)] == [None, *PRETRAINING]
    assert [CURRICULUM.at(CURRICULUM.of(pacing)) for pacing in (None, *PACINGS)] == [None, *PACINGS]


def test_compare_races_them_where_a_space_has_them(tmp_path):
    study = tw.compare(circles(), trials=8, spaces=SPACES, out=tmp_path / "a")
    tried = {(t.algorithm, t.recipe.pretrain, t.recipe.curriculum) for t in study.trials}
    assert {pretrain for _, pretrain, _ in tried} >= {None, "supervised"}
    assert {curriculum for *_, curriculum in tried} >= {None, "linear"}
    assert {t.outcome for t in study.trials} <= {"finished", "cut"}
    assert tw.Recipe.load(tmp_path / "a" / "recipe.toml") == study.recipe
    assert "pretrain supervised" in (tmp_path / "a" / "report.html").read_text()
    assert tw.compare(circles(), trials=8, spaces=SPACES, out=tmp_path / "a").recipe == study.recipe
    # A trial is cut among those that begin as it does: at the same step, others are elsewhere in their runs.
    for name, sort in (("adam", "pretrain"), ("sgd", "curriculum")):
        screened = [t for t in study.of("screening") if t.algorithm == name]
        ended = {getattr(t.recipe, sort) for t in screened if t.outcome == "finished" and not t.control}
        assert ended == {getattr(t.recipe, sort) for t in screened} and len(ended) > 1
