"""Full, mini and single batches (section 8.1.3); the order is a function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from thalweg.core.errors import ProblemError
from thalweg.core.network import Batch

GATHERED = 2**24  # bytes of inputs up to which an epoch is put in order at once instead of batch by batch


class Examples(Protocol):
    """Anything that has a length and hands out the examples of some indices as a Batch."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Batch: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples in memory: `inputs: (N, ...)`, `targets: (N, ...)`."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Tensor) -> Batch:
        """The examples of `indices: (b,)`."""
        return Batch(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True, eq=False)
class Samples:
    """A map-style torch Dataset of (input, target) pairs, collated when asked, so that augmentation stays alive."""

    dataset: Dataset[Any]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def take(self, indices: Tensor) -> Batch:
        """The examples of `indices: (b,)`."""
        inputs, targets = default_collate([self.dataset[i] for i in indices.tolist()])
        return Batch(inputs, targets)


def examples(given: Any, what: str = "data") -> Examples:
    """Examples of a torch Dataset, or of a pair of arrays or tensors (inputs, targets).

    Double precision becomes float32 and whole numbers int64, as the layers and losses of PyTorch expect them.
    Raises ProblemError for anything else, and for a pair of different lengths.

    >>> len(examples((np.zeros((5, 2)), np.zeros(5))))
    5
    """
    if isinstance(given, Arrays | Samples):
        return given
    if isinstance(given, TensorDataset) and len(given.tensors) == 2:
        given = given.tensors
    if isinstance(given, Dataset):
        return _samples(given, what)
    if isinstance(given, tuple | list) and len(given) == 2:
        inputs, targets = (_tensor(part, what) for part in given)
        if len(inputs) != len(targets):
            raise ProblemError(f"{what} has {len(inputs)} inputs and {len(targets)} targets: they must be pairs")
        if len(inputs) == 0:
            raise ProblemError(f"{what} is empty: give at least one example")
        return Arrays(inputs, targets)
    raise ProblemError(f"{what} is a {type(given).__name__}: give a torch Dataset, or a pair (inputs, targets)")


def _samples(dataset: Dataset[Any], what: str) -> Samples:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ProblemError(f"{what} is an iterable {type(dataset).__name__}: give one with a length and indices")
    if len(dataset) == 0:
        raise ProblemError(f"{what} is empty: give at least one example")
    first = dataset[0]
    if not (isinstance(first, tuple | list) and len(first) == 2):
        raise ProblemError(f"{what} gives a {type(first).__name__} for an example: give pairs (input, target)")
    return Samples(dataset)


def _tensor(values: Any, what: str) -> Tensor:
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise ProblemError(f"{what} holds {array.dtype} values: give numbers (encode text and categories first)")
        values = torch.from_numpy(np.array(array, dtype=_WIDER.get(array.dtype.kind, array.dtype.newbyteorder("="))))
    if values.dim() == 0:
        raise ProblemError(f"{what} is one number: its first dimension must be the examples")
    tensor: Tensor = values
    if tensor.dtype == torch.float64:
        return tensor.float()
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.long()


_WIDER = {"b": np.int64, "i": np.int64, "u": np.int64}


@dataclass(frozen=True)
class Batches:
    """The batches of a run, each a function of its step: epochs of shuffled examples, one after the other.

    `size` is a batch's number of examples: 1 is Algorithm 8.1 in its purest form, `len(data)` or more the full
    batch (which is never shuffled: a sum does not care). The last batch of an epoch is short where the size does
    not divide; its loss is the mean over its own examples, an unbiased estimate like the others, and averages
    over an epoch weigh it by its length. `drop_last` leaves it out. Without `shuffle` every epoch is in the order of
    the data: where that is sorted, batches are no fair samples (section 8.1.3).

    >>> batches = Batches(examples((np.arange(5.0), np.arange(5.0))), size=2, seed=1)
    >>> len(batches), [len(batches[t]) for t in range(4)]
    (3, [2, 2, 1, 2])
    >>> torch.equal(batches[7].inputs, batches[7].inputs)
    True
    """

    data: Examples
    size: int
    seed: int = 0
    drop_last: bool = False
    shuffle: bool = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ProblemError(f"a batch size of {self.size} was given: it must be 1 or more")
        if self.drop_last and self.size > len(self.data):
            raise ProblemError(f"drop_last leaves nothing: {len(self.data)} examples, batches of {self.size}")

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(len(self.data), self.size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def __getitem__(self, t: int) -> Batch:
        """The batch of step t, counted over all epochs from 0."""
        epoch, position = divmod(t, len(self))
        if self.size >= len(self.data):
            return _whole(self.data)  # type: ignore[arg-type]  # every class of examples hashes by identity
        part = slice(position * self.size, (position + 1) * self.size)
        if not self.shuffle:
            return self.data.take(torch.arange(len(self.data))[part])
        if isinstance(self.data, Arrays) and self.data.inputs.nbytes <= GATHERED:
            inputs, targets = _shuffled(self.data, self.seed, epoch)
            return Batch(inputs[part], targets[part])
        return self.data.take(permutation(len(self.data), self.seed, epoch)[part])

    def starting(self, t: int) -> Iterator[Batch]:
        """The batches from step t on, for ever."""
        while True:
            yield self[t]
            t += 1


@lru_cache(maxsize=8)
def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n examples in an epoch, `(n,)`: the same for the same (seed, epoch), on every machine."""
    bits = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.randperm(n, generator=torch.Generator().manual_seed(bits % 2**63))


@lru_cache(maxsize=2)
def _shuffled(data: Arrays, seed: int, epoch: int) -> Batch:
    """A whole epoch in its order: gathered once, its batches are views."""
    return data.take(permutation(len(data), seed, epoch))


@lru_cache(maxsize=4)
def _whole(data: Examples) -> Batch:
    return data.take(torch.arange(len(data)))
