import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from torch.utils.data import Dataset

from thalweg.challenges.duplicates import Duplicates, duplicates, findings
from thalweg.core.measured import exactly, proportion
from thalweg.learning.batches import Arrays, examples


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def arrays(x):
    return Arrays(x, torch.zeros(len(x)))


def repeated(data, times):
    return Arrays(data.inputs.repeat(times, *[1] * (data.inputs.dim() - 1)), data.targets.repeat(times))


def digits():
    return examples(load_digits(return_X_y=True))


def severities(found):
    return [(finding.name, finding.severity, finding.where) for finding in findings(found)]


@pytest.mark.parametrize("times", [1, 2, 3, 7])
def test_where_each_row_stands_r_times_one_rth_is_unique_exactly(times):
    for data in (digits(), arrays(drawn(50, 3, 4, 4)), arrays(drawn(50, 1)), arrays(torch.arange(50)[:, None])):
        found = duplicates(repeated(data, times))
        assert found.unique == exactly(1 / times)
        assert severities(found) == ([] if times == 1 else [("duplicated data", "warning", "")])


def test_copies_by_drawing_with_replacement_are_seen():
    data, rows = digits(), torch.randint(1797, (1797,), generator=torch.Generator().manual_seed(0))
    found = duplicates(Arrays(*data.take(rows)))
    assert found.unique.value == len(rows.unique()) / 1797 and not found.by_chance
    assert severities(found) == [("duplicated data", "warning", "")]


def test_rows_that_are_nearly_alike_are_not():
    x = drawn(100, 5)
    y = x.clone()
    y[:, 2] = torch.nextafter(y[:, 2], torch.tensor(9.0))
    assert duplicates(arrays(torch.cat([x, y]))).unique.value == 1.0
    assert duplicates(arrays(torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]))).unique.value == pytest.approx(2 / 3)
    assert duplicates(Arrays(torch.ones(2, 3), torch.tensor([0, 1]))).unique.value == 1.0  # unlike targets


def test_millions_of_pairs_of_coarse_rows_are_told_apart():
    bits = torch.arange(2**14)[:, None].bitwise_right_shift(torch.arange(14)) & 1
    for x in (bits, bits.float(), bits.double() * 2**40, 1 - 2 * bits.float()):
        assert duplicates(arrays(x)).unique.value == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_a_small_discrete_table_are_alike_by_chance_which_is_a_note(seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(4, (600, 6), generator=generator)
    table[:, 3] = table[:, 2] + (torch.rand(600, generator=generator) < 0.1)  # columns that go together
    found = duplicates(arrays(table[:500].float()), arrays(table[500:].float()))
    assert found.unique.value < 0.99 and found.by_chance
    assert {severity for _, severity, _ in severities(found)} == {"note"}


def test_irises_are_so_coarse_that_two_are_alike():
    data = examples(load_iris(return_X_y=True))
    found = duplicates(data)
    assert found.unique.value == 149 / 150 and severities(found) == [("duplicated data", "note", "")]


def test_rows_of_the_validation_part_that_were_trained_on_are_a_leak():
    data, order = digits(), torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    train, valid, leaking = (data.take(order[a:b]) for a, b in ((0, 1400), (1400, 1797), (1380, 1777)))
    assert severities(duplicates(Arrays(*train), Arrays(*valid))) == []
    found = duplicates(Arrays(*train), Arrays(*leaking))
    assert found.leaked.value == 20 / 397
    assert severities(found) == [("duplicated data", "critical", "train and valid")]
    relabelled = Arrays(leaking.inputs, 9 - leaking.targets)
    assert duplicates(Arrays(*train), relabelled).leaked.value == 20 / 397


def test_one_row_in_both_parts_is_a_note():
    assert severities(Duplicates(exactly(1.0), proportion(1, 400), 1400, False)) == [
        ("duplicated data", "note", "train and valid")
    ]


def test_a_data_set_that_draws_at_random_is_asked_without_a_trace():
    class Noisy(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return torch.rand(3), float(i)

    data, rng = examples(Noisy()), torch.get_rng_state()
    assert duplicates(data).unique.value == 1.0
    assert torch.equal(rng, torch.get_rng_state())
