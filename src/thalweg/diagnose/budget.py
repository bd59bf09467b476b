"""A budget of time (section 8.2): what is dear is looked at seldom, so that all of it together takes its share only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAUSE = 20.0  # times the usual time between two steps: what is longer is no training (an evaluation, a night)
SMOOTH = 0.1  # of the latest time between two steps, in what is usual


@dataclass
class Share:
    """What one kind of look may take: a part of the budget, and what it has taken so far, in seconds.

    `steps` is as how many steps of training a look is taken to be before the first one was timed.
    """

    weight: float
    steps: float
    spent: float = 0.0
    last: float | None = None  # seconds of the last look
    looks: int = 0


class Budget:
    """Who may look next, so that looks together take at most `cost` of the time between them.

    Times are told, not measured here: it is arithmetic. A look is taken when its share of what was earned pays for all
    of its kind so far, and for one more that takes as long as the last. What a look took beyond that is paid back
    before the next one.

    >>> budget = Budget(0.1, {"cheap": Share(0.5, 1.0), "dear": Share(0.5, 30.0)})
    >>> for step in range(1000):
    ...     budget.passed(1.0)
    ...     for name in budget.due():
    ...         budget.took(name, 1.0 if name == "cheap" else 30.0)
    >>> budget.shares["cheap"].looks, budget.shares["dear"].looks, budget.spent <= 0.1 * 1000
    (50, 1, True)
    """

    def __init__(self, cost: float, shares: Mapping[str, Share]) -> None:
        self.cost, self.shares = cost, dict(shares)
        self.elapsed = self.overhead = self.usual = 0.0
        self._next = -math.inf  # what must have been earned before anybody is due

    @property
    def earned(self) -> float:
        """Seconds that looks may have taken by now."""
        return self.cost * self.elapsed - self.overhead

    @property
    def spent(self) -> float:
        """Seconds that were taken."""
        return self.overhead + sum(share.spent for share in self.shares.values())

    def passed(self, seconds: float, overhead: float = 0.0) -> None:
        """Time of training that went by, and what looking at nothing took of it; of a pause only a part counts."""
        self.usual = self.usual or seconds
        seconds = min(seconds, PAUSE * self.usual)
        self.usual += SMOOTH * (seconds - self.usual)
        self.elapsed += seconds
        self.overhead += overhead

    def due(self) -> list[str]:
        """Who may look now; empty at most steps, and then at no expense."""
        if self.earned < self._next or not self.shares:
            return []
        whole = sum(share.weight for share in self.shares.values())
        needed = {name: self._needed(share) * whole / share.weight for name, share in self.shares.items()}
        self._next = min(needed.values())
        return [name for name, seconds in needed.items() if self.earned >= seconds]

    def took(self, name: str, seconds: float, finished: bool = True) -> None:
        """What a look took; one that is not finished yet (it goes on at the next step) is not counted as one."""
        if name in self.shares:
            share = self.shares[name]
            share.spent += seconds
            if finished:
                share.last, share.looks = seconds, share.looks + 1
        else:
            self.overhead += seconds
        self._next = -math.inf

    def drop(self, name: str) -> None:
        """Leaves one out from now on: the others share what it had; what it took stays taken."""
        self.overhead += self.shares.pop(name).spent
        self._next = -math.inf

    def wait(self, name: str) -> float:
        """Seconds of training until a look may be had."""
        whole = sum(share.weight for share in self.shares.values())
        missing = self._needed(self.shares[name]) * whole / self.shares[name].weight - self.earned
        return max(missing, 0.0) / self.cost

    def _needed(self, share: Share) -> float:
        """What a share's looks so far and one more take."""
        return share.spent + (share.steps * self.usual if share.last is None else share.last)

    def state(self) -> dict[str, Any]:
        """It as plain data."""
        shares = {name: (share.spent, share.last, share.looks) for name, share in self.shares.items()}
        return {"elapsed": self.elapsed, "overhead": self.overhead, "usual": self.usual, "shares": shares}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from plain data: who is not in it was dropped."""
        self.elapsed, self.overhead, self.usual = (state[name] for name in ("elapsed", "overhead", "usual"))
        self.shares = {name: share for name, share in self.shares.items() if name in state["shares"]}
        for name, (spent, last, looks) in state["shares"].items():
            if name in self.shares:
                share = self.shares[name]
                share.spent, share.last, share.looks = spent, last, looks
        self._next = -math.inf
