"""Hessian-free optimisation: against the solution of its linear system, and the parts that make it robust."""

import json
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional as F

from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import CurvatureError
from thalweg.core.network import Batch, Network
from thalweg.core.objective import Composed, LeastSquares
from thalweg.core.status import Status
from thalweg.second_order.hessian_free import Iterate, gone_back, hessian_free, iterates, part_of


def stepped(f, theta, memory=None, **knobs):
    """The next theta, and the memory."""
    memory = memory or hessian_free.start(theta, **knobs)
    _, g = value_and_gradient(f, theta)
    with torch.no_grad():
        delta, memory = hessian_free.step({"g": g, "theta": theta, "f": f}, memory, hessian_free.with_defaults(knobs))
    return theta + delta, memory


def run(f, theta, steps, **knobs):
    memory = None
    for _ in range(steps):
        theta, memory = stepped(f, theta, memory, **knobs)
    return theta, memory


@pytest.fixture
def linear():
    """A linear model with squared loss, its first theta and its solution."""
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(30, generator=generator, dtype=torch.float64)
    return (
        LeastSquares(lambda theta: A @ theta - y),
        torch.ones(6).double(),
        torch.linalg.lstsq(A, y[:, None]).solution[:, 0],
    )


@pytest.fixture
def network():
    """A small autoencoder with sigmoid units, and the batch that it learns."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 12), nn.Sigmoid(), nn.Linear(12, 3), nn.Sigmoid(), nn.Linear(3, 8))
    inputs = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) @ torch.rand(3, 8)
    return Network(module, F.mse_loss), Batch(inputs, inputs)


def test_without_damping_one_step_solves_a_linear_model(linear):
    f, theta, solution = linear
    torch.testing.assert_close(stepped(f, theta, damping=0.0)[0], solution)


def test_a_damped_step_is_that_of_the_damped_system(linear):
    f, theta, _ = linear
    g = value_and_gradient(f, theta)[1]
    G = torch.func.jacrev(f.residuals)(theta).T @ torch.func.jacrev(f.residuals)(theta)
    strength = 0.3 * g @ G @ g / (g @ g)
    solved = torch.linalg.solve(G + strength * torch.eye(6), -g)
    torch.testing.assert_close(stepped(f, theta, damping=0.3)[1]["before"], solved)


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_the_preconditioner_changes_the_way_not_its_end(linear, power):
    f, theta, solution = linear
    torch.testing.assert_close(stepped(f, theta, damping=0.0, power=power)[0], solution)


def test_the_preconditioner_knows_the_scales_of_curvature():
    scales = 10 ** torch.linspace(-2, 2, 40).double()
    f, theta = LeastSquares(lambda x: scales * x - 1), torch.zeros(40).double()
    solved = {power: stepped(f, theta, damping=0.0, most=1.0, power=power)[0] for power in (0.0, 1.0)}
    torch.testing.assert_close(solved[1.0], 1 / scales)  # G is diagonal, and the diagonal is known
    assert f(solved[0.0]) > 1


def test_damping_falls_where_the_model_is_right_and_grows_where_it_is_not(linear):
    f, theta, _ = linear
    first = stepped(f, theta, damping=0.1)[1]["strength"]
    g = value_and_gradient(f, theta)[1]
    J = torch.func.jacrev(f.residuals)(theta)
    assert first == pytest.approx(2 / 3 * 0.1 * float((J @ g).square().sum() / g.square().sum()))

    # Its residuals bend: what the model promises does not come.
    bent = LeastSquares(lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]))
    theta = torch.tensor([-1.2, 1.0]).double()
    memory = {**hessian_free.start(theta), "strength": 1e-3}
    after, memory = stepped(bent, theta, memory)
    assert memory["strength"] == pytest.approx(1.5e-3)
    assert bent(after) < bent(theta)  # but the step is one down


def test_damping_stays_where_the_model_is_half_right():
    f = Composed(lambda x: x, lambda z: (z**2 / 2 - z / 2 + z**4).sum())
    theta = torch.zeros(1).double()  # the model ends at 1/2 and promises 1/8, of which half comes
    memory = {**hessian_free.start(theta), "strength": 1e-8}
    assert stepped(f, theta, memory)[1]["strength"] == 1e-8


def test_conjugate_gradients_start_where_they_ended(linear):
    f, theta, solution = linear
    _, memory = stepped(f, theta, damping=0.0)
    assert torch.dist(stepped(f, theta, memory, damping=0.0, most=1.0, decay=1.0)[0], solution) < 1e-9
    assert torch.dist(stepped(f, theta, memory, damping=0.0, most=1.0, decay=0.5)[0], solution) > 1e-2


def test_a_start_that_is_worse_than_zero_is_left():
    A, b = torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.ones(3)
    fresh = iterates(A.mv, b, torch.zeros(3), torch.ones(3), 5e-4, 2)
    assert torch.equal(iterates(A.mv, b, -torch.ones(3), torch.ones(3), 5e-4, 2)[-1].x, fresh[-1].x)


def test_conjugate_gradients_end_where_little_is_gained():
    values = torch.logspace(-4, 0, 200).double()
    b = torch.ones(200).double()
    models = [iterates(lambda u: values * u, b, 0 * b, 0 * b + 1, 0.0, most)[-1].model for most in range(1, 80)]
    ended = iterates(lambda u: values * u, b, 0 * b, 0 * b + 1, 1e-2, 500)[-1].model

    def gained(i):  # in the last iterations, of what all of i brought, per iteration
        k = max(10, i // 10)
        return (models[i - 1 - k] - models[i - 1]) / -models[i - 1] / k

    first = next(i for i in range(11, 80) if gained(i) < 1e-2)
    assert ended == pytest.approx(models[first - 1])


def test_iterates_are_kept_on_a_geometric_grid():
    values = torch.logspace(-4, 0, 200).double()
    b = torch.ones(200).double()
    way = iterates(lambda u: values * u, b, 0 * b, 0 * b + 1, 0.0, 100)
    each = [iterates(lambda u: values * u, b, 0 * b, 0 * b + 1, 0.0, i)[-1].model for i in range(1, 101)]
    kept = [1 + each.index(point.model) for point in way]
    assert kept == [*range(1, 10), 11, 14, 18, 24, 31, 40, 52, 67, 87, 100]
    assert [point.model for point in way] == sorted((point.model for point in way), reverse=True)


def test_going_back_takes_the_lowest():
    way = [Iterate(torch.tensor([x]), 0.0) for x in (1.0, 2.0, 3.0, 4.0)]
    evaluated = []

    def f(x):
        evaluated.append(float(x))
        return (x - 2.6).abs().sum()

    x, end = gone_back(f, torch.zeros(1), way)
    assert (float(x), end) == (3.0, pytest.approx(1.4))
    assert evaluated == [4.0, 3.0, 2.0]  # it rises from there


def test_going_back_passes_what_is_no_number():
    way = [Iterate(torch.tensor([x]), 0.0) for x in (1.0, 2.0, 3.0, 4.0)]
    f = lambda x: torch.where(x > 2.5, torch.nan, x * x - 4 * x).sum()  # noqa: E731
    x, end = gone_back(f, torch.zeros(1), way)
    assert float(x) == 2.0 and math.isnan(end)


def test_a_deep_network_is_trained_further_than_by_steepest_descent(network):
    network, batch = network
    f, theta = network.on(batch), network.theta.clone()
    ours, _ = run(f, theta, 15)

    def steepest(lr):
        x = theta
        for _ in range(15):
            x = x - lr * value_and_gradient(f, x)[1]
        return float(f(x))

    assert float(f(ours)) < 0.1 * min(steepest(lr) for lr in (0.1, 0.3, 1.0, 3.0, 10.0))


def test_each_step_on_one_batch_is_down(network):
    network, batch = network
    f, theta, memory, values = network.on(batch), network.theta.clone(), None, []
    for _ in range(15):
        values.append(float(f(theta)))
        theta, memory = stepped(f, theta, memory)
    assert values == sorted(values, reverse=True)


def test_a_stream_of_minibatches_is_learnt(network):
    network, batch = network
    theta, memory = network.theta.clone(), None
    first = float(network.on(batch)(theta))
    for t in range(25):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(t))[:20]
        theta, memory = stepped(network.on(Batch(batch.inputs[order], batch.targets[order])), theta, memory)
        assert memory["status"] == Status.GOING_ON
    assert float(network.on(batch)(theta)) < 0.05 * first


def test_a_share_of_the_batch_carries_the_curvature(network):
    network, batch = network
    f = network.on(batch)
    halves = [part_of(f, 0.5, t, 0.0).batch.inputs for t in range(2)]
    assert [len(half) for half in halves] == [20, 20] and not torch.equal(*halves)
    assert part_of(f, 1.0, 0, 0.0) is f

    # One step without damping solves for the gradient of all of the batch with the curvature of the part.
    part = part_of(f, 0.5, 0, 0.0)
    both = {}
    for share in (0.5, 1.0):
        memory = {**hessian_free.start(network.theta), "strength": 1.0}
        both[share] = stepped(f, network.theta, memory, share=share)[1]["before"]
    g = value_and_gradient(f, network.theta)[1]
    J = torch.func.jacrev(part.residuals)(network.theta)
    torch.testing.assert_close((J.T @ J + torch.eye(len(g))) @ both[0.5], -g, atol=1e-4, rtol=1e-3)
    assert torch.dist(both[0.5], both[1.0]) > 1e-4 * torch.dist(both[0.5], 0 * g)


def test_where_f_has_no_parts_all_of_it_carries_the_curvature(linear):
    f, theta, solution = linear
    torch.testing.assert_close(stepped(f, theta, damping=0.0, share=0.5)[0], solution)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_the_scale_of_f_makes_no_difference(dtype, scale):
    bent = lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])  # noqa: E731
    theta = torch.tensor([-1.2, 1.0], dtype=dtype)
    as_it_is = run(Composed(bent, lambda r: (r * r).sum()), theta, 5)[0]
    scaled = run(Composed(bent, lambda r: scale * (r * r).sum()), theta, 5)[0]
    torch.testing.assert_close(scaled, as_it_is, rtol=1e-2 if dtype == torch.float32 else 1e-9, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_converges_and_says_so(dtype):
    bent = LeastSquares(lambda x: torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0], 0 * x[0] + 1]))
    theta, memory = torch.tensor([-1.2, 1.0], dtype=dtype), None
    for _ in range(60):
        theta, memory = stepped(bent, theta, memory)
        if memory["status"] != Status.GOING_ON:
            break
    assert memory["status"] == Status.CONVERGED
    torch.testing.assert_close(theta, torch.ones(2, dtype=dtype), rtol=0, atol=1e-6 if dtype == torch.float64 else 1e-2)


def test_what_is_not_a_number_has_a_name(linear):
    f, theta, _ = linear
    _, before = stepped(f, theta)
    broken = Composed(lambda x: x / 0 * 0, lambda z: z.sum())
    moved, memory = stepped(broken, theta, before)
    assert torch.equal(moved, theta) and memory["status"] == Status.NOT_FINITE
    assert all(
        torch.equal(torch.as_tensor(memory[k]), torch.as_tensor(before[k])) for k in ("before", "rows", "strength")
    )
    assert stepped(f, theta, memory)[1]["status"] == Status.GOING_ON  # and it can go on


def test_a_step_into_what_is_not_a_number_is_shortened():
    # log(x) for x: the model's step, without damping, leads below zero.
    f = Composed(lambda x: x.log(), lambda z: ((z + 3) ** 2).sum() / 2)
    theta = torch.tensor([1.0]).double()
    memory = {**hessian_free.start(theta), "strength": 1e-9}
    after, memory = stepped(f, theta, memory)
    assert f(after) < f(theta) and memory["status"] == Status.GOING_ON
    assert memory["strength"] == pytest.approx(1.5e-9)


def test_at_a_stationary_point_it_has_converged(linear):
    f, _, solution = linear
    assert stepped(Composed(lambda x: x, lambda z: (z * z).sum()), 0 * solution)[1]["status"] == Status.CONVERGED
    moved, memory = stepped(f, solution)
    assert memory["status"] == Status.CONVERGED
    torch.testing.assert_close(moved, solution)


def test_without_curvature_it_goes_down_the_gradient():
    f = Composed(lambda x: 3 * x, lambda z: z.sum())
    theta = torch.ones(2).double()
    moved, memory = stepped(f, theta, damping=0.0)
    torch.testing.assert_close(moved, theta - 1.0)  # as far as theta is long
    assert memory["status"] == Status.GOING_ON


def test_an_objective_without_outputs_is_refused():
    with pytest.raises(CurvatureError, match="outputs and the loss of them apart"):
        stepped(lambda x: (x * x).sum(), torch.ones(2))


def test_a_resumed_run_is_the_same_bit_by_bit(network):
    network, batch = network
    f, knobs = network.on(batch), {"share": 0.5}
    uninterrupted, _ = run(f, network.theta.clone(), 8, **knobs)
    theta, memory = run(f, network.theta.clone(), 4, **knobs)
    tensors = load(save({**{k: v for k, v in memory.items() if isinstance(v, torch.Tensor)}, "theta": theta}))
    numbers = json.loads(json.dumps({k: v for k, v in memory.items() if not isinstance(v, torch.Tensor)}))
    theta, memory = tensors.pop("theta"), {**tensors, **numbers}
    for _ in range(4):
        theta, memory = stepped(f, theta, memory, **knobs)
    assert torch.equal(theta, uninterrupted)


def test_nothing_given_is_changed(network):
    network, batch = network
    f, theta = network.on(batch), network.theta.clone()
    theta, memory = run(f, theta, 2)
    _, g = value_and_gradient(f, theta)
    copies = theta.clone(), g.clone(), {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in memory.items()}
    hessian_free.step({"g": g, "theta": theta, "f": f}, memory, hessian_free.knobs)
    assert torch.equal(theta, copies[0]) and torch.equal(g, copies[1])
    assert all(torch.equal(torch.as_tensor(memory[k]), torch.as_tensor(v)) for k, v in copies[2].items())
