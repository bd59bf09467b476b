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
from thalweg.core.errors import AlgorithmError, StorageError
from thalweg.core.network import Network
from thalweg.core.rule import Rule
from thalweg.strategies.averaging import averaged_exponentially
from thalweg.strategies.clipping import clipped
from thalweg.strategies.decay import decayed
from thalweg.strategies.schedules import SCHEDULES, warmed_up

_KINDS: dict[str, type] = {
    "algorithm": str, "steps": Integral, "batch_size": Integral, "knobs": dict, "schedule": str, "warmup": Real,
    "clip_norm": Real, "ema_decay": Real, "init_gain": Real, "drop_last": bool,
}  # fmt: skip
_SAID = {str: "a name", Integral: "a whole number", dict: "a table [knobs]", Real: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Recipe:
    """An algorithm with its knobs, and the strategies around it.

    `steps` and `batch_size` count steps and examples; `warmup` is the fraction of the steps in which lr rises
    from 0; `init_gain` multiplies the initial weights (not the biases). Knobs that are not given keep the
    algorithm's defaults. Raises AlgorithmError for an unknown algorithm, knob or schedule.

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
    init_gain: float = 1.0
    drop_last: bool = False

    def __post_init__(self) -> None:
        self._check_kinds()
        self.rule().check(self.knobs)
        if self.schedule not in SCHEDULES:
            raise AlgorithmError(f"no schedule is called '{self.schedule}': there are {', '.join(sorted(SCHEDULES))}")
        for name, value, good in (
            ("steps", self.steps, self.steps >= 1),
            ("batch_size", self.batch_size, self.batch_size >= 1),
            ("warmup", self.warmup, 0 <= self.warmup < 1),
        ):
            if not good:
                raise AlgorithmError(f"the recipe says {name} = {value}: it must be at least 1 (warmup: 0 to under 1)")

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
    def initialise(self, network: Network) -> None:
        """Scales the newly initialised weights by `init_gain`."""
        if self.init_gain != 1.0:
            for parameter in network.parameters:
                if parameter.dim() > 1:
                    parameter.mul_(self.init_gain)

    def with_(self, **changes: Any) -> Recipe:
        """The same recipe but for some fields."""
        return replace(self, **changes)

    def text(self, comment: str = "") -> str:
        """It as TOML, what is None left out."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
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
