"""What a monitor saw over the steps (section 8.2), as plain numbers of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MOST = 4096  # readings of one figure; beyond, every other one is let go


class Reading(NamedTuple):
    """A figure after so many steps, and the ends of its interval where it has one."""

    step: int
    value: float
    low: float
    high: float


class Series:
    """Readings of one figure over the steps, spread evenly: when there are too many, every other one goes.

    >>> series = Series(most=4)
    >>> for step in range(1, 11):
    ...     series.add(step, 10.0 * step)
    >>> series.steps, series.values
    ([1, 5, 9], [10.0, 50.0, 90.0])
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.stride, self.seen = most, 1, 0
        self.steps: list[int] = []
        self.values: list[float] = []
        self.ends: dict[int, tuple[float, float]] = {}  # by step, of figures with an interval

    def add(self, step: int, value: float, ends: tuple[float, float] | None = None) -> None:
        """A reading, which is kept or not."""
        self.seen += 1
        if (self.seen - 1) % self.stride:
            return
        self.steps.append(step)
        self.values.append(value)
        if ends is not None:
            self.ends[step] = ends
        if len(self.steps) > self.most:
            self.stride *= 2
            del self.steps[1::2], self.values[1::2]
            self.ends = {step: self.ends[step] for step in self.steps if step in self.ends}

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Reading]:
        for step, value in zip(self.steps, self.values, strict=True):
            yield Reading(step, value, *self.ends.get(step, (value, value)))

    def last(self, n: int) -> float:
        """The mean of the last n readings."""
        kept = self.values[-n:]
        return sum(kept) / len(kept)

    def state(self) -> dict[str, Any]:
        """It as plain data."""
        ends = [[step, *pair] for step, pair in self.ends.items()]
        kept = {"steps": [*self.steps], "values": [*self.values], "ends": ends}
        return {"stride": self.stride, "seen": self.seen, **kept}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from plain data."""
        self.stride, self.seen = state["stride"], state["seen"]
        self.steps, self.values = [*state["steps"]], [*state["values"]]
        self.ends = {step: (low, high) for step, low, high in state["ends"]}
