"""Batches that are kept to see their order (section 8.1.3): pairs that followed each other, spread over the run."""

from __future__ import annotations

from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch

STRIDE = 4  # steps from pair to pair, at first
PAIRS, MOST = 4, 12  # of batches: looked at the first time, and kept
BYTES = 2**26  # in all


class Kept:
    """Copies of some batches with their steps; when there are too many, every other pair goes.

    >>> import torch
    >>> kept = Kept()
    >>> for step in range(1, 101):
    ...     if kept.wants(step):
    ...         kept.add(step, Batch(torch.zeros(2), torch.zeros(2)))
    >>> [step for step, _ in kept.pairs(2)]
    [8, 9, 96, 97]
    """

    def __init__(self) -> None:
        self.batches: list[tuple[int, Batch]] = []
        self.stride = STRIDE

    def wants(self, step: int) -> bool:
        """Whether the batch of a step is one of a pair."""
        return step >= self.stride and step % self.stride < 2

    def add(self, step: int, batch: Batch) -> None:
        """A copy of a batch. Raises DiagnosisError where they become too large to be kept."""
        self.batches.append((step, Batch(batch.inputs.clone(), batch.targets.clone())))
        if len(self.batches) > 2 * MOST:
            self.stride *= 2
            self.batches = [(step, batch) for step, batch in self.batches if self.wants(step)]
        if len(self.batches) * _bytes(batch) > BYTES:
            self.batches = []
            raise DiagnosisError(
                f"{2 * MOST} batches would take more than {BYTES >> 20} MB: their order is not looked at"
            )

    def pairs(self, count: int) -> list[tuple[int, Batch]]:
        """So many pairs, spread evenly over those that there are; fewer where there are not as many."""
        steps = [step for step, _ in self.batches]
        whole = [i for i in range(len(steps) - 1) if steps[i + 1] == steps[i] + 1 and steps[i] % self.stride == 0]
        if len(whole) > count:
            whole = [whole[i * (len(whole) - 1) // max(count - 1, 1)] for i in range(count)]
        return [self.batches[j] for i in whole for j in (i, i + 1)]


def _bytes(batch: Batch) -> int:
    return batch.inputs.nbytes + batch.targets.nbytes
