"""A recipe says everything but the seed; what it says wrong is an error that says what is right."""

import pytest

import thalweg as tw
from thalweg.core.errors import AlgorithmError, StorageError

FULL = tw.Recipe(
    "adam", 200, batch_size=16, knobs={"lr": 0.01, "beta1": 0.8}, schedule="linear_decay", warmup=0.1, clip_norm=1.0,
    ema_decay=0.99, init_gain=0.5, drop_last=True,
)  # fmt: skip


@pytest.mark.parametrize("recipe", [FULL, tw.Recipe("sgd", 1)], ids=["everything", "the least"])
def test_what_is_saved_is_loaded(tmp_path, recipe):
    recipe.save(tmp_path / "recipe.toml", comment="found by compare\non digits")
    assert tw.Recipe.load(tmp_path / "recipe.toml") == recipe
    assert (tmp_path / "recipe.toml").read_text().startswith("# found by compare\n# on digits\n")


def test_lr_rises_then_follows_its_schedule_to_the_end_of_the_run():
    lr = tw.Recipe("sgd", 100, knobs={"lr": 1.0}, warmup=0.1).schedules()["lr"]
    values = [lr(t) for t in range(100)]
    assert values[:10] == sorted(values[:10]) and values[10:] == sorted(values[10:], reverse=True)
    assert max(values) == 1.0 and values[-1] < 0.01


def test_strategies_wrap_the_algorithm_in_order():
    assert FULL.with_(knobs={"weight_decay": 0.1}).rule().name == "averaged_exponentially(clipped(decayed(adam)))"
    assert tw.Recipe("adamw", 10, knobs={"weight_decay": 0.1}).rule().name == "adamw"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"algorithm": "adamm"}, "no algorithm is called 'adamm'"),
        ({"knobs": {"beta": 0.9}}, "adam has no knob 'beta': its knobs are beta1, beta2, eps, lr"),
        ({"schedule": "cosin"}, "no schedule is called 'cosin': there are .*cosine"),
        ({"steps": 0}, "steps = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"warmup": 1.0}, "warmup = 1.0"),
    ],
)
def test_what_cannot_be_is_refused(fields, said):
    with pytest.raises(AlgorithmError, match=said):
        tw.Recipe(**{"algorithm": "adam", "steps": 10, **fields})


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("algorithm = ", StorageError, "is not a recipe"),
        ("\x00", StorageError, "is not a recipe"),
        ("steps = 3", AlgorithmError, "missing: algorithm; a recipe has algorithm, steps"),
        ('algorithm = "adam"\nsteps = 3\nepochs = 2', AlgorithmError, "unknown: epochs"),
        ('algorithm = "adam"\nsteps = "3"', AlgorithmError, "steps"),
        ('algorithm = "adam"\nsteps = 3\n[knobs]\nlr = "high"', AlgorithmError, "lr"),
        ('algorithm = "adam"\nsteps = 3\nknobs = 3', AlgorithmError, "knobs"),
    ],
)
def test_a_file_that_is_no_recipe_says_what_is_wrong(tmp_path, text, error, said):
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(error, match=said):
        tw.Recipe.load(tmp_path / "recipe.toml")


def test_a_missing_recipe_says_where_they_come_from(tmp_path):
    with pytest.raises(StorageError, match=r"there is no recipe at .*: compare writes one"):
        tw.Recipe.load(tmp_path / "recipe.toml")
