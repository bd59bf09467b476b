"""The plan: what a budget buys, decided before the race and printed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from thalweg.core.errors import BudgetError

RUNGS = (1 / 16, 1 / 4, 1.0)  # fractions of a run after which an algorithm's trials are compared, and most are cut
KEEP = 1 / 4
SEEDS = 3  # fresh seeds that an algorithm's best is confirmed on, at least
MOST_SEEDS = 10
TRIALS = (4, 6, 8, 12, 16, 24, 32, 48, 64)  # per algorithm, what a budget of time may buy
LEAST_STEPS = 50
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

    @property
    def rungs(self) -> list[int]:
        """The steps at which trials are compared, the last being the whole run; each is a measured step."""
        cuts = {max(1, round(fraction * self.steps / self.every)) * self.every for fraction in RUNGS[:-1]}
        return [*sorted(cut for cut in cuts if cut < self.steps), self.steps]

    @property
    def rounds(self) -> tuple[int, int]:
        """Trials of an algorithm in screening and in refinement."""
        return self.trials - self.trials // 2, self.trials // 2

    def equivalents(self) -> float:
        """Whole runs that the trials of one algorithm cost, halving counted, confirmation too."""
        return sum(self.cost(n) for n in self.rounds) + self.seeds

    def cost(self, n: int) -> float:
        """Whole runs that n trials cost when most are cut."""
        whole, before = 0.0, 0
        for rung in self.rungs:
            whole += n * (rung - before) / self.steps
            n, before = survivors(n), rung
        return whole

    def sentences(self, algorithms: int, seconds_per_run: float, workers: int) -> list[str]:
        """The plan in words."""
        wall = algorithms * self.equivalents() * seconds_per_run / workers
        first, second = self.rounds
        cuts = " and ".join(str(rung) for rung in self.rungs[:-1])
        halving = f" (the best {KEEP:.0%} go on after {cuts})" if cuts else ""
        return [
            f"{algorithms} algorithms, each {first} + {second} trials of {self.steps} steps{halving}, "
            f"{self.batch_size} examples a step",
            f"then the best of each on {self.seeds} fresh seeds; about {duration(wall)} on {workers} processes",
        ]


def survivors(n: int) -> int:
    """How many of n trials of an algorithm go on after a rung: a quarter, but two of six or more."""
    return max(math.ceil(n * KEEP), 2 if n >= 6 else 1)


def fixed(steps: int, batch_size: int, trials: int) -> Plan:
    """The plan of a budget in trials per algorithm: no clock is read, so the same study comes out every time."""
    if trials < 2:
        raise BudgetError(f"{trials} trials per algorithm were given: 2 are the least that can be compared")
    return Plan(steps, batch_size, trials, min(MOST_SEEDS, SEEDS + trials // 16))


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
        fitting = [n for n in TRIALS if wall(Plan(length, batch_size, n, SEEDS)) <= usable]
        if fitting:
            trials = fitting[-1]
            seeds = [k for k in range(SEEDS, 6) if wall(Plan(length, batch_size, trials, k)) <= usable]
            return Plan(length, batch_size, trials, seeds[-1])
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
    return f"{whole // 3600} h {whole % 3600 // 60} min".replace(" 0 min", "")
