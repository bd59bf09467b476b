"""Scales: where a value lies along an axis, in percent of it, and where its ticks are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

TICKS = 6  # at most about so many: what a phone has room for
_PADDING = 0.04  # of the values' range, left free at both ends


class Tick(NamedTuple):
    """A tick: where it is, in percent of the axis, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, drawn from `start` to `end` percent; `forward` makes it linear.

    >>> logarithmic([1e-3, 1.0], padding=0).at(1e-3 ** 0.5)
    50.0
    """

    low: float
    high: float
    forward: Callable[[float], float]
    marks: list[float]
    start: float = 0.0
    end: float = 100.0

    def at(self, value: float) -> float:
        """Where a value lies, in percent; what is outside lies on the border."""
        low, high = self.forward(self.low), self.forward(self.high)
        inside = min(max(value, self.low), self.high)
        fraction = (self.forward(inside) - low) / (high - low)
        return round(self.start + (self.end - self.start) * fraction, 2)

    @property
    def ticks(self) -> list[Tick]:
        """The ticks that lie inside."""
        inside = (v for v in self.marks if self.low * (1 - 1e-12) <= v <= self.high * (1 + 1e-12) or v == self.low)
        return [Tick(self.at(v), label(v)) for v in inside]


def label(value: float) -> str:
    """A number as short as it can be said.

    >>> label(1e-05), label(0.25), label(20000), label(0)
    ('1e-5', '0.25', '20000', '0')
    """
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.4e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"


def linear(
    values: Iterable[float],
    *,
    start: float = 0.0,
    end: float = 100.0,
    zero: bool = False,
    padding: float = _PADDING,
    ticks: int = TICKS,
) -> Scale:
    """A linear scale around the finite values; from 0 where `zero`."""
    low, high = _ends(values)
    low = min(low, 0.0) if zero else low
    if low == high:
        low, high = low - 0.5 * (not zero), high + 0.5
    room = padding * (high - low)
    low, high = (low if zero and low == 0 else low - room), high + room
    return Scale(low, high, _same, _round_numbers(low, high, ticks), start, end)


def logarithmic(
    values: Iterable[float],
    *,
    start: float = 0.0,
    end: float = 100.0,
    padding: float = _PADDING,
    ticks: int = TICKS,
) -> Scale:
    """A logarithmic scale around the finite positive values."""
    low, high = _ends((v for v in values if v > 0), otherwise=(1.0, 10.0))
    if low == high:
        low, high = low / 2, high * 2
    room = (high / low) ** padding
    low, high = low / room, high * room
    return Scale(low, high, math.log, _decades(low, high, ticks), start, end)


def nines(values: Iterable[float], *, start: float = 0.0, end: float = 100.0) -> Scale:
    """A scale for shares of 1, logarithmic in what is missing to 1: 0.9 lies as far from 0.99 as 0.99 from 0.999.

    A perfect 1 lies on the border, half the smallest other distance beyond the next.

    >>> scale = nines([0.0, 0.9, 0.99, 0.999])
    >>> round(scale.at(0.99) - scale.at(0.9), 1) == round(scale.at(0.999) - scale.at(0.99), 1)
    True
    """
    missing = [1 - v for v in values if math.isfinite(v)]
    floor = min((m for m in missing if m > 0), default=0.1) / (2 if 0 in missing else 1)
    inner = logarithmic([max(m, floor) for m in missing])
    high = 1 - inner.low
    return Scale(1 - inner.high, high, lambda v: -math.log(1 - v), [round(1 - m, 12) for m in inner.marks], start, end)


def symmetric(
    values: Iterable[float], *, start: float = 0.0, end: float = 100.0, padding: float = _PADDING, smallest: float = 0.0
) -> Scale:
    """A scale for values of either sign, and 0: logarithmic to both sides of it, linear about it.

    What is below `smallest`, or where that is 0 below 1e-4 of the largest, lies about 0.

    >>> scale = symmetric([-100.0, 100.0], padding=0)
    >>> scale.at(0.0), round(scale.at(100.0) - scale.at(10.0), 1) == round(scale.at(-10.0) - scale.at(-100.0), 1)
    (50.0, True)
    """
    low, high = _ends([*values, 0.0])
    high = high if high > low else 1.0
    largest = max(abs(low), abs(high))
    unit = min(max(smallest, 1e-4 * largest), largest)

    def forward(value: float) -> float:
        return math.asinh(value / unit)

    room = padding * (forward(high) - forward(low))
    low, high = unit * math.sinh(forward(low) - room), unit * math.sinh(forward(high) + room)
    sides = [sign * mark for sign in (-1, 1) for mark in _decades(unit, largest * 10)]
    marks = sorted(mark for mark in [*sides, 0.0] if low <= mark <= high)
    return Scale(low, high, forward, _apart(marks, forward, (forward(high) - forward(low)) / (2 * TICKS)), start, end)


def _apart(marks: Iterable[float], forward: Callable[[float], float], gap: float) -> list[float]:
    """Marks without those that are nearer to one that counts more, 0 or a larger one, than a gap."""
    kept: list[float] = []
    for mark in sorted(marks, key=lambda m: (m != 0, -abs(m))):
        if all(abs(forward(mark) - forward(other)) >= gap for other in kept):
            kept.append(mark)
    return sorted(kept)


def _same(value: float) -> float:
    return value


def _ends(values: Iterable[float], otherwise: tuple[float, float] = (0.0, 1.0)) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)]
    return (min(finite), max(finite)) if finite else otherwise


def _round_numbers(low: float, high: float, ticks: int = TICKS) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two numbers, `ticks` steps at most."""
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float, ticks: int = TICKS) -> list[float]:
    """Powers of ten between two numbers; with 2 and 5 times them, or 3, where there are few; not all where many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    within = sum(low <= 10.0**e <= high for e in range(first, last + 1))
    if within <= 1 and high / low < 3:
        return _round_numbers(low, high, ticks)
    every = max(1, math.ceil(within / ticks))

    def times(*factors: int) -> list[float]:
        marks = [factor * 10.0**e for e in range(first, last + 1, every) for factor in factors]
        return [mark for mark in marks if low <= mark <= high]

    finer = [times(1, 2, 5), times(1, 3)] if within <= 2 else []
    return next((marks for marks in finer if len(marks) <= ticks), times(1))
