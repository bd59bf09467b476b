"""Values in words, for people: what the page and the figures say about a number, a recipe, a trial."""

from __future__ import annotations

import math
from typing import Any

from thalweg.comparison.study import Trial
from thalweg.core.measured import Measured
from thalweg.report.scales import label
from thalweg.training.recipe import Recipe

NOTHING = "–"  # what is said where there is no number


def number(value: float | None, digits: int = 4) -> str:
    """A number to a few digits, or a dash.

    >>> number(0.97654), number(None), number(float("nan")), number(float("inf"))
    ('0.9765', '–', '–', '∞')
    """
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return label(float(f"{value:.{digits}g}"))


def probability(p: float) -> str:
    """A p value.

    >>> probability(0.00001), probability(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def share(part: int, whole: int) -> str:
    """A fraction as a count.

    >>> share(1, 3)
    '1 of 3'
    """
    return f"{part} of {whole}" if whole else NOTHING


def percent(part: float) -> str:
    """A share as percent.

    >>> percent(0.0312), percent(1.0)
    ('3.1 %', '100 %')
    """
    return f"{number(100 * part, 2)} %"


def spoken(figure: Measured | None) -> str:
    """A measured figure with its interval, or a dash; only the value where the interval is a point to three digits.

    >>> spoken(Measured(0.5, 0.25, math.inf, 8)), spoken(Measured(2.0, 1.9999, 2.0001)), spoken(None)
    ('0.5 (0.25 to ∞)', '2', '–')
    """
    if figure is None:
        return NOTHING
    value, low, high = (number(each, 3) for each in figure[:3])
    return value if low == high else f"{value} ({low} to {high})"


def rate(recipe: Recipe) -> float:
    """The learning rate of a recipe, or what its algorithm has in its place; the default where it does not say."""
    return recipe.leading[1]


def knobs(recipe: Recipe) -> str:
    """What a recipe says beside lr (or what its algorithm has in its place), in a line.

    >>> knobs(Recipe("adam", steps=10, knobs={"lr": 0.1, "beta1": 0.8}, warmup=0.05))
    'beta1 0.8, warmup 0.05'
    >>> knobs(Recipe("adam", steps=10, pretrain="denoising", pretrain_share=0.4))
    'pretrain denoising, pretrain_share 0.4'
    """
    leading, _ = recipe.leading
    said: dict[str, Any] = {name: value for name, value in recipe.knobs.items() if name != leading}
    said |= {name: getattr(recipe, name) for name in _STRATEGIES if getattr(recipe, name) != getattr(Recipe, name)}
    return ", ".join(
        f"{name} {value if isinstance(value, str) else number(float(value))}" for name, value in said.items()
    )


def outcome(trial: Trial) -> str:
    """What became of a trial."""
    return f"{trial.outcome}, a control" if trial.control else trial.outcome


_STRATEGIES = (
    "warmup", "clip_norm", "ema_decay", "init", "init_gain",
    "pretrain", "pretrain_share", "curriculum", "curriculum_start", "curriculum_mix",
)  # fmt: skip
