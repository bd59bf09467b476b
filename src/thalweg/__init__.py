"""Thalweg: find, prove and train the best optimisation recipe for a PyTorch model."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg import optim
    from thalweg.adaptive.adadelta import adadelta
    from thalweg.adaptive.adagrad import adagrad
    from thalweg.adaptive.adam import adam
    from thalweg.adaptive.adamax import adamax
    from thalweg.adaptive.adamw import adamw
    from thalweg.adaptive.amsgrad import amsgrad
    from thalweg.adaptive.nadam import nadam
    from thalweg.adaptive.radam import radam
    from thalweg.adaptive.rmsprop import rmsprop
    from thalweg.adaptive.rmsprop_centred import rmsprop_centred
    from thalweg.adaptive.rmsprop_momentum import rmsprop_momentum
    from thalweg.adaptive.rmsprop_nesterov import rmsprop_nesterov
    from thalweg.adaptive.rprop import rprop
    from thalweg.basic.asgd import asgd
    from thalweg.basic.dampened_momentum import dampened_momentum
    from thalweg.basic.momentum import momentum
    from thalweg.basic.nesterov import nesterov
    from thalweg.basic.sgd import sgd
    from thalweg.challenges.finding import Finding
    from thalweg.contest import compare
    from thalweg.core.measured import Measured
    from thalweg.core.network import Batch, Network
    from thalweg.core.objective import Composed, LeastSquares
    from thalweg.core.rule import Rule, combinator, rule
    from thalweg.descend import descend
    from thalweg.diagnose.diagnose import diagnose
    from thalweg.diagnose.monitor import Monitor
    from thalweg.initialise.model import initialise
    from thalweg.learning.risk import Metric, accuracy, metric
    from thalweg.minimize import minimize
    from thalweg.modern.adabelief import adabelief
    from thalweg.modern.adafactor import adafactor
    from thalweg.modern.adam_atan2 import adam_atan2
    from thalweg.modern.adan import adan
    from thalweg.modern.ademamix import ademamix
    from thalweg.modern.adopt import adopt
    from thalweg.modern.dadapt_adam import dadapt_adam
    from thalweg.modern.dog import dog
    from thalweg.modern.lamb import lamb
    from thalweg.modern.lars import lars
    from thalweg.modern.lion import lion
    from thalweg.modern.muon import muon
    from thalweg.modern.muon_adamw import muon_adamw
    from thalweg.modern.prodigy import prodigy
    from thalweg.modern.psgd_kron import psgd_kron
    from thalweg.modern.sam import sharpness_aware
    from thalweg.modern.schedule_free_adamw import schedule_free_adamw
    from thalweg.modern.schedule_free_sgd import schedule_free_sgd
    from thalweg.modern.shampoo import shampoo
    from thalweg.modern.soap import soap
    from thalweg.modern.sophia import sophia
    from thalweg.second_order.bfgs import bfgs
    from thalweg.second_order.conjugate_gradients import (
        dai_yuan,
        fletcher_reeves,
        hager_zhang_cg,
        hestenes_stiefel,
        polak_ribiere,
    )
    from thalweg.second_order.cubic_newton import cubic_newton
    from thalweg.second_order.ekfac import ekfac
    from thalweg.second_order.gauss_newton import gauss_newton
    from thalweg.second_order.hessian_free import hessian_free
    from thalweg.second_order.kfac import kfac
    from thalweg.second_order.lbfgs import lbfgs
    from thalweg.second_order.lbfgsb import lbfgsb
    from thalweg.second_order.levenberg_marquardt import levenberg_marquardt
    from thalweg.second_order.natural_gradient import natural_gradient
    from thalweg.second_order.newton import newton
    from thalweg.second_order.newton_cg import newton_cg
    from thalweg.second_order.saddle_free_newton import saddle_free_newton
    from thalweg.second_order.stochastic_lbfgs import stochastic_lbfgs
    from thalweg.second_order.trust_newton import dogleg, trust_exact, trust_krylov, trust_ncg
    from thalweg.strategies import schedules
    from thalweg.strategies.adaptive_clipping import clipped_adaptively
    from thalweg.strategies.averaging import averaged, averaged_exponentially, averaged_late
    from thalweg.strategies.cautious import cautious
    from thalweg.strategies.centralised import centralised
    from thalweg.strategies.clipping import clipped, clipped_by_value
    from thalweg.strategies.coordinate import at_random, blockwise, cyclic, gauss_southwell
    from thalweg.strategies.coordinate_descent import (
        by_coordinates,
        coordinate_descent,
        greedy_coordinate_descent,
        random_coordinate_descent,
        soft_threshold,
    )
    from thalweg.strategies.decay import decayed
    from thalweg.strategies.held_back import accumulated, guarded
    from thalweg.strategies.lookahead import lookahead
    from thalweg.strategies.maximised import maximised
    from thalweg.strategies.penalised import penalised
    from thalweg.strategies.preconditioned import preconditioned
    from thalweg.strategies.rounding import compensated, stochastically_rounded
    from thalweg.training.fit import fit
    from thalweg.training.load import load
    from thalweg.training.predict import predict
    from thalweg.training.problem import Problem
    from thalweg.training.recipe import Recipe


__all__ = [
    "Batch",
    "Composed",
    "Finding",
    "LeastSquares",
    "Measured",
    "Metric",
    "Monitor",
    "Network",
    "Problem",
    "Recipe",
    "Rule",
    "accumulated",
    "accuracy",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam_atan2",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "amsgrad",
    "asgd",
    "at_random",
    "averaged",
    "averaged_exponentially",
    "averaged_late",
    "bfgs",
    "blockwise",
    "by_coordinates",
    "cautious",
    "centralised",
    "clipped",
    "clipped_adaptively",
    "clipped_by_value",
    "combinator",
    "compare",
    "compensated",
    "coordinate_descent",
    "cubic_newton",
    "cyclic",
    "dadapt_adam",
    "dai_yuan",
    "dampened_momentum",
    "decayed",
    "descend",
    "diagnose",
    "dog",
    "dogleg",
    "ekfac",
    "fit",
    "fletcher_reeves",
    "gauss_newton",
    "gauss_southwell",
    "greedy_coordinate_descent",
    "guarded",
    "hager_zhang_cg",
    "hessian_free",
    "hestenes_stiefel",
    "initialise",
    "kfac",
    "lamb",
    "lars",
    "lbfgs",
    "lbfgsb",
    "levenberg_marquardt",
    "lion",
    "load",
    "lookahead",
    "maximised",
    "metric",
    "minimize",
    "momentum",
    "muon",
    "muon_adamw",
    "nadam",
    "natural_gradient",
    "nesterov",
    "newton",
    "newton_cg",
    "optim",
    "penalised",
    "polak_ribiere",
    "preconditioned",
    "predict",
    "prodigy",
    "psgd_kron",
    "radam",
    "random_coordinate_descent",
    "rmsprop",
    "rmsprop_centred",
    "rmsprop_momentum",
    "rmsprop_nesterov",
    "rprop",
    "rule",
    "saddle_free_newton",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "schedules",
    "sgd",
    "shampoo",
    "sharpness_aware",
    "soap",
    "soft_threshold",
    "sophia",
    "stochastic_lbfgs",
    "stochastically_rounded",
    "trust_exact",
    "trust_krylov",
    "trust_ncg",
]

# Where each name lives: torch takes seconds to import, and `thalweg --help` needs none of it (PEP 562).
_PLACES = {
    "Batch": "core.network",
    "Composed": "core.objective",
    "Finding": "challenges.finding",
    "LeastSquares": "core.objective",
    "Measured": "core.measured",
    "Metric": "learning.risk",
    "Monitor": "diagnose.monitor",
    "Network": "core.network",
    "Problem": "training.problem",
    "Recipe": "training.recipe",
    "Rule": "core.rule",
    "accumulated": "strategies.held_back",
    "accuracy": "learning.risk",
    "adabelief": "modern.adabelief",
    "adadelta": "adaptive.adadelta",
    "adafactor": "modern.adafactor",
    "adagrad": "adaptive.adagrad",
    "adam": "adaptive.adam",
    "adam_atan2": "modern.adam_atan2",
    "adamax": "adaptive.adamax",
    "adamw": "adaptive.adamw",
    "adan": "modern.adan",
    "ademamix": "modern.ademamix",
    "adopt": "modern.adopt",
    "amsgrad": "adaptive.amsgrad",
    "asgd": "basic.asgd",
    "at_random": "strategies.coordinate",
    "averaged": "strategies.averaging",
    "averaged_exponentially": "strategies.averaging",
    "averaged_late": "strategies.averaging",
    "bfgs": "second_order.bfgs",
    "blockwise": "strategies.coordinate",
    "by_coordinates": "strategies.coordinate_descent",
    "cautious": "strategies.cautious",
    "centralised": "strategies.centralised",
    "clipped": "strategies.clipping",
    "clipped_adaptively": "strategies.adaptive_clipping",
    "clipped_by_value": "strategies.clipping",
    "combinator": "core.rule",
    "compare": "contest",
    "compensated": "strategies.rounding",
    "coordinate_descent": "strategies.coordinate_descent",
    "cubic_newton": "second_order.cubic_newton",
    "cyclic": "strategies.coordinate",
    "dadapt_adam": "modern.dadapt_adam",
    "dai_yuan": "second_order.conjugate_gradients",
    "dampened_momentum": "basic.dampened_momentum",
    "decayed": "strategies.decay",
    "descend": "descend",
    "diagnose": "diagnose.diagnose",
    "dog": "modern.dog",
    "dogleg": "second_order.trust_newton",
    "ekfac": "second_order.ekfac",
    "fit": "training.fit",
    "fletcher_reeves": "second_order.conjugate_gradients",
    "gauss_newton": "second_order.gauss_newton",
    "gauss_southwell": "strategies.coordinate",
    "greedy_coordinate_descent": "strategies.coordinate_descent",
    "guarded": "strategies.held_back",
    "hager_zhang_cg": "second_order.conjugate_gradients",
    "hessian_free": "second_order.hessian_free",
    "hestenes_stiefel": "second_order.conjugate_gradients",
    "initialise": "initialise.model",
    "kfac": "second_order.kfac",
    "lamb": "modern.lamb",
    "lars": "modern.lars",
    "lbfgs": "second_order.lbfgs",
    "lbfgsb": "second_order.lbfgsb",
    "levenberg_marquardt": "second_order.levenberg_marquardt",
    "lion": "modern.lion",
    "load": "training.load",
    "lookahead": "strategies.lookahead",
    "maximised": "strategies.maximised",
    "metric": "learning.risk",
    "minimize": "minimize",
    "momentum": "basic.momentum",
    "muon": "modern.muon",
    "muon_adamw": "modern.muon_adamw",
    "nadam": "adaptive.nadam",
    "natural_gradient": "second_order.natural_gradient",
    "nesterov": "basic.nesterov",
    "newton": "second_order.newton",
    "newton_cg": "second_order.newton_cg",
    "optim": "optim",
    "penalised": "strategies.penalised",
    "polak_ribiere": "second_order.conjugate_gradients",
    "preconditioned": "strategies.preconditioned",
    "predict": "training.predict",
    "prodigy": "modern.prodigy",
    "psgd_kron": "modern.psgd_kron",
    "radam": "adaptive.radam",
    "random_coordinate_descent": "strategies.coordinate_descent",
    "rmsprop": "adaptive.rmsprop",
    "rmsprop_centred": "adaptive.rmsprop_centred",
    "rmsprop_momentum": "adaptive.rmsprop_momentum",
    "rmsprop_nesterov": "adaptive.rmsprop_nesterov",
    "rprop": "adaptive.rprop",
    "rule": "core.rule",
    "saddle_free_newton": "second_order.saddle_free_newton",
    "schedule_free_adamw": "modern.schedule_free_adamw",
    "schedule_free_sgd": "modern.schedule_free_sgd",
    "schedules": "strategies.schedules",
    "sgd": "basic.sgd",
    "shampoo": "modern.shampoo",
    "sharpness_aware": "modern.sam",
    "soap": "modern.soap",
    "soft_threshold": "strategies.coordinate_descent",
    "sophia": "modern.sophia",
    "stochastic_lbfgs": "second_order.stochastic_lbfgs",
    "stochastically_rounded": "strategies.rounding",
    "trust_exact": "second_order.trust_newton",
    "trust_krylov": "second_order.trust_newton",
    "trust_ncg": "second_order.trust_newton",
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
