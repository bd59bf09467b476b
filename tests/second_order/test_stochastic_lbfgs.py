"""Stochastic L-BFGS: each pair is of one batch, its curvature stays positive, and new batches each step do no harm."""

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from thalweg import Batch, Network, descend
from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.second_order.line_search import fixed
from thalweg.second_order.stochastic_lbfgs import damped, stochastic_lbfgs, stochastic_lbfgs_with


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batches(steps, size=20, noise=0.1, seed=0):
    """A regression's batches, a new one a step: A (size, 4) and the targets of a known x."""
    x = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    scales = torch.tensor([1.0, 3.0, 10.0, 0.5], dtype=torch.float64)
    for k in range(steps):
        A = drawn(size, 4, seed=1000 * seed + k) * scales
        yield A, A @ x + noise * drawn(size, seed=1000 * seed + k + 500), x


def loss(A, y):
    return lambda x: (A @ x - y).square().mean()


def trained(rule, stream, theta, memory=None, **knobs):
    memory = rule.start(theta, **knobs) if memory is None else memory
    for A, y, _ in stream:
        f = Evaluations(loss(A, y))
        _, g = f.value_and_gradient(theta)
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, rule.with_defaults(knobs))
        theta = theta + delta
    return theta, memory


def test_damping_leaves_enough_curvature_alone():
    s, y, expected = drawn(4), drawn(4) + drawn(4, seed=1) * 0.1, drawn(4) * 2
    assert damped(s, y, expected, 0.2) is y


@pytest.mark.parametrize("damping", [0.1, 0.2, 0.5])
def test_damping_makes_the_curvature_a_share_of_what_was_expected(damping):
    s, y = drawn(4), -drawn(4) + drawn(4, seed=1)
    expected = 3 * s
    mixed = damped(s, y, expected, damping)
    assert float(s @ mixed) == pytest.approx(damping * float(s @ expected))
    # it lies on the line from y to what was expected
    share = (mixed - expected) / (y - expected)
    torch.testing.assert_close(share, share[0].expand(4))


def test_a_pair_is_the_change_of_one_batchs_gradient():
    stream = list(batches(6))
    memory, theta = stochastic_lbfgs.start(torch.zeros(4).double()), torch.zeros(4).double()
    for A, y, x in stream:
        theta, memory = trained(stochastic_lbfgs, [(A, y, x)], theta, memory, damping=0.0)
        H = 2 * A.T @ A / len(A)
        torch.testing.assert_close(memory["Y"][-1], H @ memory["S"][-1])


def test_a_pair_of_negative_curvature_is_kept_damped():
    theta, ones = torch.tensor([0.1], dtype=torch.float64), torch.ones(1, 1).double()
    f = Evaluations(lambda x: torch.cos(x).sum())  # its curvature is about -1 here, where the pair says 1
    _, g = f.value_and_gradient(theta)
    memory = {"S": ones, "Y": ones, "rho": torch.ones(1).double(), "status": -1}
    _, memory = stochastic_lbfgs.step({"g": g, "theta": theta, "f": f}, memory, stochastic_lbfgs.knobs)
    torch.testing.assert_close(memory["Y"], 0.2 * memory["S"])


def test_a_step_costs_one_gradient_more_and_no_more_values_than_armijo_tries():
    (A, y, _), theta = next(batches(1)), torch.zeros(4).double()
    f = Evaluations(loss(A, y))
    _, g = f.value_and_gradient(theta)
    stochastic_lbfgs.step({"g": g, "theta": theta, "f": f}, stochastic_lbfgs.start(theta), stochastic_lbfgs.knobs)
    assert f.njev == 2


def test_it_learns_a_regression_from_a_new_batch_each_step():
    theta, memory = trained(stochastic_lbfgs, batches(60), torch.ones(4).double())
    *_, x = next(batches(1))
    assert float((theta - x).norm()) < 0.2
    assert memory["status"] == Status.GOING_ON


def test_with_fixed_steps_it_learns_it_too():
    theta, _ = trained(stochastic_lbfgs_with(fixed), batches(200), torch.ones(4).double(), lr=0.2)
    *_, x = next(batches(1))
    assert float((theta - x).norm()) < 0.2


def test_every_pair_has_positive_curvature_where_the_loss_is_not_convex():
    def bumpy(k):
        return lambda x: torch.sin(3 * x + k).sum() + 0.05 * (x * x).sum()

    theta = drawn(5)
    memory = stochastic_lbfgs.start(theta)
    for k in range(40):
        f = Evaluations(bumpy(0.3 * k))
        value, g = f.value_and_gradient(theta)
        delta, memory = stochastic_lbfgs.step({"g": g, "theta": theta, "f": f}, memory, stochastic_lbfgs.knobs)
        theta = theta + delta
        assert float(f(theta)) <= float(value)
        assert float(memory["rho"].min()) >= 0.0 and bool(memory["S"].isfinite().all())


def test_a_batch_that_is_not_finite_is_passed_over():
    stream = list(batches(12))
    theta, memory = trained(stochastic_lbfgs, stream[:6], torch.ones(4).double())
    A, y, x = stream[6]
    same, after = trained(stochastic_lbfgs, [(A * math.nan, y, x)], theta, dict(memory))
    assert torch.equal(same, theta) and after["status"] == Status.NOT_FINITE
    assert all(torch.equal(after[name], memory[name]) for name in ("S", "Y", "rho"))
    _, memory = trained(stochastic_lbfgs, stream[7:], theta, after)
    assert memory["status"] == Status.GOING_ON


def test_it_trains_a_network_on_minibatches():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Network(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double(), nn.functional.mse_loss)
    x = drawn(256, 2)
    whole = Batch(x, torch.sin(2 * x[:, :1]) * x[:, 1:])
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0)).view(8, 32)
    parts = [Batch(whole.inputs[i], whole.targets[i]) for i in order] * 10
    before = float(network.f(network.theta, whole))
    for _ in descend(network, stochastic_lbfgs, parts):
        pass
    assert float(network.f(network.theta, whole)) < 0.2 * before


def test_the_scale_of_f_makes_no_difference():
    def scaled(factor):
        theta = torch.ones(4).double()
        memory = stochastic_lbfgs.start(theta)
        for A, y, _ in batches(10):
            f = Evaluations(lambda x, A=A, y=y: factor * loss(A, y)(x))
            _, g = f.value_and_gradient(theta)
            delta, memory = stochastic_lbfgs.step({"g": g, "theta": theta, "f": f}, memory, stochastic_lbfgs.knobs)
            theta = theta + delta
        return theta

    assert torch.equal(scaled(2.0**40), scaled(1.0)) and torch.equal(scaled(2.0**-40), scaled(1.0))


def test_resumed_from_json_and_safetensors_it_goes_on_bit_for_bit():
    stream = list(batches(16))
    whole, _ = trained(stochastic_lbfgs, stream, torch.ones(4).double())
    half, memory = trained(stochastic_lbfgs, stream[:8], torch.ones(4).double())
    status = json.loads(json.dumps(memory.pop("status"), allow_nan=False))
    again, _ = trained(stochastic_lbfgs, stream[8:], half, {**load(save(memory)), "status": status})
    assert torch.equal(again, whole)
