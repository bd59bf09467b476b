"""The published search spaces: which knobs of an algorithm are searched, where, and from how many trials on.

The boxes follow the target-setting spaces of the AlgoPerf benchmark and the Deep Learning Tuning Playbook, for
small and medium models and a loss that is a mean over examples. lr comes first; what follows is searched only
when an algorithm has enough trials for it (playbook: under 10 lr alone, from 10 on momentum or 1 - beta1, from 25
on eps, well above 25 beta2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import qmc

from thalweg.algorithms import SECOND_ORDER, algorithm
from thalweg.core.errors import AlgorithmError
from thalweg.learning.curriculum import PACINGS
from thalweg.training.pretraining import PRETRAINING
from thalweg.training.recipe import Recipe

SECOND, THIRD, FOURTH = 10, 25, 50  # trials an algorithm needs before more knobs are worth searching


@dataclass(frozen=True)
class Dimension:
    """One searched knob, or field of a recipe: where a point u in [0, 1] lies.

    `scale` is "log"; "one_minus" (1 - value is log-uniform from low to high); "linear"; or "choice" among
    `choices`. `per` divides: the box of an lr with `per="momentum"` is that of lr / (1 - momentum), the step that
    the velocity builds up to, because that is what momentum leaves alone.

    >>> Dimension("lr", 1e-4, 1e-2).at(0.5)
    0.001
    """

    knob: str
    low: float = 0.0
    high: float = 1.0
    scale: str = "log"
    choices: tuple[Any, ...] = ()
    from_trials: int = 0
    per: str | None = None

    def at(self, u: float) -> Any:
        """The value at u; outside [0, 1] the box goes on, which is how it is widened."""
        if self.scale == "choice":
            return self.choices[min(int(max(u, 0.0) * len(self.choices)), len(self.choices) - 1)]
        if self.scale == "linear":
            return self.low + u * (self.high - self.low)
        value = _rounded(math.exp(math.log(self.low) + u * math.log(self.high / self.low)))
        return _rounded(1 - value, 8) if self.scale == "one_minus" else value

    def of(self, value: Any) -> float:
        """Where a value lies: the inverse of `at`."""
        if self.scale == "choice":
            place = self.choices.index(value) if value in self.choices else 0  # a default that is none of them
            return (place + 0.5) / len(self.choices)
        if self.scale == "linear":
            return float((value - self.low) / (self.high - self.low))
        value = 1 - value if self.scale == "one_minus" else value
        if value <= 0:  # a weight decay of 0, say: no logarithm, but next to the smallest
            return 0.0
        return math.log(value / self.low) / math.log(self.high / self.low)


def _rounded(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")  # what a person can type again, exactly


_MOMENTUM = (
    Dimension("lr", 1e-3, 10.0, per="momentum"),
    Dimension("momentum", 5e-3, 0.3, "one_minus", from_trials=SECOND),
)
_BETA1 = Dimension("beta1", 2e-2, 0.5, "one_minus", from_trials=SECOND)
# The published box of eps ends at 1; there lr must grow with it, and small budgets are wasted on the corner.
_EPS = Dimension("eps", 1e-10, 1e-2, from_trials=THIRD)
_BETA2 = Dimension("beta2", 1e-3, 0.2, "one_minus", from_trials=FOURTH)
_RMS = (Dimension("lr", 1e-5, 1e-1), Dimension("alpha", 1e-3, 0.3, "one_minus", from_trials=SECOND), _EPS)
_RMS_MOMENTUM = (*_RMS, Dimension("momentum", 5e-3, 0.5, "one_minus", from_trials=FOURTH))
_ADAM_LR = Dimension("lr", 1e-4, 3e-2)
_ADAM = (_ADAM_LR, _BETA1, _EPS, _BETA2)
_WARMUP = Dimension("warmup", scale="choice", choices=(0.0, 0.05), from_trials=SECOND)
_MUON = (Dimension("lr", 3e-3, 1e-1), Dimension("momentum", 1e-2, 0.3, "one_minus", from_trials=SECOND))

Space = Sequence[Dimension]
SPACES: dict[str, Space] = {
    "sgd": (Dimension("lr", 1e-3, 3.0),),
    "momentum": _MOMENTUM,
    "dampened_momentum": (*_MOMENTUM, Dimension("dampening", 0.0, 0.9, "linear", from_trials=THIRD)),
    "nesterov": _MOMENTUM,
    "asgd": (Dimension("lr", 1e-3, 3.0), Dimension("lambd", 1e-6, 1e-2, from_trials=SECOND)),
    "adagrad": (
        Dimension("lr", 1e-3, 1.0),
        Dimension("initial_accumulator_value", scale="choice", choices=(0.0, 0.1), from_trials=SECOND),
    ),
    "adadelta": (
        Dimension("lr", 1e-1, 30.0),
        Dimension("rho", 1e-3, 0.3, "one_minus", from_trials=SECOND),
        Dimension("eps", 1e-8, 1e-3, from_trials=THIRD),
    ),
    "rmsprop": _RMS,
    "rmsprop_momentum": _RMS_MOMENTUM,
    "rmsprop_nesterov": _RMS_MOMENTUM,
    "rmsprop_centred": _RMS,
    "adam": _ADAM,
    "adamw": (
        _ADAM_LR,
        _BETA1,
        Dimension("weight_decay", 1e-3, 1.0, from_trials=SECOND),
        _WARMUP,
        _EPS,
        _BETA2,
    ),
    "amsgrad": _ADAM,
    "adamax": (Dimension("lr", 3e-4, 1e-1), _BETA1, _EPS, _BETA2),
    "nadam": _ADAM,
    "radam": _ADAM,
    "rprop": (
        Dimension("lr", 1e-5, 1e-1),
        Dimension("step_max", 1e-3, 1.0, from_trials=SECOND),  # in minibatches signs are noisy: steps must stay short,
        Dimension("eta_minus", 0.5, 0.95, "linear", from_trials=SECOND),  # and shrink slowly
    ),
    "lion": (
        Dimension("lr", 1e-5, 1e-2),
        Dimension("weight_decay", 1e-2, 10.0, from_trials=SECOND),
        Dimension("beta1", 2e-2, 0.5, "one_minus", from_trials=THIRD),
    ),
    "adan": (
        _ADAM_LR,
        Dimension("weight_decay", 1e-3, 1.0, from_trials=SECOND),
        Dimension("beta1", 1e-2, 0.3, "one_minus", from_trials=THIRD),
        Dimension("beta3", 1e-3, 0.2, "one_minus", from_trials=FOURTH),
    ),
    "adabelief": (_ADAM_LR, _BETA1, Dimension("eps", 1e-18, 1e-6, from_trials=THIRD), _BETA2),
    "adam_atan2": (_ADAM_LR, _BETA1, _BETA2),
    "ademamix": (
        _ADAM_LR,
        _BETA1,
        Dimension("alpha", 1.0, 10.0, from_trials=SECOND),
        Dimension("beta3", 1e-4, 2e-2, "one_minus", from_trials=THIRD),
        _BETA2,
    ),
    "adopt": (_ADAM_LR, _BETA1, Dimension("beta2", 1e-4, 0.2, "one_minus", from_trials=THIRD)),
    "schedule_free_sgd": (
        Dimension("lr", 1e-2, 10.0),
        Dimension("momentum", 2e-2, 0.5, "one_minus", from_trials=SECOND),
        _WARMUP,
    ),
    "schedule_free_adamw": (
        Dimension("lr", 3e-4, 1e-1),
        _BETA1,
        Dimension("weight_decay", 1e-3, 1.0, from_trials=SECOND),
        _WARMUP,
        _EPS,
        _BETA2,
    ),
    "adafactor": (
        Dimension("lr", 1e-2, 0.3),  # a fraction of each tensor's own size
        Dimension("clip", 0.5, 4.0, from_trials=SECOND),
        Dimension("beta2_decay", -1.0, -0.5, "linear", from_trials=THIRD),
    ),
    "lars": (
        Dimension("lr", 0.1, 15.0),
        Dimension("momentum", 5e-3, 0.3, "one_minus", from_trials=SECOND),
        Dimension("weight_decay", 1e-5, 1e-2, from_trials=THIRD),
    ),
    "lamb": (
        Dimension("lr", 1e-3, 1e-1),
        _BETA1,
        Dimension("weight_decay", 1e-3, 1.0, from_trials=THIRD),
        _BETA2,
    ),
    "muon": _MUON,
    "muon_adamw": (
        *_MUON,
        Dimension("adam_lr", 1e-4, 3e-2, from_trials=SECOND),
        Dimension("weight_decay", 1e-3, 1.0, from_trials=THIRD),
    ),
    "shampoo": (
        Dimension("lr", 1e-3, 1e-1),
        _BETA1,
        Dimension("shampoo_beta", 1e-3, 0.2, "one_minus", from_trials=THIRD),
        _BETA2,
    ),
    "soap": (
        Dimension("lr", 1e-3, 1e-1),
        _BETA1,
        Dimension("shampoo_beta", 1e-3, 0.2, "one_minus", from_trials=THIRD),
        _BETA2,
    ),
    "psgd_kron": (
        Dimension("lr", 1e-3, 3e-2),
        _BETA1,
        Dimension("precondition_lr", 1e-2, 0.5, from_trials=THIRD),
    ),
    # These three find their own lr: what is searched of it is a factor.
    "dog": (Dimension("lr", 0.5, 1.2), Dimension("reps_rel", 1e-6, 1e-3, from_trials=SECOND)),
    "dadapt_adam": (Dimension("lr", 0.1, 3.0), _BETA1, _EPS, _BETA2),
    "prodigy": (
        Dimension("lr", 0.1, 3.0),
        Dimension("weight_decay", 1e-3, 1.0, from_trials=SECOND),
        _BETA1,
        _BETA2,
    ),
    "sophia": (
        Dimension("lr", 5e-4, 1e-2),
        Dimension("gamma", 1e-3, 1.0, from_trials=SECOND),
        Dimension("beta1", 1e-2, 0.3, "one_minus", from_trials=THIRD),
    ),
    "sam": (
        Dimension("lr", 1e-3, 1.0, per="momentum"),
        Dimension("momentum", 5e-3, 0.3, "one_minus", from_trials=SECOND),
        Dimension("rho", 1e-2, 0.2, from_trials=SECOND),
    ),
}

# Of an algorithm that searches along a line lr is only the first step tried; of one that searches within a region, the
# radius (or its weight) only the first one. Both are found again at every step, so that there is little to search.
_FIRST = Dimension("lr", 0.1, 10.0)
_RADIUS = (Dimension("radius", 0.1, 10.0),)
_PAIRS = Dimension("history_size", scale="choice", choices=(5.0, 10.0, 20.0, 50.0), from_trials=SECOND)
_KFAC = (Dimension("lr", 1e-2, 1.0), Dimension("damping", 1e-3, 1.0))
SPACES |= {
    "newton": (_FIRST,),
    "newton_cg": (_FIRST,),
    "saddle_free_newton": (_FIRST, Dimension("damping", 1e-6, 1e-1, from_trials=SECOND)),
    "cubic_newton": (Dimension("sigma", 0.1, 10.0),),
    "trust_ncg": _RADIUS,
    "trust_krylov": _RADIUS,
    "trust_exact": _RADIUS,
    "dogleg": _RADIUS,
    "fletcher_reeves": (_FIRST,),
    "polak_ribiere": (_FIRST,),
    "hestenes_stiefel": (_FIRST,),
    "dai_yuan": (_FIRST,),
    "hager_zhang_cg": (_FIRST,),
    "bfgs": (_FIRST,),
    "lbfgs": (_FIRST, _PAIRS),
    "lbfgsb": (_FIRST, _PAIRS),
    "stochastic_lbfgs": (Dimension("lr", 1e-2, 2.0), _PAIRS),
    "gauss_newton": (_FIRST,),
    "levenberg_marquardt": _RADIUS,
    "hessian_free": (_FIRST, Dimension("damping", 1e-2, 1e2)),
    "natural_gradient": _KFAC,
    "kfac": _KFAC,
    "ekfac": _KFAC,
    "coordinate_descent": (_FIRST,),
    "greedy_coordinate_descent": (_FIRST,),
    "random_coordinate_descent": (_FIRST,),
}

# Not searched unless one asks for it: `spaces={"adam": [*SPACES["adam"], PRETRAIN]}`.
PRETRAIN = Dimension("pretrain", scale="choice", choices=(None, *PRETRAINING))
CURRICULUM = Dimension("curriculum", scale="choice", choices=(None, *PACINGS))

# Where "the defaults" of a library leave lr to the user, the value that its documentation shows.
DEFAULTS: dict[str, dict[str, float]] = {"sgd": {"lr": 0.1}, "momentum": {"lr": 0.01}, "nesterov": {"lr": 0.01}}

# Algorithms that take the whole training set as one batch: they search along a line or within a region, on a function
# that must be the same from step to step. Their steps are lengths that they find themselves: lr is not decayed.
WHOLE_BATCH = frozenset(SECOND_ORDER) - {"stochastic_lbfgs", "natural_gradient", "kfac", "ekfac"}

_FIELDS = {field.name for field in fields(Recipe)}


def base(name: str, steps: int, batch_size: int, examples: int) -> Recipe:
    """The recipe of an algorithm before anything of it is searched."""
    if name in WHOLE_BATCH:
        return Recipe(name, steps, examples, schedule="constant")
    return Recipe(name, steps, batch_size)


def space(name: str, trials: int) -> Space:
    """What is searched of an algorithm that gets so many trials; an AlgorithmError where no space is published."""
    algorithm(name)
    if name not in SPACES:
        raise AlgorithmError(f"no search space is published for {name}: compare can race {', '.join(SPACES)}")
    return [d for d in SPACES[name] if d.from_trials <= trials]


def recipe_at(base: Recipe, searched: Space, u: Sequence[float]) -> Recipe:
    """The recipe at a point u of a space, on top of a base."""
    values = {d.knob: d.at(float(x)) for d, x in zip(searched, u, strict=True)}
    knobs = {**base.knobs, **{k: v for k, v in values.items() if k not in _FIELDS}}
    for d in searched:
        if d.per is not None:
            rule_knobs = {**base.rule().knobs, **knobs}
            knobs[d.knob] = _rounded(knobs[d.knob] * (1 - rule_knobs[d.per]))
    return base.with_(knobs=knobs, **{k: v for k, v in values.items() if k in _FIELDS})


def point_of(recipe: Recipe, searched: Space) -> list[float]:
    """The point of a space where a recipe lies: the inverse of `recipe_at`."""
    values: Mapping[str, Any] = {**recipe.rule().knobs, **recipe.knobs}
    point = []
    for d in searched:
        value = getattr(recipe, d.knob) if d.knob in _FIELDS else values.get(d.knob, 0.0)
        point.append(d.of(value / (1 - values[d.per]) if d.per is not None else value))
    return point


def quasi_random(n: int, dimensions: int, seed: int) -> np.ndarray:
    """n points of a scrambled Halton sequence, `(n, dimensions)` in (0, 1): even for every n, unlike Sobol's."""
    points: np.ndarray = qmc.Halton(dimensions, scramble=True, rng=seed).random(n)
    return points


def near(centre: Sequence[float], u: np.ndarray, searched: Space, width: float) -> np.ndarray:
    """Quasi-random points `u: (n, d)` drawn together around a centre: continuous knobs within ± width / 2 of it.

    A choice is kept in two of three points and drawn anew in the others.
    """
    points = np.clip(np.asarray(centre) + (u - 0.5) * width, 0.0, 1.0)
    for i, d in enumerate(searched):
        if d.scale == "choice":
            anew = u[:, i] < 1 / 3
            points[:, i] = np.where(anew, np.minimum(u[:, i] * 3, 0.999), centre[i])
    return points
