"""The catalogue of schemes (section 8.4): each under its name, with where it stands and what it is in a sentence."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from thalweg.core.errors import AlgorithmError
from thalweg.initialise.data_driven import DataDriven, gain_search, lsuv
from thalweg.initialise.identity import identity
from thalweg.initialise.orthogonal import orthogonal, orthogonal_relu
from thalweg.initialise.random_walk import random_walk, random_walk_relu
from thalweg.initialise.sparse import sparse
from thalweg.initialise.variance import (
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_normal_fan_out,
    he_uniform,
    lecun_normal,
    lecun_uniform,
    small_normal,
    standard_uniform,
)
from thalweg.initialise.weight import Scheme


class Entry(NamedTuple):
    """A scheme, and where it stands: the section of the book ("after 8.4" for what came since) and a sentence."""

    name: str
    scheme: Scheme | DataDriven
    section: str
    summary: str


def _entry(name: str, scheme: Scheme | DataDriven, section: str = "8.4") -> Entry:
    said = scheme.adjust.__doc__ if isinstance(scheme, DataDriven) else scheme.__doc__
    return Entry(name, scheme, section, (said or "").splitlines()[0])


SCHEMES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _entry("constant", constant),
        _entry("small_normal", small_normal),
        _entry("standard_uniform", standard_uniform),
        _entry("glorot_uniform", glorot_uniform),
        _entry("glorot_normal", glorot_normal),
        _entry("lecun_uniform", lecun_uniform),
        _entry("lecun_normal", lecun_normal),
        _entry("he_uniform", he_uniform, "after 8.4"),
        _entry("he_normal", he_normal, "after 8.4"),
        _entry("he_normal_fan_out", he_normal_fan_out, "after 8.4"),
        _entry("orthogonal", orthogonal),
        _entry("orthogonal_relu", orthogonal_relu),
        _entry("sparse", sparse),
        _entry("identity", identity, "after 8.4"),
        _entry("random_walk", random_walk),
        _entry("random_walk_relu", random_walk_relu),
        _entry("lsuv", lsuv, "after 8.4"),
        _entry("gain_search", gain_search),
    )
}


def scheme(name: str) -> Scheme | DataDriven:
    """The scheme of that name; an AlgorithmError for an unknown one says which there are.

    >>> scheme("he_normal").__name__
    'he_normal'
    """
    if name not in SCHEMES:
        close = difflib.get_close_matches(name.lower(), SCHEMES, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise AlgorithmError(f"no initialisation is called '{name}'{meant}: there are {', '.join(SCHEMES)}")
    return SCHEMES[name].scheme
