"""Schedules: lr as a pure function of the step t, counted from 0 (section 8.3.1).

A factory takes the initial lr and the length, and gives the function; functions are composed by functions.
`SCHEDULES` has them under their names in one form, (lr, steps), which is how a recipe asks for one.

>>> lr = warmed_up(cosine(0.1, steps=90), steps=10)
>>> [round(lr(t), 4) for t in (0, 10, 55, 99)]
[0.0091, 0.1, 0.05, 0.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable

from thalweg.core.errors import AlgorithmError

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """The same lr for ever.

    >>> constant(0.1)(1000)
    0.1
    """
    return lambda t: lr


def linear_decay(lr: float, steps: int, end_factor: float = 0.01) -> Schedule:
    """The book's linear decay (equation 8.14): down to end_factor * lr at step tau = steps, constant from there on.

    >>> [round(linear_decay(1.0, steps=10)(t), 3) for t in (0, 5, 10, 20)]
    [1.0, 0.505, 0.01, 0.01]
    """
    _positive("linear_decay", steps=steps)

    def at(t: int) -> float:
        alpha = min(t / steps, 1.0)
        return lr * ((1 - alpha) + alpha * end_factor)

    return at


def step_decay(lr: float, step_size: float, gamma: float = 0.1) -> Schedule:
    """Times gamma after every step_size steps.

    >>> [round(step_decay(1.0, step_size=10)(t), 3) for t in (9, 10, 20)]
    [1.0, 0.1, 0.01]
    """
    _positive("step_decay", step_size=step_size)
    return lambda t: lr * gamma ** (t // step_size)


def exponential(lr: float, gamma: float) -> Schedule:
    """Times gamma after every step.

    >>> exponential(1.0, gamma=0.5)(3)
    0.125
    """
    return lambda t: lr * gamma**t


def inverse_time(lr: float, tau: float = 1.0) -> Schedule:
    """Decay as 1 / t from about step tau on: it meets both conditions for convergence (8.12 and 8.13).

    >>> [inverse_time(1.0)(t) for t in (0, 1, 3)]
    [1.0, 0.5, 0.25]
    """
    _positive("inverse_time", tau=tau)
    return lambda t: lr / (1 + t / tau)


def inverse_sqrt(lr: float, tau: float = 1.0) -> Schedule:
    """Decay as 1 / sqrt(t) from about step tau on: the order that is best for a convex f (section 8.3.1).

    >>> [inverse_sqrt(1.0)(t) for t in (0, 3, 15)]
    [1.0, 0.5, 0.25]
    """
    _positive("inverse_sqrt", tau=tau)
    return lambda t: lr / math.sqrt(1 + t / tau)


def cosine(lr: float, steps: int, end_factor: float = 0.0) -> Schedule:
    """Half a cosine down to end_factor * lr at step `steps` (Loshchilov and Hutter 2017), constant from there on.

    >>> [round(cosine(1.0, steps=10)(t), 3) for t in (0, 5, 10, 20)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _positive("cosine", steps=steps)
    return lambda t: lr * _half_cosine(min(t / steps, 1.0), end_factor)


def warm_restarts(lr: float, steps: float, mult: int = 1, end_factor: float = 0.0) -> Schedule:
    """Warm restarts (SGDR, Loshchilov and Hutter 2017): cosines, each `mult` times as long as the one before.

    `steps` is the length of the first.

    >>> [round(warm_restarts(1.0, steps=10, mult=2)(t), 3) for t in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    _positive("warm_restarts", steps=steps, mult=mult)

    def at(t: int) -> float:
        start, length = 0.0, float(steps)
        while t - start >= length:
            start, length = start + length, length * mult
        return lr * _half_cosine((t - start) / length, end_factor)

    return at


def stable_decay(lr: float, steps: int, decay: float = 0.2, end_factor: float = 0.0) -> Schedule:
    """Constant, then linear down to end_factor * lr over the last fraction `decay` of the steps.

    >>> [round(stable_decay(1.0, steps=10)(t), 3) for t in (0, 8, 9, 10)]
    [1.0, 1.0, 0.5, 0.0]
    """
    _positive("stable_decay", steps=steps, decay=decay)
    falling = max(1, round(decay * steps))
    return then(constant(lr), steps - falling, linear_decay(lr, falling, end_factor))


def warmup_stable_decay(lr: float, steps: int, warmup: float = 0.05, decay: float = 0.2) -> Schedule:
    """Up over a first fraction of the steps, constant, down to 0 over a last one (the trapezoid, WSD; Hu et al. 2024).

    >>> [round(warmup_stable_decay(1.0, steps=20, warmup=0.1)(t), 3) for t in (0, 1, 2, 16, 18, 20)]
    [0.333, 0.667, 1.0, 1.0, 0.5, 0.0]
    """
    _positive("warmup_stable_decay", steps=steps, decay=decay)
    rising = round(warmup * steps)
    return warmed_up(stable_decay(lr, steps - rising, decay * steps / (steps - rising)), rising)


def warmed_up(schedule: Schedule, steps: int) -> Schedule:
    """A schedule that starts `steps` steps later; until then lr rises in equal parts, the first of them above 0.

    >>> [round(warmed_up(constant(1.0), steps=3)(t), 3) for t in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return lambda t: schedule(0) * (t + 1) / (steps + 1) if t < steps else schedule(t - steps)


def then(first: Schedule, steps: int, second: Schedule) -> Schedule:
    """One schedule for some steps, then another from its own beginning.

    >>> [then(constant(1.0), 2, exponential(0.5, gamma=0.5))(t) for t in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.125]
    """
    return lambda t: first(t) if t < steps else second(t - steps)


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """A schedule times a factor.

    >>> scaled(constant(0.5), 4)(0)
    2.0
    """
    return lambda t: factor * schedule(t)


def _half_cosine(fraction: float, end_factor: float) -> float:
    return end_factor + (1 - end_factor) * (1 + math.cos(math.pi * fraction)) / 2


def _positive(schedule: str, **given: float) -> None:
    for name, value in given.items():
        if not value > 0:
            raise AlgorithmError(f"{schedule} was given {name}={value}: it must be positive")


# The form that recipes use: where the length leaves a choice, lr falls to a hundredth (1 / sqrt(t): a tenth).
SCHEDULES: dict[str, Callable[[float, int], Schedule]] = {
    "constant": lambda lr, steps: constant(lr),
    "linear_decay": linear_decay,
    "step_decay": lambda lr, steps: step_decay(lr, steps / 3),
    "exponential": lambda lr, steps: exponential(lr, 0.01 ** (1 / steps)),
    "inverse_time": lambda lr, steps: inverse_time(lr, steps / 99),
    "inverse_sqrt": lambda lr, steps: inverse_sqrt(lr, steps / 99),
    "cosine": cosine,
    "warm_restarts": lambda lr, steps: warm_restarts(lr, steps / 7, mult=2),
    "stable_decay": stable_decay,
    "warmup_stable_decay": warmup_stable_decay,
}
