"""A budget of time (section 8.2): what is dear is looked at seldom, so that all of it together takes its share only."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

PAUSE = 20.0  # times the usual time between two steps: what is longer is no training (an evaluation, a night)
SMOOTH = 0.1  # of the latest time between two steps, in what is usual
CHEAP = 0.2  # of what is earned, for what is cheap: it does not wait while the rest saves up


@dataclass
class Share:
    """What one kind of look may take beside the others, and what it has taken so far, in seconds.

    `steps` is as how many steps of training a look is taken to be before the first one was timed.
    """

    weight: float
    steps: float
    cheap: bool = False
    spent: float = 0.0
    last: float | None = None  # seconds of the last look
    looks: int = 0


class Budget:
    """Who may look next, so that looks together take at most `cost` of the time between them.

    Times are told, not measured here: it is arithmetic. The next look is that which has had least, with this one, for
    its weight (Demers et al. 1989, fair queueing), and it is taken when what was earned pays for as long as the last of
    its kind took. What it takes beyond that is paid back before the next one.

    >>> budget = Budget(0.1, {"short": Share(0.5, 1.0), "long": Share(0.5, 30.0)})
    >>> for step in range(1000):
    ...     budget.passed(1.25)
    ...     for name in budget.due(["short", "long"]):
    ...         budget.took(name, 1.0 if name == "short" else 30.0)
    >>> budget.shares["short"].looks, budget.shares["long"].looks, budget.spent <= 0.1 * 1250
    (60, 1, True)
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

    def passed(self, seconds: float) -> None:
        """Time of training that went by; of a pause only a part counts."""
        self.usual = self.usual or seconds
        seconds = min(seconds, PAUSE * self.usual)
        self.usual += SMOOTH * (seconds - self.usual)
        self.elapsed += seconds

    def due(self, ready: Collection[str]) -> list[str]:
        """Who may look now of those that can: any of the cheap ones, one of the others; at most steps nobody."""
        if self.cost * self.elapsed - self.overhead < self._next or not self.usual:
            return []
        needed = {name: self._until(name) for name in self._queue(ready)}
        self._next = min(needed.values(), default=-math.inf)
        return [name for name, earned in needed.items() if self.earned >= earned]

    def _queue(self, ready: Collection[str]) -> list[str]:
        """The cheap ones, and the first of the others."""
        here = {name: share for name, share in self.shares.items() if name in ready}
        others = [name for name, share in here.items() if not share.cheap]
        cheap = [name for name, share in here.items() if share.cheap]
        if self.earned * (1 - CHEAP) >= self._dear + sum(self._needed(here[name]) for name in others):
            return [*cheap, *sorted(others, key=lambda name: here[name].looks)[:1]]  # there is enough for all
        return [*cheap, *sorted(others, key=self._turn)[:1]]

    @property
    def _dear(self) -> float:
        """Seconds that those took that are not cheap."""
        return sum(share.spent for share in self.shares.values() if not share.cheap)

    def _turn(self, name: str) -> float:
        share = self.shares[name]
        return (share.spent + self._needed(share)) / share.weight

    def _until(self, name: str) -> float:
        """What must have been earned for a look."""
        share = self.shares[name]
        cheap = [other for other in self.shares.values() if other.cheap]
        if share.cheap:
            return self._turn(name) * sum(other.weight for other in cheap) / CHEAP
        return (self._dear + self._needed(share)) / (1 - CHEAP)

    def took(self, name: str, seconds: float) -> None:
        """What a look took."""
        if name in self.shares:
            share = self.shares[name]
            share.spent += seconds
            share.last, share.looks = seconds, share.looks + 1
        else:
            self.overhead += seconds
        self._next = -math.inf

    def drop(self, name: str) -> None:
        """Leaves one out from now on; what it took stays taken."""
        self.overhead += self.shares.pop(name).spent
        self._next = -math.inf

    def wait(self, name: str) -> float:
        """Seconds of training until a look may be had, those before it in the queue among them."""
        mine = self._turn(name)
        before = [other for other in self.shares if not self.shares[other].cheap and self._turn(other) <= mine]
        missing = (self._dear + sum(self._needed(self.shares[other]) for other in before)) / (1 - CHEAP) - self.earned
        return max(missing, 0.0) / self.cost

    def _needed(self, share: Share) -> float:
        """What one more look takes."""
        return share.steps * self.usual if share.last is None else share.last

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
