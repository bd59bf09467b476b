"""Problems on real data that travels with the dependencies."""

import math
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits

from thalweg.core.network import Network
from thalweg.learning.batches import Batches
from thalweg.learning.risk import risk
from thalweg.training.builtin import BUILTIN, CONTEXT, diabetes
from thalweg.training.problem import Problem
from thalweg.training.tables import decode, split


def trained(problem: Problem, steps: int) -> Network:
    """By Adam as it stands in PyTorch, at one learning rate for all."""
    network = problem.network(seed=1)
    optimizer = torch.optim.Adam(network.module.parameters(), lr=2e-3)
    for _, batch in zip(range(steps), Batches(problem.train, problem.batch_size).starting(0), strict=False):
        optimizer.zero_grad()
        network.loss(network.module(batch.inputs), batch.targets).backward()
        optimizer.step()
    return network


@pytest.fixture(scope="module")
def problems() -> dict[str, Problem]:
    return {name: builtin.make(0) for name, builtin in BUILTIN.items()}


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_is_sound_and_says_what_it_is(name, problems):
    problem = problems[name]
    problem.check()
    assert problem.name == problem.source == name
    sizes = {part: len(getattr(problem, part)) for part in ("train", "valid", "test")}
    assert problem.about["split"].items() >= {"seed": 0, **sizes}.items()
    assert BUILTIN[name].line


@pytest.mark.parametrize("name", BUILTIN)
def test_every_builtin_is_a_function_of_its_seed(name, problems):
    assert BUILTIN[name].make(0).fingerprint() == problems[name].fingerprint()
    assert BUILTIN[name].make(1).fingerprint() != problems[name].fingerprint()


@pytest.mark.parametrize("name", BUILTIN)
def test_a_new_model_knows_about_as_much_as_chance(name, problems):
    problem = problems[name]
    loss, _ = risk(problem.network(0), problem.train, problem.metric)
    assert problem.chance * 0.9 < loss < problem.chance * 1.6


@pytest.mark.parametrize(
    ("name", "steps", "reached"),
    [
        ("digits", 500, 0.94),
        ("breast_cancer", 300, 0.94),
        ("diabetes", 300, 62),
        ("autoencoder", 500, 0.04),
        ("characters", 300, 4),
    ],
)
def test_every_builtin_can_be_learnt(name, steps, reached, problems):
    problem = problems[name]
    _, counted = risk(trained(problem, steps), problem.valid, problem.metric)
    assert problem.metric.better(counted, reached)


def test_digits_are_split_by_digit(problems):
    counts = torch.bincount(problems["digits"].test.targets)
    whole = np.bincount(load_digits().target)
    assert (counts - 0.2 * torch.from_numpy(whole)).abs().max() <= 1


def test_the_progression_of_diabetes_is_given_in_its_own_units():
    problem = diabetes(seed=2)
    rows = split(442, 2)[1]
    assert decode(problem.preprocessing, problem.valid.targets)["prediction"].to_numpy() == pytest.approx(
        load_diabetes().target[rows], rel=1e-4
    )


def test_characters_follow_their_context_each_part_in_its_own_stretch_of_the_text(problems):
    text = "\n\n".join(topics[title] for title in sorted(topics))
    first, second = round(0.6 * len(text)), round(0.8 * len(text))
    alphabet = [*sorted(set(text[:first])), None]
    problem = problems["characters"]
    assert problem.train.inputs.shape == (80_000, CONTEXT)
    stretches = (text[:first], text[first:second], text[second:])
    for part, stretch in zip((problem.train, problem.valid, problem.test), stretches, strict=True):
        codes = torch.cat([part.inputs[:300], part.targets[:300, None]], dim=1).tolist()
        windows = [[alphabet[code] for code in row] for row in codes]
        known = ["".join(window) for window in windows if None not in window]
        assert len(known) > 250
        assert all(window in stretch for window in known)


def test_chance_for_characters_is_their_entropy(problems):
    p = torch.bincount(problems["characters"].train.targets).double() / 80_000
    p = p[p > 0]
    assert problems["characters"].chance == pytest.approx(float(-(p * p.log()).sum()))
    assert problems["characters"].chance < math.log(100)
