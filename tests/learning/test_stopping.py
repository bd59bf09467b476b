"""Early stopping is a function of what was measured (Algorithm 7.1)."""

import math

import torch
from torch.utils.data import Dataset

from thalweg.learning.batches import examples
from thalweg.learning.risk import Metric, accuracy
from thalweg.learning.stopping import joined, out_of_patience

error = Metric("error", lambda outputs, targets: 0.0, higher_is_better=False)


def by_the_book(values, patience):
    """Algorithm 7.1, line by line: the number of measurements that it takes."""
    j, v, i = 0, math.inf, 0
    while j < patience and i < len(values):
        seen = values[i]
        i += 1
        j, v = (0, seen) if seen < v else (j + 1, v)
    return i


def test_it_stops_where_the_book_does():
    random = torch.Generator().manual_seed(0)
    for patience in (1, 2, 3, 5):
        for _ in range(50):
            values = torch.rand(30, generator=random).tolist()
            stops = [n for n in range(1, 31) if out_of_patience(values[:n], error, patience)]
            assert (stops or [30])[0] == by_the_book(values, patience)


def test_once_out_of_patience_it_stays_so():
    values = [3.0, 4.0, 4.0, 1.0]
    assert out_of_patience(values[:3], error, 2) and out_of_patience(values, error, 2)


def test_the_metric_says_which_way_is_better():
    rising = [0.1, 0.2, 0.3]
    assert not out_of_patience(rising, accuracy, 2) and out_of_patience(rising, error, 2)


def test_an_improvement_within_min_delta_is_none():
    creeping = [0.50, 0.51, 0.52, 0.53]
    assert out_of_patience(creeping, accuracy, 3, min_delta=0.1)
    assert not out_of_patience(creeping, accuracy, 3, min_delta=0.005)


def test_not_a_number_never_counts_as_better():
    assert out_of_patience([math.nan, math.nan], error, 2)


class Squares(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return torch.tensor([float(i)]), i * i


def test_joined_data_holds_both_parts_in_order():
    arrays = examples((torch.tensor([[7.0], [8.0]]), torch.tensor([49, 64])))
    both = joined(arrays, arrays).take(torch.arange(4))
    assert both.inputs.flatten().tolist() == [7, 8, 7, 8]
    mixed = joined(examples(Squares()), arrays).take(torch.arange(5))
    assert mixed.targets.tolist() == [0, 1, 4, 49, 64]
