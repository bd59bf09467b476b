"""A recipe: everything that turns a problem into a trained model, but for the seed."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import tomli_w
import torch

from thalweg.algorithms import algorithm
from thalweg.core.errors import AlgorithmError, ProblemError, StorageError
from thalweg.core.network import Network
from thalweg.core.rule import Rule
from thalweg.initialise.data_driven import DataDriven
from thalweg.initialise.model import initialise
from thalweg.initialise.schemes import scheme
from thalweg.learning.batches import Batches
from thalweg.learning.curriculum import PACINGS, Curriculum, easiest_first
from thalweg.strategies.averaging import averaged_exponentially
from thalweg.strategies.clipping import clipped
from thalweg.strategies.decay import decayed
from thalweg.strategies.schedules import SCHEDULES, warmed_up
from thalweg.training.pretraining import PRETRAINING

_KINDS: dict[str, type] = {
    "algorithm": str, "steps": Integral, "batch_size": Integral, "knobs": dict, "schedule": str, "warmup": Real,
    "clip_norm": Real, "ema_decay": Real, "init": str, "init_gain": Real, "drop_last": bool, "shuffle": bool,
    "pretrain": str, "pretrain_share": Real, "curriculum": str, "curriculum_start": Real, "curriculum_mix": Real,
}  # fmt: skip
_OF = {"pretrain_share": "pretrain", "curriculum_start": "curriculum", "curriculum_mix": "curriculum"}
GROWING = 0.5  # of a run's steps: a curriculum has come to all the examples then
_SAID = {str: "a name", Integral: "a whole number", dict: "a table [knobs]", Real: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Recipe:
    """An algorithm with its knobs, and the strategies around it.

    `steps` and `batch_size` count steps and examples; `warmup` is the fraction of the steps in which lr rises
    from 0; `init` names a scheme of initialisation (None: the model's own), `init_gain` multiplies the initial weights
    (not the biases). `pretrain` ("supervised", "unsupervised" or "denoising") is how the first `pretrain_share` of the
    steps train the blocks one by one; `curriculum` is the pacing at which batches of the easiest `curriculum_start` of
    the examples, `curriculum_mix` of each drawn from all, become batches of all. Knobs that are not given keep the
    algorithm's defaults. Raises AlgorithmError for an unknown algorithm, knob, schedule, scheme, pretraining or pacing.

    >>> recipe = Recipe("adam", steps=100, knobs={"lr": 0.01, "weight_decay": 0.1}, clip_norm=1.0)
    >>> recipe.rule().name, round(recipe.schedules()["lr"](50), 4)
    ('clipped(decayed(adam))', 0.005)
    """

    algorithm: str
    steps: int
    batch_size: int = 32
    knobs: dict[str, float] = field(default_factory=dict)
    schedule: str = "cosine"
    warmup: float = 0.0
    clip_norm: float | None = None
    ema_decay: float | None = None
    init: str | None = None
    init_gain: float = 1.0
    drop_last: bool = False
    shuffle: bool = True
    pretrain: str | None = None
    pretrain_share: float = 0.2
    curriculum: str | None = None
    curriculum_start: float = 0.2
    curriculum_mix: float = 0.2

    def __post_init__(self) -> None:
        self._check_kinds()
        self.rule().check(self.knobs)
        if self.schedule not in SCHEDULES:
            raise AlgorithmError(f"no schedule is called '{self.schedule}': there are {', '.join(sorted(SCHEDULES))}")
        if self.init is not None:
            scheme(self.init)
        for name, value, good in (
            ("steps", self.steps, self.steps >= 1),
            ("batch_size", self.batch_size, self.batch_size >= 1),
            ("warmup", self.warmup, 0 <= self.warmup < 1),
        ):
            if not good:
                raise AlgorithmError(f"the recipe says {name} = {value}: it must be at least 1 (warmup: 0 to under 1)")
        self._check_what_comes_first()

    def _check_what_comes_first(self) -> None:
        for field_, known in (("pretrain", PRETRAINING), ("curriculum", PACINGS)):
            name = getattr(self, field_)
            if name is not None and name not in known:
                raise AlgorithmError(f"the recipe says {field_} = '{name}': there are {', '.join(known)}")
        for field_, good, said in (
            ("pretrain_share", 0 <= self.pretrain_share < 1, "0 to under 1"),
            ("curriculum_start", 0 < self.curriculum_start <= 1, "above 0, 1 at most"),
            ("curriculum_mix", 0 <= self.curriculum_mix <= 1, "0 to 1"),
        ):
            if not good:
                raise AlgorithmError(f"the recipe says {field_} = {getattr(self, field_)}: it is a share, {said}")

    def _check_kinds(self) -> None:
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
                raise AlgorithmError(f"the recipe says {name} = {value!r}: it must be {_SAID[kind]}")
        for name, value in self.knobs.items():
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise AlgorithmError(f"the recipe says {name} = {value!r}: a knob is a finite number")

    def rule(self) -> Rule:
        """The algorithm with its strategies around it, a rule like any other."""
        rule = algorithm(self.algorithm).rule
        if "weight_decay" in self.knobs and "weight_decay" not in rule.knobs:
            rule = decayed(rule)
        if self.clip_norm is not None:
            rule = clipped(rule, clip_norm=self.clip_norm)
        if self.ema_decay is not None:
            rule = averaged_exponentially(rule, ema_decay=self.ema_decay)
        return rule

    @property
    def leading(self) -> tuple[str, float]:
        """The knob that decides most, with its value: lr, or the first knob of a rule that has none.

        >>> Recipe("adam", steps=1).leading
        ('lr', 0.001)
        """
        knobs = self.rule().knobs
        name = "lr" if "lr" in knobs else next(iter(knobs))
        return name, self.knobs.get(name, knobs[name])

    def schedules(self) -> dict[str, float | Callable[[int], float]]:
        """The knobs as `descend` takes them: lr a function of the step, that ends with the run."""
        knobs: dict[str, Any] = dict(self.knobs)
        name, value = self.leading
        if name != "lr":  # the size of a trust region, say: not a matter of a schedule
            return knobs
        rise = round(self.warmup * self.steps)
        lr = SCHEDULES[self.schedule](value, max(1, self.steps - rise))
        return {**knobs, "lr": warmed_up(lr, rise) if rise else lr}

    @torch.no_grad()
    def initialise(self, network: Network, batches: Batches, seed: int) -> None:
        """Draws new parameters by `init`, if there is one, and scales the weights by `init_gain`.

        A scheme that looks at data sees the run's first batch.
        """
        if self.init is not None:
            data = batches[0] if isinstance(scheme(self.init), DataDriven) else None
            initialise(network.module, self.init, data, generator=seed)
        if self.init_gain != 1.0:
            for parameter in network.parameters:
                if parameter.dim() > 1:
                    parameter.mul_(self.init_gain)

    def ordered(self, batches: Batches, difficulty: Any) -> Batches | Curriculum:
        """The batches in the order of the curriculum, if there is one; all examples are in after half of the steps.

        Raises ProblemError where a curriculum does not know how difficult the examples are.
        """
        if self.curriculum is None:
            return batches
        if difficulty is None:
            raise ProblemError(
                f"the recipe says curriculum = '{self.curriculum}', but not how difficult an example is: give "
                "Problem(difficulty=) a score for each, or a function of (inputs, targets) that gives them"
            )
        order, over = easiest_first(difficulty, batches.data), round(GROWING * self.steps)
        return Curriculum(batches, order, over, self.curriculum, self.curriculum_start, self.curriculum_mix)

    def with_(self, **changes: Any) -> Recipe:
        """The same recipe but for some fields."""
        return replace(self, **changes)

    def text(self, comment: str = "") -> str:
        """It as TOML; what is None is left out, and what is of it."""
        values = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and getattr(self, _OF.get(name, name)) is not None
        }
        knobs = values.pop("knobs")
        lines = "".join(f"# {line}\n" for line in comment.splitlines())
        return lines + tomli_w.dumps({**values, "knobs": knobs})

    def save(self, path: Path, comment: str = "") -> None:
        """Writes it as TOML."""
        path.write_text(self.text(comment), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Reads what `save` wrote, or a hand-written file; StorageError or AlgorithmError say what is wrong with it."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise StorageError(f"there is no recipe at {path}: compare writes one as recipe.toml") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StorageError(f"{path} is not a recipe: {error}") from error
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        missing = [name for name in ("algorithm", "steps") if name not in values]
        if unknown or missing:
            wrong = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
            raise AlgorithmError(f"{path}: {wrong}; a recipe has {', '.join(cls.__dataclass_fields__)}")
        return cls(**values)
