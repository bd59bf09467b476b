"""Every rule that sees f against every property, on the loss of a small network, which has all the parts of an f."""

import json
import re

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from thalweg import Batch, Network, descend
from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.execution.closure_optim import ClosureOptimizer

every_rule = pytest.mark.parametrize("name", SECOND_ORDER)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def network(dtype=torch.float64, factor=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)
    loss = nn.functional.mse_loss if factor == 1.0 else lambda z, y: factor * nn.functional.mse_loss(z, y)
    return Network(module, loss)


def batch(dtype=torch.float64, seed=0, examples=24):
    x = drawn(examples, 2, seed=seed, dtype=dtype)
    return Batch(x, torch.stack([torch.sin(x[:, 0]), x[:, 0] * x[:, 1] / 2], dim=1))


def trained(name, steps, dtype=torch.float64, net=None, memory=None, seen=None):
    """The network after some steps on one batch, and the memory."""
    net = net or network(dtype)
    rule, data = ALGORITHMS[name].rule, seen or batch(dtype)
    memory = rule.start(net.theta, **rule.knobs) if memory is None else memory
    for _ in range(steps):
        f = Evaluations(net.on(data))
        _, g = f.value_and_gradient(net.theta)
        with torch.no_grad():
            delta, memory = rule.step({"g": g, "theta": net.theta, "f": f}, memory, rule.knobs)
            net.theta.add_(delta)
    return net, memory


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_it_fits_a_small_network(name, dtype):
    net = network(dtype)
    before = float(net.f(net.theta, batch(dtype)))
    net, _ = trained(name, 40, dtype, net)
    assert float(net.f(net.theta, batch(dtype))) < 0.4 * before


@every_rule
def test_saved_and_resumed_is_uninterrupted_bit_for_bit(name):
    whole, _ = trained(name, 8)
    half, memory = trained(name, 4)
    tensors = load(save({n: v.contiguous() for n, v in memory.items() if isinstance(v, torch.Tensor)}))
    numbers = json.loads(json.dumps({n: v for n, v in memory.items() if n not in tensors}, allow_nan=False))
    resumed, _ = trained(name, 4, net=half, memory={n: (tensors | numbers)[n] for n in ALGORITHMS[name].rule.remembers})
    assert torch.equal(resumed.theta, whole.theta)


@every_rule
def test_a_step_changes_nothing_in_place_and_keeps_the_dtype(name):
    net, memory = trained(name, 2, torch.float32)
    theta, data = net.theta.clone(), batch(torch.float32)
    f = Evaluations(net.on(data))
    _, g = f.value_and_gradient(theta)
    held = {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in memory.items()}
    kept = g.clone()
    delta, after = ALGORITHMS[name].rule.step({"g": g, "theta": theta, "f": f}, memory, ALGORITHMS[name].rule.knobs)
    assert torch.equal(net.theta, theta) and torch.equal(g, kept) and delta.dtype == torch.float32
    for n, value in memory.items():
        assert torch.equal(value, held[n]) if isinstance(value, torch.Tensor) else value == held[n]
    assert all(v.dtype in (torch.float32, torch.int64) for v in after.values() if isinstance(v, torch.Tensor))


@every_rule
def test_it_goes_on_sensibly_where_every_step_has_a_batch_of_its_own(name):
    net = network()
    before = sum(float(net.f(net.theta, batch(seed=s, examples=64))) for s in range(100, 104))
    memory = None
    for seed in range(30):
        net, memory = trained(name, 1, net=net, memory=memory, seen=batch(seed=seed, examples=64))
    after = sum(float(net.f(net.theta, batch(seed=s, examples=64))) for s in range(100, 104))
    assert after < before


@every_rule
def test_what_is_not_finite_is_named_and_nothing_moves(name):
    net, memory = trained(name, 1)
    bad = Batch(torch.full((24, 2), torch.nan, dtype=torch.float64), batch().targets)
    before = net.theta.clone()
    net, memory = trained(name, 1, net=net, memory=memory, seen=bad)
    assert torch.equal(net.theta, before) and memory["status"] == Status.NOT_FINITE


@every_rule
def test_it_is_one_more_rule_for_descend_and_for_torch(name):
    net = network()
    steps = list(descend(net, ALGORITHMS[name].rule, [batch()] * 5))
    assert steps[-1].loss < steps[0].loss
    module = network().module

    def closure():
        z = module(batch().inputs)
        return nn.functional.mse_loss(z, batch().targets), z

    params = list(module.parameters())
    optimizer = ClosureOptimizer(params, ALGORITHMS[name].rule, module=module, loss=nn.functional.mse_loss)
    if name in ("gauss_newton", "levenberg_marquardt"):
        pytest.skip("takes residuals: its class is tested apart")
    for _ in range(5):
        optimizer.step(closure)
    mine = torch.cat([p.detach().reshape(-1) for p in params])
    torch.testing.assert_close(mine, net.theta, rtol=1e-6, atol=1e-8)


@every_rule
def test_it_says_where_it_comes_from(name):
    algorithm = ALGORITHMS[name]
    assert algorithm.rule.name == name and algorithm.rule.per == "vector" and not algorithm.rule.batched
    assert re.search(r"\((Algorithm 8\.\d+|section 8\.\d|[A-Z][^()]* \d{4})", algorithm.rule.doc)
    assert re.fullmatch(r"(after )?8\.\d(\.\d)?", algorithm.section)
    assert algorithm.summary.endswith(".")


@every_rule
def test_its_knobs_are_numbers_and_it_says_how_it_ends(name):
    rule = ALGORITHMS[name].rule
    assert all(isinstance(value, float) for value in rule.knobs.values()) and "status" in rule.remembers
