"""Using the validation data too, once it has chosen when to stop (Algorithms 7.2 and 7.3): what `fit` needs of them."""

from __future__ import annotations

import math
from typing import Any

from thalweg.training.recipe import Recipe
from thalweg.training.run import Run

LEAST_LR = 0.1  # of the recipe's lr: less, and training that continues after a schedule has ended would not move


def held(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for `steps` more steps after as many: lr stays where it was, and does not vanish with its schedule.

    >>> held(Recipe("sgd", steps=100, knobs={"lr": 0.5}), 100).knobs
    {'lr': 0.05}
    """
    recipe = recipe.with_(pretrain=None, curriculum=None)  # what comes before, it has had
    name, top = recipe.leading
    if name != "lr":
        return recipe.with_(steps=steps)
    lr: Any = recipe.schedules()["lr"]
    last = max(lr(steps - 1) if callable(lr) else lr, LEAST_LR * top)
    return recipe.with_(steps=steps, schedule="constant", warmup=0.0, knobs={**recipe.knobs, "lr": last})


def said(stage: str, run: Run, level: float | None, reached: bool) -> str:
    """What a stage on all the data came to, in words; `level` is the training loss that Algorithm 7.3 wants to meet."""
    if stage == "retrain":
        return f"retrained from the start on training and validation data for the {run.t} steps that were best"
    if run.t == 0:
        return f"not continued on all data: the validation loss was under the training loss ({level:.4g}) already"
    loss = run.curve[-1].valid_loss if run.curve else math.nan
    how = "until" if reached else "without"
    fell = f"the loss on the validation part ({loss:.4g}) {'fell' if reached else 'falling'}"
    steps = "1 step" if run.t == 1 else f"{run.t} steps"
    return f"continued on all data for {steps}, {how} {fell} under the old training loss ({level:.4g})"
