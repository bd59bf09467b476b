"""What a loop tells of itself (section 8.2): losses, lengths of gradients, how far parameters go; nothing is computed
twice, and an accelerator is not waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from thalweg.challenges.divergence import diverged
from thalweg.challenges.finding import Finding, Severity
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly
from thalweg.diagnose.history import Series

PENDING = 64  # figures on an accelerator that are waited for together
LOSSES = 10  # whose mean is the loss at first, and now


class Late:
    """Hands figures on, those on an accelerator many at a time.

    >>> seen = []
    >>> late = Late(lambda step, value: seen.append((step, value)))
    >>> late.add(1, torch.tensor(0.5))
    >>> seen
    [(1, 0.5)]
    """

    def __init__(self, told: Callable[[int, float], None]) -> None:
        self.told = told
        self.waiting: list[tuple[int, Tensor]] = []

    def add(self, step: int, value: Tensor | float) -> None:
        """A figure of a step. Raises DiagnosisError for what is not one number."""
        if not isinstance(value, Tensor):
            self.told(step, float(value))
        elif value.numel() != 1:
            raise DiagnosisError(f"a tensor of shape {tuple(value.shape)} was given: give one number, a mean")
        elif value.is_cpu:
            self.told(step, value.item())
        else:
            self.waiting.append((step, value.detach().clone()))
            if len(self.waiting) >= PENDING:
                self.flush()

    def flush(self) -> None:
        """Waits for what is not known yet."""
        waiting, self.waiting = self.waiting, []
        if waiting:
            values = torch.stack([value.reshape(()).double() for _, value in waiting]).tolist()
            for (step, _), value in zip(waiting, values, strict=True):
                self.told(step, value)


class Losses:
    """The losses of a run: their course, how much of the first has gone, and since when they are no numbers."""

    def __init__(self) -> None:
        self.series = Series()
        self.first: list[float] = []
        self.broken: list[tuple[int, float]] = []  # the first that was not finite, and the latest
        self.count, self.last = 0, 0  # of those that were not; the last step

    def hear(self, step: int, loss: float) -> None:
        """The loss of a step."""
        self.last = step
        if not math.isfinite(loss):
            self.broken = [*self.broken[:1], (step, loss)]
            self.count += 1
            return
        if len(self.first) < LOSSES:
            self.first.append(loss)
        self.series.add(step, loss)

    @property
    def fallen(self) -> Measured:
        """The share of the first losses that has gone; all, where they are not positive, for then nobody knows."""
        if not self.first or not (first := math.fsum(self.first) / len(self.first)) > 0:
            return exactly(1.0)
        return exactly(1 - self.series.last(LOSSES) / first)

    def findings(self) -> list[Finding]:
        """What a loss that is no number says: critical while it lasts.

        >>> losses = Losses()
        >>> for step, loss in enumerate([2.0, 1.5, math.inf, math.nan], 1):
        ...     losses.hear(step, loss)
        >>> print(losses.findings()[0].what)
        the loss is inf at step 3, and no number at 2 of 4 steps
        """
        if not self.broken:
            return []
        (step, loss), latest = self.broken[0], self.broken[-1][0]
        severity: Severity = "critical" if latest == self.last else "warning"
        what = f"the loss is {loss:g} at step {step}, and no number at {self.count} of {self.last} steps"
        advice = f"go back to before step {step}; lower lr or warm it up, clip gradients, and look at that step's batch"
        return [diverged(what, self.count, advice, severity)]

    def state(self) -> dict[str, Any]:
        """It as plain data."""
        return {
            "series": self.series.state(), "first": [*self.first], "broken": [list(pair) for pair in self.broken],
            "count": self.count, "last": self.last,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from plain data."""
        self.series.load(state["series"])
        self.first, self.broken = [*state["first"]], [(step, loss) for step, loss in state["broken"]]
        self.count, self.last = state["count"], state["last"]


@torch.no_grad()
def length(tensors: Iterable[Tensor]) -> Tensor:
    """The length of tensors as one vector.

    >>> length([torch.tensor([3.0]), torch.tensor([[4.0]])])
    tensor(5.)
    """
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    lengths = torch._foreach_norm(dense)
    there = lengths[0].device
    found: Tensor = torch.stack([each.to(there, torch.float32) for each in lengths]).norm()
    return found


def gradient_length(optimizer: torch.optim.Optimizer) -> Tensor:
    """The length of the gradient as it stands in `.grad`. Raises DiagnosisError where there is none."""
    found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not found:
        raise DiagnosisError("no parameter has a gradient: call step() before zero_grad(), or give norm=")
    return length(found)
