"""The plan: what a budget buys, decided before the race and printed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from thalweg.core.errors import BudgetError

# Fractions of a whole run after which an algorithm's trials are compared and most are cut. Screening runs are short,
# each with a decay of its own: learning curves cross under a decay that is still to come.
SCREENING = (1 / 24, 1 / 6)
REFINEMENT = (1 / 4, 1.0)
KEEP = 1 / 4
SEEDS = 3  # fresh seeds that an algorithm's best is confirmed on, at least
MOST_SEEDS = 10
TRIALS = (4, 6, 8, 12, 16, 24, 32, 48, 64)  # per algorithm, what a budget of time may buy
LEAST_STEPS = 50
FEWEST = 6  # steps of an algorithm whose steps are so dear that a run's time buys no more
MEASUREMENTS = 24  # of a run's validation metric
SLACK = 0.85  # of a time budget that is planned with: the rest is for waiting at rungs and a noisy machine
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Plan:
    """What will be run: per algorithm, `trials` points in two rounds, then confirmation on `seeds` fresh seeds."""

    steps: int
    batch_size: int
    trials: int
    seeds: int

    @property
    def every(self) -> int:
        """Steps between two measurements of a run."""
        return max(1, self.steps // MEASUREMENTS)

    def rungs(self, fractions: tuple[float, ...]) -> list[int]:
        """The steps at which trials are compared, one a fraction, the last being their end; each is a measured step."""
        every, whole = self.every, self.steps
        ends = (whole if f == 1 else max(1, round(f * whole / every)) * every for f in fractions)
        return [min(end, whole) for end in ends]

    def at_pace(self, cost: float) -> Plan:
        """The plan of an algorithm whose steps cost `cost` times as much: of fewer steps, for the same time."""
        steps = max(FEWEST, round(self.steps / cost)) if cost > 1 else self.steps
        return replace(self, steps=min(steps, self.steps))

    @property
    def rounds(self) -> tuple[int, int]:
        """Trials of an algorithm in screening and in refinement: one at least, for a verdict is on whole runs."""
        second = max(1, self.trials // 3)
        return self.trials - second, second

    def equivalents(self) -> float:
        """Whole runs that the trials of one algorithm cost, halving counted, confirmation too."""
        first, second = self.rounds
        return self.cost(first, SCREENING) + self.cost(second, REFINEMENT) + self.seeds

    def cost(self, n: int, fractions: tuple[float, ...]) -> float:
        """Whole runs that n trials cost when most are cut."""
        whole, before = 0.0, 0
        for rung in self.rungs(fractions):
            whole += n * (rung - before) / self.steps
            n, before = survivors(n), rung
        return whole

    def sentences(self, algorithms: int, seconds_per_run: float, workers: int) -> list[str]:
        """The plan in words."""
        wall = algorithms * self.equivalents() * seconds_per_run / workers
        first, second = self.rounds
        cut, short = (" and ".join(map(str, r)) for r in (self.rungs(SCREENING)[:-1], self.rungs(SCREENING)[-1:]))
        later = self.rungs(REFINEMENT)[0]
        points = "point" if first == 1 else "points"
        return [
            f"{algorithms} algorithms, {self.batch_size} examples a step",
            f"each screens {first} {points} in runs of {short} steps (the best {KEEP:.0%} go on after {cut})",
            f"then {second} near its best in runs of {self.steps} steps (the best {KEEP:.0%} go on after {later})",
            f"then its best again on {self.seeds} fresh seeds; about {duration(wall)} on {workers} processes",
        ]


def survivors(n: int) -> int:
    """How many of n trials of an algorithm go on after a rung: a quarter."""
    return math.ceil(n * KEEP)


def fixed(steps: int, batch_size: int, trials: int) -> Plan:
    """The plan of a budget in trials per algorithm: no clock is read, so the same study comes out every time."""
    if trials < 2:
        raise BudgetError(f"{trials} trials per algorithm were given: 2 are the least that can be compared")
    return Plan(steps, batch_size, trials, confirmations(trials))


def confirmations(trials: int) -> int:
    """Fresh seeds for an algorithm that gets so many trials: the better it is searched, the surer one can be of it."""
    return min(max(SEEDS, trials // 6), MOST_SEEDS)


def planned(budget: float, steps: int, batch_size: int, algorithms: int, seconds_per_step: float, workers: int) -> Plan:
    """The plan of a budget in seconds: as many trials as it buys; shorter runs only where the fewest do not fit.

    Raises BudgetError saying how much the smallest comparison needs.
    """

    def wall(plan: Plan) -> float:
        runs = algorithms * plan.equivalents() * 1.1 + 1  # a tenth for widening and controls; the final run
        return runs * plan.steps * seconds_per_step / workers

    usable = budget * SLACK
    shorter = [s for s in (steps, steps * 3 // 4, steps // 2, steps // 3, steps // 4) if s >= min(steps, LEAST_STEPS)]
    for length in shorter:
        plans = [Plan(length, batch_size, n, confirmations(n)) for n in TRIALS]
        fitting = [plan for plan in plans if wall(plan) <= usable]
        if fitting:
            return fitting[-1]
    needed = wall(Plan(shorter[-1], batch_size, TRIALS[0], SEEDS)) / SLACK
    raise BudgetError(
        f"a budget of {duration(budget)} is too small to try anything here: {algorithms} algorithms need about "
        f"{duration(math.ceil(needed))}; give more, or fewer --algorithms"
    )


def seconds(text: str | float) -> float:
    """A duration in seconds, from "90s", "5m", "1h30m" or a number of seconds.

    >>> seconds("1h30m"), seconds(90)
    (5400.0, 90.0)
    """
    if isinstance(text, int | float):
        total = float(text)
    else:
        written = text.strip().lower()
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", written)
        if not parts or "".join(a + b for a, b in parts) != written:
            raise BudgetError(f"'{text}' is no duration: write 90s, 5m, 1h30m or 2h")
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not (total > 0 and math.isfinite(total)):
        raise BudgetError(f"a budget of {text} was given: it must be positive, like 5m")
    return total


def duration(length: float) -> str:
    """Seconds as people say them.

    >>> duration(0.4), duration(95), duration(7300)
    ('0.4 s', '1 min 35 s', '2 h 2 min')
    """
    if length < 10:
        return f"{length:.1f} s".replace(".0 s", " s")
    whole = round(length)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".replace(" 0 s", "")
    minutes = round(length / 60)
    return f"{minutes // 60} h {minutes % 60} min".replace(" 0 min", "")
