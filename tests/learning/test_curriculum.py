"""A curriculum: easy examples first, all in the end, each as often as it should; a function of seed and step."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.core.errors import ProblemError
from thalweg.core.network import Network
from thalweg.learning.batches import Arrays, Batches
from thalweg.learning.curriculum import PACINGS, Curriculum, easiest_first, scores, taught_by

N, SIZE = 60, 4


def counted(n: int = N) -> Arrays:
    return Arrays(torch.arange(n), torch.arange(n) * 10)


def curriculum(order=None, seed=3, **about) -> Curriculum:
    order = torch.arange(N) if order is None else order
    return Curriculum(Batches(counted(), SIZE, seed), order, **{"over": 100, **about})


# Pacing


@pytest.mark.parametrize(
    ("pacing", "closed_form"),
    [
        ("linear", lambda s, a: a + (1 - a) * s),
        ("root", lambda s, a: math.sqrt(a * a + (1 - a * a) * s)),
        ("exponential", lambda s, a: math.exp((1 - s) * math.log(a))),
        ("step", lambda s, a: a if s < 1 else 1.0),
    ],
)
def test_a_pacing_is_its_closed_form_from_start_to_all(pacing, closed_form):
    for start in (0.1, 0.5, 1.0):
        shares = [PACINGS[pacing](s / 10, start) for s in range(11)]
        assert shares == pytest.approx([closed_form(s / 10, start) for s in range(11)])
        assert shares[0] == pytest.approx(start) and shares[-1] == pytest.approx(1.0) and shares == sorted(shares)
    assert set(PACINGS) == {"linear", "root", "exponential", "step"}


@pytest.mark.parametrize("pacing", PACINGS)
def test_the_easy_ones_are_that_share_and_never_fewer_than_a_batch(pacing):
    batches = curriculum(pacing=pacing, start=0.25)
    assert [batches.easy(t) for t in (0, 100, 1000)] == [15, N, N]
    assert all(batches.easy(t) == math.ceil(PACINGS[pacing](t / 100, 0.25) * N - 1e-9) for t in range(100))
    assert curriculum(pacing=pacing, start=0.01).easy(0) == SIZE


def test_with_the_root_a_new_example_stays_as_likely():
    start = 0.2
    s = np.linspace(0, 1, 1001)
    shares = np.array([PACINGS["root"](x, start) for x in s])
    gain = (1 - start**2) / (2 * shares)  # examples that come in, of those that are there: c'(s) is as 1 / c(s)
    assert np.gradient(shares, s)[1:-1] == pytest.approx(gain[1:-1], rel=1e-3)


# Order


def test_the_order_is_by_score_and_that_of_the_data_where_scores_are_equal():
    given = np.random.default_rng(0).integers(0, 5, N)
    brute = sorted(range(N), key=lambda i: (given[i], i))
    assert easiest_first(given, counted()).tolist() == brute
    assert easiest_first(lambda x, y: torch.from_numpy(given)[x], counted()).tolist() == brute


def test_reversed_scores_are_the_anti_curriculum():
    given = torch.randn(N, generator=torch.Generator().manual_seed(1))
    assert easiest_first(-given, counted()).tolist() == easiest_first(given, counted()).tolist()[::-1]


def test_a_teacher_finds_the_examples_difficult_that_it_loses_most_on():
    x, y = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2
    for loss in (F.cross_entropy, nn.MultiMarginLoss()):
        teacher = Network(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), loss)
        outputs = teacher.outputs(x)
        alone = torch.tensor([float(loss(outputs[i, None], y[i, None])) for i in range(30)])
        found = scores(taught_by(teacher), Arrays(x, y))
        torch.testing.assert_close(found.float(), alone)
        assert float(found.mean()) == pytest.approx(float(loss(outputs, y)), rel=1e-5)


# Batches


@pytest.mark.parametrize("pacing", PACINGS)
def test_a_batch_without_mixture_is_of_different_easy_ones(pacing):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    batches = curriculum(order, pacing=pacing, mix=0.0)
    for t in range(100):
        seen = batches[t].inputs.tolist()
        assert len(set(seen)) == SIZE and set(seen) <= set(order[: batches.easy(t)].tolist())


def test_inputs_and_targets_stay_pairs():
    batches = curriculum()
    assert all(torch.equal(batches[t].targets, 10 * batches[t].inputs) for t in range(0, 120, 7))


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_every_example_comes_as_often_as_it_should(mix):
    """Expected counts are sums of b ((1 - mix) [easy] / easy(t) + mix / N) over the steps."""
    over = 4000
    batches = curriculum(mix=mix, over=over, start=0.3)
    counts = torch.zeros(N)
    expected = np.zeros(N)
    for t in range(over):
        counts += torch.bincount(batches[t].inputs, minlength=N)
        easy = batches.easy(t)
        expected += SIZE * ((1 - mix) * (np.arange(N) < easy) / easy + mix / N)
    squares = (counts.numpy() - expected) ** 2 / np.maximum(expected, 1e-9)
    assert counts.sum() == pytest.approx(expected.sum()) and squares.sum() < 92  # chi-squared of 60 at 0.5 %


def test_difficult_examples_come_from_the_first_steps_on_where_they_are_mixed_in():
    hard = [(curriculum(mix=mix, start=0.2)[t].inputs >= N // 2).sum().item() for mix in (0.0, 0.5) for t in range(12)]
    assert sum(hard[:12]) == 0 and sum(hard[12:]) > 4


def test_once_all_are_in_an_epoch_shows_every_example_once():
    batches, plain = curriculum(over=17), Batches(counted(), SIZE, 3)
    for epoch in range(2):
        steps = range(17 + epoch * len(batches), 17 + (epoch + 1) * len(batches))
        assert sorted(torch.cat([batches[t].inputs for t in steps]).tolist()) == list(range(N))
        assert all(torch.equal(batches[t].inputs, plain[t - 17].inputs) for t in steps)


def test_without_steps_to_grow_in_it_is_plain_batches():
    assert all(torch.equal(curriculum(over=0)[t].inputs, Batches(counted(), SIZE, 3)[t].inputs) for t in range(40))


def test_a_batch_is_a_function_of_seed_and_step():
    one, other = curriculum(), curriculum()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ahead = one[40].inputs
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(next(islice(other.starting(38), 2, None)).inputs, ahead)
    assert len({tuple(curriculum(seed=s)[t].inputs.tolist()) for s in range(4) for t in range(4)}) == 16


def test_the_draws_are_on_record():
    assert curriculum(seed=1)[2].inputs.tolist() == [1, 12, 6, 34]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"order": torch.zeros(N).long()}, "give each index once"),
        ({"order": torch.arange(5)}, "an order of 5 was given for 60 examples"),
        ({"pacing": "quadratic"}, "no pacing is called 'quadratic': there are linear, root"),
        ({"start": 0.0}, "start = 0.0"),
        ({"mix": 1.5}, "mix = 1.5"),
    ],
)
def test_what_cannot_be_is_refused(change, said):
    with pytest.raises(ProblemError, match=said):
        curriculum(**change)


def test_a_batch_of_everything_has_no_order():
    with pytest.raises(ProblemError, match="batches of all 60 examples: give a smaller batch size"):
        Curriculum(Batches(counted(), N), torch.arange(N), over=10)


@pytest.mark.parametrize(
    ("given", "said"),
    [([1.0, 2.0], r"the difficulty is \(2,\) for 60"), ([math.nan] * N, "of 60 examples is no finite number"),
     (lambda x, y: x[:, None], r"\(60, 1\) for 60 examples: give one score")],
)  # fmt: skip
def test_scores_that_are_none_are_refused(given, said):
    with pytest.raises(ProblemError, match=said):
        scores(given, counted())
