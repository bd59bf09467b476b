import pytest
import torch

from thalweg import adamw, decayed
from thalweg.core.lifted import lifted
from thalweg.modern.muon import muon
from thalweg.modern.muon_adamw import muon_adamw


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2)], ids=str)
def test_matrices_and_kernels_take_muons_steps(shape):
    theta, gradients = drawn(*shape), drawn(20, *shape, seed=1)
    mine = run(muon_adamw, theta, gradients, lr=0.1, momentum=0.8, weight_decay=0.3)
    muons = run(decayed(muon), theta, gradients, lr=0.1, momentum=0.8, weight_decay=0.3)
    assert torch.equal(mine, muons)


@pytest.mark.parametrize("shape", [(5,), ()], ids=str)
def test_what_is_no_matrix_takes_adamws_steps(shape):
    theta, gradients, knobs = drawn(*shape), drawn(20, *shape, seed=1), {"beta1": 0.7, "beta2": 0.8, "eps": 0.01}
    mine = run(muon_adamw, theta, gradients, adam_lr=0.1, weight_decay=0.3, **knobs)
    assert torch.equal(mine, run(adamw, theta, gradients, lr=0.1, weight_decay=0.3, **knobs))


def test_on_a_network_each_parameter_has_its_own_and_remembers_nothing_of_the_other():
    flat = lifted(muon_adamw, [(4, 3), (3,)])
    assert list(flat.remembers) == ["t", "buffer.0", "m.1", "v.1"]
