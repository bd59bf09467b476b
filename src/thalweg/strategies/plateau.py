"""Decay when learning stalls: a function over the stream of Steps, not of t (section 8.3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from thalweg.core.errors import AlgorithmError


class HasLoss(Protocol):
    """What `watch` needs of a Step."""

    @property
    def loss(self) -> float: ...  # noqa: D102


S = TypeVar("S", bound=HasLoss)
_STATE = ("lr", "best", "bad", "cooling")


@dataclass
class Plateau:
    """An lr that is multiplied by `factor` when more than `patience` observations in a row are no better.

    It is a knob: pass it as `lr`, and let it `watch` the stream or `observe` a value whenever there is one, say a
    validation loss. Better is by more than `threshold` times the best so far, lower or (`mode="max"`) higher. After a
    decay `cooldown` observations do not count as bad. lr goes no lower than `min_lr`. `state` and `load` are for
    checkpoints. The decisions are those of torch's ReduceLROnPlateau, but for a negative best, which its relative
    threshold moves to the wrong side.

    Raises AlgorithmError for a factor that is not in (0, 1) or an unknown mode.

    >>> import torch
    >>> from thalweg import Batch, Network, descend, sgd
    >>> network = Network(torch.nn.Linear(1, 1), torch.nn.functional.l1_loss)
    >>> batch, lr = Batch(torch.ones(4, 1), torch.ones(4, 1)), Plateau(0.5, patience=2)
    >>> for step in lr.watch(descend(network, sgd, [batch] * 50, lr=lr)):
    ...     pass
    >>> step.knobs["lr"] < 0.1
    True
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min_lr: float = 0.0
    mode: str = "min"
    best: float | None = None
    bad: int = 0  # observations in a row that were no better
    cooling: int = 0  # observations left that do not count

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise AlgorithmError(f"Plateau was given factor={self.factor}: it must be between 0 and 1")
        if self.mode not in ("min", "max"):
            raise AlgorithmError(f"Plateau was given mode='{self.mode}': it must be 'min' or 'max'")

    def __call__(self, t: int) -> float:
        """The lr now; which step it is does not matter."""
        return self.lr

    def watch(self, steps: Iterable[S], value: Callable[[S], float | None] = lambda step: step.loss) -> Iterator[S]:
        """The same steps; on their way through, the value of each is observed unless it is None."""
        for step in steps:
            observed = value(step)
            if observed is not None:
                self.observe(observed)
            yield step

    def observe(self, value: float) -> None:
        """Takes a new value into account; NaN is never better."""
        if self._better(value):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.cooling > 0:
            self.cooling, self.bad = self.cooling - 1, 0
        if self.bad > self.patience:
            self.lr = max(self.lr * self.factor, self.min_lr)
            self.cooling, self.bad = self.cooldown, 0

    def _better(self, value: float) -> bool:
        if self.best is None:
            return value == value
        margin = self.threshold * abs(self.best)
        return value < self.best - margin if self.mode == "min" else value > self.best + margin

    def state(self) -> dict[str, Any]:
        """What the future depends on, for JSON."""
        return {name: value for name, value in asdict(self).items() if name in _STATE}

    def load(self, state: dict[str, Any]) -> None:
        """Goes back to a state."""
        for name in _STATE:
            setattr(self, name, state[name])
