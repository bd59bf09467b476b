"""K-FAC and EKFAC where the Fisher matrix is a Kronecker product, and on small networks."""

import pytest
import torch
from torch import nn

from thalweg import Batch, Network, adam, descend, ekfac, kfac
from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import AlgorithmError
from thalweg.core.objective import Evaluations

BOTH = pytest.mark.parametrize("rule", [kfac, ekfac], ids=["kfac", "ekfac"])
BARE = {"momentum": 0.0, "damping": 1e-9, "samples": 0.0, "adapt_every": 0.0}


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(*layers, loss=nn.functional.mse_loss):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(*(layer() for layer in layers)).double()
    return Network(module, loss)


def stepped(rule, network, batch, **knobs):
    f = Evaluations(network.on(batch))
    _, g = f.value_and_gradient(network.theta)
    knobs = rule.with_defaults(knobs)
    delta, memory = rule.step({"g": g, "theta": network.theta, "f": f}, rule.start(network.theta, **knobs), knobs)
    return delta, memory


def test_of_one_linear_layer_and_squared_loss_a_step_hardly_damped_is_at_the_minimum():
    network, batch = made(lambda: nn.Linear(3, 2)), Batch(drawn(12, 3), drawn(12, 2, seed=1))
    delta, _ = stepped(kfac, network, batch, **BARE)
    _, g = value_and_gradient(network.on(batch), network.theta + delta)
    assert g.abs().max() < 1e-5


def test_of_one_example_a_deep_linear_nets_step_is_gauss_newtons_in_each_layer():
    network = made(lambda: nn.Linear(3, 2, bias=False), lambda: nn.Linear(2, 2, bias=False))
    batch = Batch(drawn(1, 3), drawn(1, 2, seed=1))
    f = network.on(batch)
    jacobian = torch.autograd.functional.jacobian(f.residuals, network.theta)
    whole, (_, g) = jacobian.T @ jacobian, value_and_gradient(f, network.theta)
    blocks = torch.block_diag(whole[:6, :6], whole[6:, 6:])
    delta, _ = stepped(kfac, network, batch, **{**BARE, "damping": 1e-7})
    along = -torch.linalg.lstsq(blocks + 1e-12 * torch.eye(10).double(), g).solution
    assert torch.nn.functional.cosine_similarity(delta, along, dim=0) > 0.99


@BOTH
def test_it_brings_a_network_lower_than_adam_in_as_many_steps(rule):
    x = drawn(60, 4)
    y = (x[:, 0] * x[:, 1] > 0).long()
    layers = [lambda: nn.Linear(4, 8), nn.Tanh, lambda: nn.Linear(8, 2)]
    ends = []
    for which, knobs in ((rule, {}), *((adam, {"lr": lr}) for lr in (0.003, 0.01, 0.03, 0.1))):
        network = made(*layers, loss=nn.functional.cross_entropy)
        *_, last = descend(network, which, [Batch(x, y)] * 30, **knobs)
        ends.append(last.loss)
    assert ends[0] < min(ends[1:])


@BOTH
def test_buffers_and_modes_stay_as_they_were(rule):
    network = made(lambda: nn.Linear(3, 4), lambda: nn.BatchNorm1d(4), lambda: nn.Linear(4, 2))
    before = {name: b.clone() for name, b in network.module.named_buffers()}
    stepped(rule, network, Batch(drawn(12, 3), drawn(12, 2, seed=1)))
    assert network.module.training
    assert all(torch.equal(b, before[name]) for name, b in network.module.named_buffers())


@BOTH
def test_a_parameter_without_factors_is_refused_by_name_and_nothing_is_left_out(rule):
    network = made(lambda: nn.Linear(3, 4), nn.PReLU, lambda: nn.Linear(4, 2))
    with pytest.raises(AlgorithmError, match=r"1\.weight"):
        stepped(rule, network, Batch(drawn(12, 3), drawn(12, 2, seed=1)))


@BOTH
def test_a_loss_that_is_no_likelihood_is_refused_by_name(rule):
    network = made(lambda: nn.Linear(3, 2), loss=nn.functional.l1_loss)
    with pytest.raises(AlgorithmError, match="l1_loss"):
        stepped(rule, network, Batch(drawn(12, 3), drawn(12, 2, seed=1)))
