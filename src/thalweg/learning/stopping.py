"""Early stopping, and the data that it lets go to waste (section 8.1.2; Algorithms 7.1 to 7.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import ConcatDataset, TensorDataset

from thalweg.learning.batches import Arrays, Examples, Samples
from thalweg.learning.risk import Metric


def out_of_patience(values: Iterable[float], metric: Metric, patience: int, min_delta: float = 0.0) -> bool:
    """Whether the last `patience` measurements all failed to beat the best before them (Algorithm 7.1).

    Better means by more than `min_delta`. A pure function of what was measured, so that a resumed run stops where
    the uninterrupted one does.

    >>> from thalweg.learning.risk import accuracy
    >>> out_of_patience([0.5, 0.7, 0.7, 0.69], accuracy, patience=2)
    True
    >>> out_of_patience([0.5, 0.7, 0.69, 0.71], accuracy, patience=2)
    False
    """
    best, waited = metric.worst, 0
    for value in values:
        if metric.better(value, best, by=min_delta):
            best, waited = value, 0
        else:
            waited += 1
        if waited >= patience:
            return True
    return False


def joined(train: Examples, valid: Examples) -> Examples:
    """All the data, once the validation part has done its work.

    >>> a, b = (Arrays(torch.zeros(n, 1), torch.zeros(n)) for n in (3, 2))
    >>> len(joined(a, b))
    5
    """
    if isinstance(train, Arrays) and isinstance(valid, Arrays):
        return Arrays(torch.cat([train.inputs, valid.inputs]), torch.cat([train.targets, valid.targets]))
    return Samples(ConcatDataset([_dataset(train), _dataset(valid)]))


def _dataset(data: Any) -> Any:
    return TensorDataset(data.inputs, data.targets) if isinstance(data, Arrays) else data.dataset
