"""Thalweg: find, prove and train the best optimisation recipe for a PyTorch model."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg import optim
    from thalweg.adaptive.adagrad import adagrad
    from thalweg.adaptive.adam import adam
    from thalweg.adaptive.adamw import adamw
    from thalweg.adaptive.nadam import nadam
    from thalweg.adaptive.rmsprop import rmsprop
    from thalweg.adaptive.rmsprop_nesterov import rmsprop_nesterov
    from thalweg.basic.momentum import momentum
    from thalweg.basic.nesterov import nesterov
    from thalweg.basic.sgd import sgd
    from thalweg.contest import compare
    from thalweg.core.network import Batch, Network
    from thalweg.core.rule import Rule, combinator, rule
    from thalweg.descend import descend
    from thalweg.learning.risk import Metric, accuracy, metric
    from thalweg.modern.lion import lion
    from thalweg.strategies import schedules
    from thalweg.strategies.averaging import averaged, averaged_exponentially
    from thalweg.strategies.clipping import clipped, clipped_by_value
    from thalweg.strategies.decay import decayed
    from thalweg.training.fit import fit
    from thalweg.training.load import load
    from thalweg.training.predict import predict
    from thalweg.training.problem import Problem
    from thalweg.training.recipe import Recipe

__all__ = [
    "Batch",
    "Metric",
    "Network",
    "Problem",
    "Recipe",
    "Rule",
    "accuracy",
    "adagrad",
    "adam",
    "adamw",
    "averaged",
    "averaged_exponentially",
    "clipped",
    "clipped_by_value",
    "combinator",
    "compare",
    "decayed",
    "descend",
    "fit",
    "lion",
    "load",
    "metric",
    "momentum",
    "nadam",
    "nesterov",
    "optim",
    "predict",
    "rmsprop",
    "rmsprop_nesterov",
    "rule",
    "schedules",
    "sgd",
]

# Where each name lives: torch takes seconds to import, and `thalweg --help` needs none of it (PEP 562).
_PLACES = {
    "Batch": "core.network",
    "Metric": "learning.risk",
    "Network": "core.network",
    "Problem": "training.problem",
    "Recipe": "training.recipe",
    "Rule": "core.rule",
    "accuracy": "learning.risk",
    "adagrad": "adaptive.adagrad",
    "adam": "adaptive.adam",
    "adamw": "adaptive.adamw",
    "averaged": "strategies.averaging",
    "averaged_exponentially": "strategies.averaging",
    "clipped": "strategies.clipping",
    "clipped_by_value": "strategies.clipping",
    "combinator": "core.rule",
    "compare": "contest",
    "decayed": "strategies.decay",
    "descend": "descend",
    "fit": "training.fit",
    "lion": "modern.lion",
    "load": "training.load",
    "metric": "learning.risk",
    "momentum": "basic.momentum",
    "nadam": "adaptive.nadam",
    "nesterov": "basic.nesterov",
    "optim": "optim",
    "predict": "training.predict",
    "rmsprop": "adaptive.rmsprop",
    "rmsprop_nesterov": "adaptive.rmsprop_nesterov",
    "rule": "core.rule",
    "schedules": "strategies.schedules",
    "sgd": "basic.sgd",
}


class _Package(ModuleType):
    """Python sets a submodule on its package once it is imported; `descend` stays the function all the same."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PLACES and isinstance(value, ModuleType) and name not in ("optim", "schedules")):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'thalweg' has no attribute '{name}'")
    module = import_module(f"thalweg.{_PLACES[name]}")
    globals()[name] = module if name in ("optim", "schedules") else getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
