"""The catalogue: every algorithm under its name, with its section of the book and what it is in a sentence."""

from __future__ import annotations

import difflib
import re
from types import ModuleType
from typing import NamedTuple

from thalweg.adaptive import (
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    amsgrad,
    nadam,
    radam,
    rmsprop,
    rmsprop_centred,
    rmsprop_momentum,
    rmsprop_nesterov,
    rprop,
)
from thalweg.basic import asgd, dampened_momentum, momentum, nesterov, sgd
from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Rule
from thalweg.modern import (
    adabelief,
    adafactor,
    adam_atan2,
    adan,
    ademamix,
    adopt,
    dadapt_adam,
    dog,
    lamb,
    lars,
    lion,
    muon,
    muon_adamw,
    prodigy,
    psgd_kron,
    sam,
    schedule_free_adamw,
    schedule_free_sgd,
    shampoo,
    soap,
    sophia,
)
from thalweg.second_order import (
    bfgs,
    conjugate_gradients,
    cubic_newton,
    ekfac,
    gauss_newton,
    hessian_free,
    kfac,
    lbfgs,
    lbfgsb,
    levenberg_marquardt,
    natural_gradient,
    newton,
    newton_cg,
    saddle_free_newton,
    stochastic_lbfgs,
    trust_newton,
)
from thalweg.strategies import coordinate_descent


class Algorithm(NamedTuple):
    """A rule, and where it stands: the section of the book ("after 8.5" for what came since) and a sentence."""

    name: str
    rule: Rule
    section: str
    summary: str


def _described(module: ModuleType, name: str = "") -> Algorithm:
    """Read off a module that is called as its rule (or not), its section in the first line of its docstring."""
    name = name or module.__name__.rpartition(".")[2]
    rule: Rule = getattr(module, name)
    section = re.search(r"\((.*)\)", (module.__doc__ or "").splitlines()[0])
    if section is None:
        raise AlgorithmError(f"the docstring of {module.__name__} names no section of the book in its first line")
    return Algorithm(name, rule, section[1].replace("section ", ""), rule.doc.splitlines()[0])


_MODULES = (
    sgd, momentum, dampened_momentum, nesterov, asgd,
    adagrad, adadelta, rmsprop, rmsprop_momentum, rmsprop_nesterov, rmsprop_centred,
    adam, adamw, amsgrad, adamax, nadam, radam, rprop,
    lion, adan, adabelief, adam_atan2, ademamix, adopt, schedule_free_sgd, schedule_free_adamw,
    adafactor, lars, lamb, muon, muon_adamw, shampoo, soap, psgd_kron,
    dog, dadapt_adam, prodigy, sophia, sam,
)  # fmt: skip

# They see f: evaluate it elsewhere, search along lines or within regions, and ask for its curvature.
_SECOND_ORDER = (
    *((module, "") for module in (newton, newton_cg, saddle_free_newton, cubic_newton)),
    *((trust_newton, name) for name in ("trust_ncg", "trust_krylov", "trust_exact", "dogleg")),
    *(
        (conjugate_gradients, name)
        for name in ("fletcher_reeves", "polak_ribiere", "hestenes_stiefel", "dai_yuan", "hager_zhang_cg")
    ),
    *((module, "") for module in (bfgs, lbfgs, lbfgsb, stochastic_lbfgs)),
    *((module, "") for module in (gauss_newton, levenberg_marquardt, hessian_free, natural_gradient, kfac, ekfac)),
    *(
        (coordinate_descent, name)
        for name in ("coordinate_descent", "greedy_coordinate_descent", "random_coordinate_descent")
    ),
)
SECOND_ORDER = tuple(name or module.__name__.rpartition(".")[2] for module, name in _SECOND_ORDER)

ALGORITHMS: dict[str, Algorithm] = {
    entry.name: entry for entry in (*map(_described, _MODULES), *(_described(*place) for place in _SECOND_ORDER))
}

# What compare races where nobody says: each more costs a share of the budget of all.
RACED = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "rmsprop_nesterov", "adam", "adamw", "nadam", "lion")


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name; an AlgorithmError for an unknown one says which there are.

    >>> algorithm("adam").section, algorithm("adam").summary
    ('8.5.3', 'Adam (Algorithm 8.7); m and v are the first and second moments, t the step.')
    """
    if name not in ALGORITHMS:
        close = difflib.get_close_matches(name.lower(), ALGORITHMS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise AlgorithmError(f"no algorithm is called '{name}'{meant}: there are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
