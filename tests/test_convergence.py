"""Every rule of the catalogue arrives: at the minimum of two functions, and at 95 % of a test set.

The functions and the starts are those of optax's tests. Complex parameters have minimisers turned by a phase, so that
both of their parts must be found.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch

from thalweg import optim
from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.comparison.spaces import point_of, space
from thalweg.core.lifted import lifted
from thalweg.descend import descend
from thalweg.execution.kernels import executable
from thalweg.learning.batches import Batches
from thalweg.learning.risk import risk
from thalweg.strategies.schedules import cosine, stable_decay
from thalweg.training.builtin import digits
from thalweg.training.recipe import Recipe
from thalweg.training.tables import mlp

NEAR = 3e-2
PHASE = {torch.float32: 1.0, torch.complex64: 0.6 + 0.8j}


class Problem(NamedTuple):
    """A function f of theta, from where it is descended and where its minimum is."""

    start: list[float]
    minimiser: list[Any]
    gradient: Callable[[list[Any]], list[Any]]  # in numbers, which are quicker than tensors this small
    f: Callable[[torch.Tensor], torch.Tensor]  # for the rules that see it


def parabola(a):
    m = [a, -a, a]
    return Problem(
        start=[-1.0, 10.0, 1.0],
        minimiser=m,
        gradient=lambda theta: [2 * (x - end) for x, end in zip(theta, m, strict=True)],
        f=lambda theta: (theta - torch.tensor(m)).square().sum(),
    )


def rosenbrock(a, b=100):
    """|a - x|² + b |y - x²|²."""
    return Problem(
        start=[0.0, 0.0],
        minimiser=[a, a * a],
        gradient=lambda xy: [
            2 * (xy[0] - a) - 4 * b * xy[0].conjugate() * (xy[1] - xy[0] ** 2),
            2 * b * (xy[1] - xy[0] ** 2),
        ],
        f=lambda xy: (a - xy[0]).square() + b * (xy[1] - xy[0].square()).square(),
    )


class Way(NamedTuple):
    """lr, constant and over the last fifth linearly to 0, and steps."""

    lr: float
    steps: int
    knobs: dict[str, float] = {}  # noqa: RUF012


WAYS = {  # to the minimum of the parabola, of Rosenbrock's function
    "sgd": (Way(0.1, 100), Way(0.0018, 6000)),
    "momentum": (Way(0.1, 200), Way(0.002, 700)),
    "dampened_momentum": (Way(0.1, 200), Way(0.002, 700)),
    "nesterov": (Way(0.1, 100), Way(0.001, 1500)),
    "asgd": (Way(0.1, 100), Way(0.0018, 6000)),
    "adagrad": (Way(5.0, 100), Way(0.1, 5000)),
    "adadelta": (Way(50.0, 200), Way(0.1, 7000)),
    "rmsprop": (Way(1.0, 100), Way(0.002, 4000)),
    "rmsprop_momentum": (Way(0.2, 200), Way(0.002, 400)),
    "rmsprop_nesterov": (Way(1.0, 100), Way(0.001, 700)),
    "rmsprop_centred": (Way(1.0, 100), Way(0.002, 4000)),
    "adam": (Way(2.0, 200), Way(0.02, 400)),
    "adamw": (Way(1.0, 200), Way(0.02, 700)),
    "amsgrad": (Way(2.0, 200), Way(0.05, 400)),
    "adamax": (Way(1.0, 200), Way(0.1, 700)),
    "nadam": (Way(2.0, 100), Way(0.005, 2500)),
    "radam": (Way(0.5, 200), Way(0.02, 700)),
    "rprop": (Way(1.0, 50), Way(0.5, 3000)),
    "lion": (Way(0.2, 400), Way(0.001, 3000)),
    "adan": (Way(5.0, 100), Way(0.05, 400)),
    "adabelief": (Way(2.0, 200), Way(0.02, 400)),
    "adam_atan2": (Way(2.0, 200), Way(0.02, 400)),
    "ademamix": (Way(5.0, 200), Way(0.2, 2000)),
    "adopt": (Way(1.0, 200), Way(0.1, 1000)),
    "schedule_free_sgd": (Way(0.5, 100), Way(0.007, 4000)),
    "schedule_free_adamw": (Way(5.0, 100), Way(0.05, 3000)),
    "adafactor": (Way(1.0, 100), Way(0.007, 8000)),
    "lars": (Way(3.0, 300), Way(3.0, 500)),
    "lamb": (Way(0.03, 500), Way(0.005, 2000)),
    "muon": (Way(0.1, 300), Way(0.003, 1000)),
    "muon_adamw": (Way(0.5, 200), Way(0.05, 300)),
    "shampoo": (Way(2.0, 200), Way(0.02, 400)),
    "soap": (Way(0.5, 400), Way(0.1, 300)),
    "psgd_kron": (Way(0.1, 300), Way(0.005, 700)),
    "dog": (Way(1.0, 300), Way(0.5, 6000)),
    "dadapt_adam": (Way(0.5, 200), Way(0.1, 400)),
    "prodigy": (Way(0.5, 200), Way(0.02, 600)),
    "sophia": (Way(0.1, 700), Way(0.02, 600)),
    "sam": (Way(0.01, 200), Way(0.002, 1000, {"rho": 1e-3})),
}
ELEMENTWISE = [name for name, entry in ALGORITHMS.items() if entry.rule.per == "element"]


def arrived(name, problem, dtype, way):
    """How far from the minimiser the rule ends."""
    start = torch.tensor(problem.start, dtype=dtype)
    # Muon makes every singular value of a matrix about 1: of a column that is its length.
    p = torch.nn.Parameter(start[:, None] if name == "muon" else start)
    lr = stable_decay(way.lr, way.steps)
    lrs = {"lr": lr, "adam_lr": lr} if name == "muon_adamw" else {"lr": lr}  # a vector is AdamW's there
    execution = "eager" if dtype.is_complex else None  # on three complex numbers a kernel takes longer
    optimizer = optim.Optimizer([p], ALGORITHMS[name].rule, execution=execution, **lrs, **way.knobs)
    theta, p.grad = p.detach().reshape(-1), torch.zeros_like(p)
    closure = (lambda: problem.f(p)) if "f" in ALGORITHMS[name].rule.sees else None
    for _ in range(way.steps):
        p.grad.copy_(torch.tensor(problem.gradient(theta.tolist()), dtype=dtype).view(p.shape))
        optimizer.step(closure)
    with optimizer.answer():
        return float((theta - torch.tensor(problem.minimiser, dtype=dtype)).abs().max())


def test_every_rule_has_its_ways():
    assert set(WAYS) == set(DIGITS) == set(ALGORITHMS) - set(SECOND_ORDER)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize(("k", "problem"), [(0, parabola), (1, rosenbrock)], ids=["parabola", "rosenbrock"])
def test_it_arrives_at_the_minimum(name, k, problem):
    for dtype in PHASE if name in ELEMENTWISE else [torch.float32]:
        assert arrived(name, problem(PHASE[dtype]), dtype, WAYS[name][k]) <= NEAR, dtype


DIGITS = {  # lr and epochs, and knobs that are not the defaults, all from the rule's search space
    "sgd": (0.6, 6, {}),
    "momentum": (0.2, 5, {}),
    "dampened_momentum": (0.2, 5, {}),
    "nesterov": (0.2, 5, {}),
    "asgd": (0.6, 6, {}),
    "adagrad": (0.1, 15, {}),
    "adadelta": (10.0, 5, {}),
    "rmsprop": (0.02, 10, {}),
    "rmsprop_momentum": (0.002, 10, {}),
    "rmsprop_nesterov": (0.002, 10, {}),
    "rmsprop_centred": (0.02, 10, {}),
    "adam": (0.02, 6, {}),
    "adamw": (0.02, 6, {}),
    "amsgrad": (0.02, 6, {}),
    "adamax": (0.06, 10, {}),
    "nadam": (0.02, 5, {}),
    "radam": (0.03, 15, {}),
    "rprop": (1e-3, 30, {"eta_minus": 0.9, "step_max": 3e-3}),  # in minibatches its signs are noisy
    "lion": (0.007, 6, {}),
    "adan": (0.03, 6, {}),
    "adabelief": (0.02, 6, {}),
    "adam_atan2": (0.03, 6, {}),
    "ademamix": (0.02, 6, {}),
    "adopt": (0.02, 6, {}),
    "schedule_free_sgd": (3.0, 8, {}),
    "schedule_free_adamw": (0.03, 6, {}),
    "adafactor": (0.2, 5, {}),
    "lars": (10.0, 8, {}),
    "lamb": (0.04, 6, {}),
    "muon": (0.07, 5, {}),
    "muon_adamw": (0.05, 5, {}),
    "shampoo": (0.05, 5, {}),
    "soap": (0.05, 5, {}),
    "psgd_kron": (0.02, 5, {}),
    "dog": (1.0, 10, {"reps_rel": 1e-3}),
    "dadapt_adam": (0.5, 6, {}),
    "prodigy": (0.8, 6, {}),
    "sophia": (0.007, 8, {}),
    "sam": (0.08, 6, {}),
}


@pytest.fixture(scope="module")
def small_digits():
    return replace(digits(), model=partial(mlp, [64, 64, 10]))


@pytest.mark.parametrize("name", DIGITS)
def test_it_trains_a_network_to_95_per_cent_of_the_test_part(name, small_digits):
    assert accuracy(name, small_digits, *DIGITS[name]) >= 0.95


def accuracy(name, problem, lr, epochs, knobs, batch_size=32, seed=0):
    network, batches = problem.network(seed), Batches(problem.train, batch_size, seed)
    steps = epochs * -(-len(problem.train) // batch_size)
    rule = executable(lifted(ALGORITHMS[name].rule, network.shapes), network.theta).rule
    taken = descend(network, rule, (batches[t] for t in range(steps)), seed=seed, lr=cosine(lr, steps), **knobs)
    *_, last = taken
    network.theta.copy_(rule.answer(network.theta.clone(), last.memory))
    return risk(network, problem.test, problem.metric)[1]


@pytest.mark.parametrize("name", DIGITS)
def test_the_knobs_that_train_it_lie_in_its_search_space(name):
    lr, _, others = DIGITS[name]
    knobs = {"lr": lr, **others}
    searched = [dimension for dimension in space(name, trials=64) if dimension.knob in knobs]
    point = point_of(Recipe(name, steps=1, knobs=knobs), searched)
    assert len(point) == len(knobs) and all(0 <= u <= 1 for u in point)
