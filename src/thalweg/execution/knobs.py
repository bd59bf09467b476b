"""Knobs as they are typed and stand in a group of torch.optim (`betas`, `etas`), and as a rule has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Places = Mapping[str, tuple[str, int | None]]  # of a knob: the key in a group, and which of the numbers there
Schedules = dict[str, Callable[[int], Any]]

# Where torch's users find a knob in a group, if not under its own name.
PLACES: Places = {
    "beta1": ("betas", 0),
    "beta2": ("betas", 1),
    "beta3": ("betas", 2),
    "eta_minus": ("etas", 0),
    "eta_plus": ("etas", 1),
    "step_min": ("step_sizes", 0),
    "step_max": ("step_sizes", 1),
}


def unfolded(given: Mapping[str, Any], knobs: Iterable[str]) -> dict[str, Any]:
    """Settings with pairs taken apart: `betas=(0.9, 0.99)` is `beta1=0.9, beta2=0.99`."""
    values = dict(given)
    for knob in knobs:
        key, index = PLACES.get(knob, (knob, None))
        if index is not None and key in given:
            values.pop(key, None)
            values[knob] = _part(given[key], index)
    return values


def folded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs as they stand in a group: `beta1=0.9, beta2=0.99` is `betas=(0.9, 0.99)`."""
    found: dict[str, Any] = {}
    for knob, value in values.items():
        key, index = PLACES.get(knob, (knob, None))
        found[key] = value if index is None else (*found.get(key, ()), value)
    return {key: _scheduled(value) if isinstance(value, tuple) else value for key, value in found.items()}


def _part(pair: Any, k: int) -> Any:
    return (lambda t: pair(t)[k]) if callable(pair) else pair[k]


def _scheduled(parts: tuple[Any, ...]) -> Any:
    """A pair, one function of the step where any of its parts is one."""
    if not any(map(callable, parts)):
        return parts
    return lambda t: tuple(part(t) if callable(part) else part for part in parts)


def split_schedules(given: Mapping[str, Any]) -> tuple[dict[str, Any], Schedules]:
    """Settings with functions of the step replaced by their first value, and those functions."""
    schedules = {key: value for key, value in given.items() if callable(value) and key != "params"}
    return {**given, **{key: schedule(0) for key, schedule in schedules.items()}}, schedules
