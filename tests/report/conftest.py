"""A study as compare would write it, through the record's own API, with hostile text wherever users can put some."""

import math
from pathlib import Path

import numpy as np
import pytest

from thalweg.comparison.result import Study
from thalweg.comparison.spaces import quasi_random, recipe_at, space
from thalweg.comparison.study import Record, Trial
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

ALGORITHMS = ("sgd", "momentum", "adam", "adamw", "lion")
STEPS, EVERY = 1200, 50
HOSTILE = "<script>alert(1)</script>\"'</script><img src=x onerror=alert(2)>\u2028{{ 7 * 7 }} größe→"

# Of each algorithm: the lr it likes best (as log10), how steep its valley is, the error that it gets down to.
_NATURE = {
    "sgd": (-0.6, 0.5, 0.030),
    "momentum": (-1.6, 0.6, 0.022),
    "adam": (-2.3, 0.5, 0.021),
    "adamw": (-2.2, 0.5, 0.020),
    "lion": (-3.4, 0.9, 0.028),
}


def curve(recipe: Recipe, seed: int, until: int = STEPS) -> list[Point]:
    """An invented learning curve: the further lr is from what the algorithm likes, the worse."""
    liked, steepness, floor = _NATURE[recipe.algorithm]
    rng = np.random.default_rng([seed, round(recipe.knobs["lr"] * 1e6)])
    off = math.log10(recipe.knobs["lr"]) - liked
    end = min(0.9, floor * 10 ** (steepness * off * off) * math.exp(rng.normal(0, 0.06)))
    points = []
    for t in range(EVERY, until + 1, EVERY):
        error = end + (0.9 - end) * math.exp(-t / 90) * math.exp(rng.normal(0, 0.1))
        accuracy = round(1 - error * math.exp(rng.normal(0, 0.03)), 4)
        points.append(Point(t, 2.3 * error**1.4, 2.6 * error + 0.01, accuracy))
    return points


def trial(key: str, recipe: Recipe, seed: int, until: int = STEPS, **how) -> Trial:
    """A trial of the invented problem; above a certain lr it diverges."""
    stage, algorithm = key.split("/")[:2]
    if math.log10(recipe.knobs["lr"]) > _NATURE[algorithm][0] + 0.75:
        message = f"the loss is nan at step 37, with lr {recipe.knobs['lr']:.3g}: try a smaller lr {HOSTILE}"
        return Trial(key, stage, algorithm, recipe, seed, "diverged", 37, [], 0.02, message)
    points = curve(recipe, seed, until)
    how = {"outcome": "finished" if until == STEPS else "cut", **how}
    return Trial(key, stage, algorithm, recipe, seed, steps=until, curve=points, cpu_seconds=until * 3e-4, **how)


def search(name: str, trials: int) -> list[Trial]:
    """Screening: every third point runs to its end, one of the others is a control, the rest is cut."""
    searched = space(name, trials)
    made = []
    for i, u in enumerate(quasi_random(trials, len(searched), seed=7)):
        recipe = recipe_at(Recipe(name, STEPS), searched, u)
        until, control = (STEPS, i == 4) if i % 3 == 0 or i == 4 else (300, False)
        made.append(trial(f"screening/{name}/{i:03d}", recipe, 11, until, control=control))
    return made


def write(folder: Path, facts: dict, trials: list[Trial]) -> Study:
    """A study's folder with these facts and trials."""
    record = Record(folder / "study.db")
    for name, value in facts.items():
        record.note(name, value)
    for each in trials:
        record.write(each)
    record.close()
    return Study.open(folder)


def facts_of_problem() -> dict:
    """What is known before the race."""
    return {
        "problem": {
            "name": f"houses {HOSTILE}", "source": "houses.csv --target 'price <b>'", "fingerprint": "0123456789abcdef",
            "metric": {"name": "accuracy", "higher_is_better": True}, "loss": "cross_entropy", "chance": 2.3026,
            "about": {"task": "classification", "seed": 0, "notes": [f"column {HOSTILE} was dropped"]},
            "sizes": {"train": 1078, "valid": 359, "test": 360}, "parameters": 26122,
            "model": "Sequential(\n  (0): Linear(in_features=64, out_features=128)\n)",
        },
        "settings": {"algorithms": list(ALGORITHMS), "seed": 0, "budget": None, "trials": 16, "spaces": {}},
        "command": "thalweg compare houses.csv --target 'price <b>' --trials 16",
    }  # fmt: skip


def facts_of_end() -> dict:
    """What is known after it."""
    return {
        "sanity": {
            "checks": [
                {"name": "first loss", "ok": True, "text": "the first loss is 2.31; by frequencies alone 2.3026"},
                {"name": "a few examples", "ok": False, "text": f"8 examples: the loss stays at 1.9 {HOSTILE}"},
            ],
            "steps_per_second": 3000.0,
        },
        "plan": {"steps": STEPS, "batch_size": 32, "trials": 16, "rungs": [75, 300, 1200], "text": ["80 trials"]},
        "pruning": {
            "text": "41 trials were cut early. 5 of them, drawn at random, were run to their end all the same: 0 would "
            "have beaten the survivors of its algorithm (95 % interval of the share: 0% to 52%).",
            "controls": 5, "would_have_won": 0, "low": 0.0, "high": 0.52,
        },
        "remarks": [
            {"kind": "edge", "text": "lion: its best lr, 1e-05, is the smallest that was tried.", "algorithm": "lion"},
            {"kind": "validation set", "text": f"359 examples say ±0.014 {HOSTILE}", "algorithm": None},
        ],
        "final": {
            "algorithm": "adam", "seed": 99, "valid_loss": 0.071, "valid_metric": 0.9805, "test_loss": 0.083,
            "test_metric": 0.9722, "steps": STEPS, "best_step": 1100, "train_loss": 0.004,
        },
        "machine": {
            "cpu": f"Some CPU {HOSTILE}", "cores": 2, "system": "Linux", "python": "3.11.2", "torch": "2.13.0",
            "numpy": "2.4.0", "numba": "0.65.0", "thalweg": "0.1.0", "execution": {"adam": "numba", "sgd": "numba"},
        },
        "times": {"wall_seconds": 148.2, "cpu_seconds": 281.0},
    }  # fmt: skip


def confirmed(searched: list[Trial], seeds: int = 5) -> list[Trial]:
    """The best of each algorithm on fresh seeds."""
    made = []
    for name in ALGORITHMS:
        ended = [t for t in searched if t.algorithm == name and t.outcome == "finished" and not t.control]
        best = max(ended, key=lambda t: max(p.valid_metric for p in t.curve))
        made += [trial(f"confirmation/{name}/{i:02d}", best.recipe, 100 + i) for i in range(seeds)]
    return made


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    """Five algorithms with 16 trials each, confirmed on five seeds, come to its end."""
    searched = [t for name in ALGORITHMS for t in search(name, 16)]
    searched[3] = Trial(**{**vars(searched[3]), "outcome": "failed", "curve": [], "message": HOSTILE})
    facts = {**facts_of_problem(), **facts_of_end()}
    return write(tmp_path_factory.mktemp("study"), facts, [*searched, *confirmed(searched)])


@pytest.fixture(scope="session")
def stopped(tmp_path_factory) -> Study:
    """A study that was stopped during screening."""
    return write(tmp_path_factory.mktemp("stopped"), facts_of_problem(), search("adam", 4))
