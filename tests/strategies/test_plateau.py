import json
import math
from typing import NamedTuple

import pytest
import torch

from thalweg.basic.sgd import sgd
from thalweg.core.errors import AlgorithmError
from thalweg.core.network import Batch, Network
from thalweg.descend import descend
from thalweg.strategies.plateau import Plateau


def noisy_decay(n, seed):
    noise = torch.rand(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return [math.exp(-t / 20) + 0.2 + 0.05 * e for t, e in enumerate(noise)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"patience": 0, "factor": 0.5},
        {"patience": 3, "cooldown": 4, "min_lr": 1e-3},
        {"patience": 2, "threshold": 0.1},
    ],
)
def test_it_decides_as_torch_does(settings, mode, seed):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, eps=0.0, **settings)
    mine = Plateau(0.4, mode=mode, **settings)
    for value in noisy_decay(200, seed):
        value = value if mode == "min" else 2 - value
        scheduler.step(value)
        mine.observe(value)
        assert mine(0) == optimizer.param_groups[0]["lr"]
    assert mine.lr < 0.4


def test_a_negative_best_is_not_beaten_by_a_worse_value():
    plateau = Plateau(1.0, patience=1, threshold=0.1)
    for value in (-1.0, -0.95, -0.95):
        plateau.observe(value)
    assert plateau.lr == pytest.approx(0.1)


def test_nan_is_never_better():
    plateau = Plateau(1.0, patience=1)
    for value in (math.nan, 1.0, math.nan, math.nan):
        plateau.observe(value)
    assert plateau.best == 1.0 and plateau.lr == pytest.approx(0.1)


class Seen(NamedTuple):
    t: int
    loss: float


def test_watching_passes_every_step_on_and_takes_only_the_values_there_are():
    steps = [Seen(t, 1.0) for t in range(1, 41)]
    plateau = Plateau(1.0, factor=0.5, patience=1)
    watched = plateau.watch(steps, lambda step: step.loss if step.t % 10 == 0 else None)
    assert list(watched) == steps
    assert plateau.lr == 0.5  # observed at 10 (the first is good), 20 and 30 (two bad), 40


def test_the_next_step_already_has_the_lowered_lr():
    network = Network(torch.nn.Linear(1, 1), lambda outputs, targets: 0 * outputs.sum() + 1)
    batch, lr = Batch(torch.ones(1, 1), torch.ones(1, 1)), Plateau(1.0, factor=0.5, patience=0)
    used = [step.knobs["lr"] for step in lr.watch(descend(network, sgd, [batch] * 4, lr=lr))]
    assert used == [1.0, 1.0, 0.5, 0.25]


def test_saved_and_loaded_it_goes_on_as_if_never_stopped():
    values = noisy_decay(200, seed=0)
    whole, half, resumed = (Plateau(0.4, patience=2, cooldown=3) for _ in range(3))
    for value in values:
        whole.observe(value)
    for value in values[:77]:
        half.observe(value)
    resumed.load(json.loads(json.dumps(half.state())))
    for value in values[77:]:
        resumed.observe(value)
    assert resumed == whole


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(AlgorithmError, match=r"factor=1\.5: it must be between 0 and 1"):
        Plateau(0.1, factor=1.5)
    with pytest.raises(AlgorithmError, match="mode='lowest': it must be 'min' or 'max'"):
        Plateau(0.1, mode="lowest")
