import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd
from thalweg.strategies.clipping import clipped
from thalweg.strategies.maximised import maximised


def test_it_climbs_to_the_maximum():
    theta, rule = torch.tensor([3.0, -1.0]), maximised(sgd)
    for _ in range(100):
        delta, _ = rule.step({"g": -(theta - 2)}, {}, {"lr": 0.2})  # of - |theta - 2|² / 2
        theta = theta + delta
    torch.testing.assert_close(theta, torch.full((2,), 2.0))


def test_the_steps_are_those_of_the_objective_turned_round(run):
    gradients = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    up, memory = run(maximised(clipped(adam)), torch.zeros(3), gradients)
    down, expected = run(clipped(adam), torch.zeros(3), -gradients)
    assert torch.equal(up[-1], down[-1]) and torch.equal(memory["m"], expected["m"])
