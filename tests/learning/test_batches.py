"""Full, mini and single batches; the order is a function of (seed, epoch)."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from thalweg.core.errors import ProblemError
from thalweg.learning.batches import Arrays, Batches, Samples, examples, permutation


def counted(n: int) -> Arrays:
    return Arrays(torch.arange(n), torch.arange(n) * 10)


class Squares(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        return torch.tensor([float(i)]), i * i


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.ones(1), 0


@pytest.mark.parametrize("size", [1, 3, 7, 10, 50])
def test_an_epoch_shows_every_example_once(size):
    batches = Batches(counted(10), size, seed=3)
    seen = torch.cat([batches[t].inputs for t in range(len(batches))])
    assert sorted(seen.tolist()) == list(range(10))


def test_inputs_and_targets_stay_pairs():
    batches = Batches(counted(10), 4)
    assert all(torch.equal(batches[t].targets, 10 * batches[t].inputs) for t in range(9))


def test_a_batch_is_a_function_of_seed_and_step():
    one, other = Batches(counted(100), 8, seed=5), Batches(counted(100), 8, seed=5)
    ahead = one[40].inputs
    for t in range(40):
        other[t]
    assert torch.equal(other[40].inputs, ahead)
    torch.manual_seed(99)
    assert torch.equal(one[40].inputs, ahead)


def test_epochs_and_seeds_have_different_orders():
    orders = {tuple(permutation(20, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_asking_for_an_order_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    permutation(31, 1, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_last_batch_is_short_or_dropped():
    assert [len(b) for _, b in zip(range(3), Batches(counted(5), 2).starting(0), strict=False)] == [2, 2, 1]
    dropping = Batches(counted(5), 2, drop_last=True)
    assert len(dropping) == 2
    assert [len(dropping[t]) for t in range(4)] == [2, 2, 2, 2]


def test_batch_means_weighed_by_their_lengths_are_the_mean():
    batches = Batches(counted(11), 4, seed=2)
    parts = [batches[t].targets.double() for t in range(len(batches))]
    assert sum(len(p) * p.mean() for p in parts) / 11 == 50


def test_a_full_batch_is_in_the_order_of_the_data():
    assert Batches(counted(6), 6, seed=1)[3].inputs.tolist() == list(range(6))


def test_the_order_is_on_record():
    assert permutation(8, seed=1, epoch=2).tolist() == [0, 1, 5, 4, 7, 2, 6, 3]


def test_starting_anywhere_is_going_on_from_there():
    batches = Batches(counted(10), 3, seed=7)
    stream = batches.starting(5)
    assert all(torch.equal(next(stream).inputs, batches[t].inputs) for t in range(5, 12))


def test_a_dataset_is_asked_for_its_examples_each_time():
    data = examples(Squares())
    assert isinstance(data, Samples)
    batch = data.take(torch.tensor([3, 1]))
    assert batch.inputs.tolist() == [[3.0], [1.0]] and batch.targets.tolist() == [9, 1]


def test_a_tensor_dataset_is_taken_as_arrays():
    data = examples(TensorDataset(torch.ones(4, 2), torch.zeros(4)))
    assert isinstance(data, Arrays) and len(data) == 4


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint16, np.int32, np.int64, np.bool_, ">i4"])
def test_whole_numbers_and_booleans_become_int64(kind):
    data = examples((np.ones((3, 2), kind), np.ones(3, kind)))
    assert data.inputs.dtype == data.targets.dtype == torch.int64
    assert data.targets.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [np.float32, np.float64, ">f8"])
def test_floats_become_float32(kind):
    assert examples((np.full((3, 2), 0.5, kind), np.ones(3))).inputs.tolist() == [[0.5, 0.5]] * 3


def test_arrays_that_cannot_be_written_to_are_copied():
    values = np.arange(4.0, dtype=np.float32)
    values.flags.writeable = False
    assert examples((values, values)).inputs.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((np.zeros(3), np.zeros(2)), "train has 3 inputs and 2 targets"),
        ((np.zeros((0, 2)), np.zeros(0)), "train is empty"),
        ((np.array(["a", "b"]), np.zeros(2)), "train holds <U1 values: give numbers"),
        ((np.float64(3.0), np.zeros(2)), "train is one number"),
        (np.zeros((3, 2)), "train is a ndarray: give a torch Dataset, or a pair"),
        (TensorDataset(torch.zeros(3)), "train gives a tuple for an example: give pairs"),
        (Stream(), "train is an iterable Stream: give one with a length"),
    ],
)
def test_data_of_another_kind_is_refused(given, message):
    with pytest.raises(ProblemError, match=message):
        examples(given, "train")


def test_sizes_that_leave_no_batch_are_refused():
    with pytest.raises(ProblemError, match="a batch size of 0 was given"):
        Batches(counted(5), 0)
    with pytest.raises(ProblemError, match="drop_last leaves nothing: 5 examples, batches of 6"):
        Batches(counted(5), 6, drop_last=True)
