import copy
import json
import math

import pytest
import torch
from safetensors.torch import load, save

from thalweg import optim
from thalweg.adaptive.adagrad import adagrad
from thalweg.adaptive.adam import adam
from thalweg.adaptive.rmsprop import rmsprop
from thalweg.adaptive.rmsprop_momentum import rmsprop_momentum
from thalweg.adaptive.rmsprop_nesterov import rmsprop_nesterov
from thalweg.basic.momentum import momentum
from thalweg.basic.nesterov import nesterov
from thalweg.basic.sgd import sgd
from thalweg.core.derivatives import hessian
from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.network import Batch, Network
from thalweg.core.rule import number, rule
from thalweg.descend import descend
from thalweg.execution.closure_optim import ClosureOptimizer
from thalweg.modern.muon import muon
from thalweg.modern.shampoo import shampoo
from thalweg.second_order.bfgs import bfgs
from thalweg.second_order.lbfgs import lbfgs
from thalweg.second_order.newton import newton
from thalweg.strategies.averaging import averaged
from thalweg.strategies.clipping import clipped
from thalweg.strategies.preconditioned import preconditioned

SHAPES = [(3, 4), (5,), (4, 2)]
N = sum(math.prod(shape) for shape in SHAPES)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def agree(run, one, other, **knobs):
    theta, gradients = drawn(N), drawn(12, N, seed=1)
    mine, theirs = (run(lifted(rule, SHAPES), theta, gradients, **knobs)[0][-1] for rule in (one, other))
    return torch.equal(mine, theirs)


def test_momentum_on_gradients_that_rmsprop_scales_is_rmsprop_momentum_exactly(run):
    knobs = {"lr": 0.1, "momentum": 0.7, "alpha": 0.8, "eps": 1e-3}
    assert agree(run, preconditioned(momentum, rmsprop), rmsprop_momentum, **knobs)
    assert agree(run, preconditioned(nesterov, rmsprop), rmsprop_nesterov, **knobs)


@pytest.mark.parametrize("rule", [momentum, adam, rmsprop, shampoo, clipped(momentum)], ids=lambda rule: rule.name)
def test_sgd_is_the_identity_as_a_metric(run, rule):
    assert agree(run, preconditioned(rule, sgd), rule, lr=0.1)


@pytest.mark.parametrize("rule", [momentum, adam, rmsprop, shampoo, clipped(muon)], ids=lambda rule: rule.name)
def test_under_sgd_a_metric_is_itself_at_the_lr_of_sgd(run, rule):
    theta, gradients = drawn(N), drawn(12, N, seed=1)
    mine, theirs = (
        run(lifted(each, SHAPES), theta, gradients, lr=0.5)[0][-1] for each in (preconditioned(sgd, rule), rule)
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_brackets_do_not_matter(run):
    left = preconditioned(preconditioned(momentum, rmsprop), adam)
    right = preconditioned(momentum, preconditioned(rmsprop, adam))
    theta, gradients = drawn(N), drawn(12, N, seed=1)
    assert torch.equal(*(run(rule, theta, gradients, lr=0.1)[0][-1] for rule in (left, right)))


# Second-order metrics


def quadratic(n=6):
    root = drawn(n, n, seed=3)
    A, b = root @ root.T + torch.eye(n, dtype=torch.float64), drawn(n, seed=4)
    return A, b, lambda x: x @ A @ x / 2 - b @ x


@rule(per="vector", batched=False)
def plain_newton(g, theta, f, *, lr=1.0):
    """Newton's step, nothing else."""
    return -lr * torch.linalg.solve(hessian(f, theta), g)


def followed(rule, f, theta, steps, **knobs):
    knobs = rule.with_defaults(knobs)
    memory, points = rule.start(theta, **knobs), []
    for _ in range(steps):
        (g,) = torch.autograd.grad(f(leaf := theta.clone().requires_grad_()), leaf)
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, knobs)
        theta = theta + delta
        points.append(theta)
    return points


@pytest.mark.parametrize("metric", [plain_newton, newton], ids=["plain", "with a line search"])
def test_sgd_in_newtons_metric_is_newtons_method_and_ends_a_quadratic_in_a_step(metric):
    A, b, f = quadratic()
    (end,) = followed(preconditioned(sgd, metric), f, drawn(6), 1, lr=1.0)
    torch.testing.assert_close(end, torch.linalg.solve(A, b), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("metric", [newton, bfgs, lbfgs], ids=lambda rule: rule.name)
def test_under_sgd_a_metric_that_evaluates_the_objective_is_itself(metric):
    f = lambda x: (x**4).sum() + (x - 1).square().sum() + x[0] * x[1]  # noqa: E731
    mine, theirs = (followed(rule, f, drawn(5), 10, lr=1.0) for rule in (preconditioned(sgd, metric), metric))
    assert torch.equal(torch.stack(mine), torch.stack(theirs))


@pytest.mark.parametrize("metric", [newton, bfgs, lbfgs], ids=lambda rule: rule.name)
def test_momentum_in_a_metric_of_second_order_goes_down_a_valley_that_momentum_alone_does_not(metric):
    scales = torch.logspace(0, 6, 5, dtype=torch.float64)
    f = lambda x: (scales * (x - 1) ** 2).sum()  # noqa: E731
    far = followed(preconditioned(momentum, metric), f, drawn(5), 100, lr=0.5, momentum=0.5)[-1]
    alone = followed(momentum, f, drawn(5), 100, lr=5e-7, momentum=0.5)[-1]
    assert f(far) < 0.01 * f(alone)


@pytest.mark.parametrize("rule", [momentum, nesterov], ids=lambda rule: rule.name)
def test_in_newtons_metric_a_rule_goes_on_any_quadratic_as_on_the_rounded_one(rule):
    A, b, f = quadratic()
    start, best = drawn(6), torch.linalg.solve(A, b)
    on_a = followed(preconditioned(rule, plain_newton), f, start, 8, lr=0.3, momentum=0.5)
    on_identity = followed(rule, lambda x: (x - best) @ (x - best) / 2, start, 8, lr=0.3, momentum=0.5)
    torch.testing.assert_close(torch.stack(on_a), torch.stack(on_identity), rtol=1e-10, atol=1e-10)


def test_in_newtons_metric_momentum_does_not_depend_on_the_coordinates():
    B = drawn(5, 5, seed=5) + 3 * torch.eye(5, dtype=torch.float64)
    f = lambda x: (x**4).sum() + (x - 1).square().sum() + x[0] * x[1]  # noqa: E731
    start, rule = drawn(5), preconditioned(momentum, plain_newton)
    plain = followed(rule, f, start, 6, lr=0.2)
    turned = followed(rule, lambda z: f(B @ z), torch.linalg.solve(B, start), 6, lr=0.2)
    torch.testing.assert_close(torch.stack(turned) @ B.T, torch.stack(plain), rtol=1e-9, atol=1e-9)


# Names


def test_names_that_both_have_are_the_metrics_with_a_prefix():
    both = preconditioned(adam, shampoo, metric_beta1=0.0, lr=0.2)
    assert list(both.remembers)[:6] == ["m", "v", "t", "metric_m", "metric_v", "left"] and "metric_t" in both.remembers
    assert both.knobs["metric_beta1"] == 0.0 and both.knobs["beta1"] == 0.9 and both.knobs["lr"] == 0.2
    assert "metric_lr" not in both.knobs and both.per == "tensor"
    third = preconditioned(preconditioned(momentum, momentum), momentum)
    assert list(third.knobs) == ["lr", "momentum", "metric_momentum", "metric_metric_momentum"]


@rule
def fading(g, eta=number("lr"), *, lr=0.01):
    """A step size that halves."""
    return -eta * g, eta / 2


def test_a_metric_starts_by_its_own_knobs_and_an_lr_of_one():
    scaled = preconditioned(adagrad, adagrad, initial_accumulator_value=2.0, metric_initial_accumulator_value=3.0)
    memory = scaled.start(torch.zeros(2), **scaled.knobs)
    assert [float(v[0]) for name, v in memory.items() if isinstance(v, torch.Tensor)] == [2.0, 3.0]
    assert preconditioned(sgd, fading).start(torch.zeros(1), lr=0.3)["eta"] == 1.0


def test_an_unknown_knob_is_refused():
    with pytest.raises(AlgorithmError, match="no knob 'beta3'"):
        preconditioned(sgd, adam, beta3=0.1)


def test_a_rule_that_evaluates_the_objective_and_a_metric_that_answers_with_an_average_are_refused():
    with pytest.raises(AlgorithmError, match="evaluates the objective"):
        preconditioned(newton, rmsprop)
    with pytest.raises(AlgorithmError, match="average"):
        preconditioned(sgd, averaged(sgd))
    with pytest.raises(AlgorithmError, match="around both"):
        preconditioned(clipped(muon), shampoo)


def test_the_average_of_the_rule_is_that_of_the_pair(run):
    both, gradients = preconditioned(averaged(sgd), rmsprop), drawn(5, 3)
    points, memory = run(both, drawn(3, seed=1), gradients, lr=0.1)
    torch.testing.assert_close(both.answer(points[-1], memory), torch.stack(points).mean(dim=0))


PAIRS = [
    preconditioned(momentum, rmsprop),
    preconditioned(adam, adam),
    preconditioned(momentum, shampoo),
    preconditioned(nesterov, muon, metric_momentum=0.0),
    preconditioned(muon, rmsprop),
    preconditioned(clipped(momentum), shampoo),
    preconditioned(clipped(adam), shampoo),
    preconditioned(sgd, clipped(shampoo)),
]
pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda rule: rule.name)


@pairs
def test_its_memory_goes_through_a_checkpoint_bit_for_bit(run, pair):
    theta, gradients, flat = drawn(N), drawn(10, N, seed=1), lifted(pair, SHAPES)
    whole, _ = run(flat, theta, gradients)
    half, memory = run(flat, theta, gradients[:5])
    tensors = load(save({name: value for name, value in memory.items() if isinstance(value, torch.Tensor)}))
    numbers = json.loads(json.dumps({name: v for name, v in memory.items() if not isinstance(v, torch.Tensor)}))
    memory, theta, knobs = {**numbers, **tensors}, half[-1], flat.with_defaults({})
    memory = {name: memory[name] for name in flat.remembers}
    for g in gradients[5:]:
        delta, memory = flat.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    assert torch.equal(theta, whole[-1])


# In its executions


def parameters():
    return [torch.nn.Parameter(drawn(*shape, seed=k)) for k, shape in enumerate(SHAPES)]


def walk(optimizer, gradients):
    params = optimizer.param_groups[0]["params"]
    for g in gradients:
        for p, piece in zip(params, g.split([p.numel() for p in params]), strict=True):
            p.grad = piece.view(p.shape)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in params])


@pytest.mark.parametrize("execution", [None, "eager"])
@pairs
def test_an_optimizer_takes_its_steps_and_goes_on_from_a_state_dict(run, pair, execution):
    gradients, theta = drawn(10, N, seed=1), torch.cat([p.detach().flatten() for p in parameters()])
    optimizer = optim.Optimizer(parameters(), pair, lr=0.1, execution=execution)
    half = walk(optimizer, gradients[:5])
    saved = copy.deepcopy(optimizer.state_dict())
    whole = walk(optimizer, gradients[5:])
    torch.testing.assert_close(whole, run(lifted(pair, SHAPES), theta, gradients, lr=0.1)[0][-1])
    params = [torch.nn.Parameter(piece.view(s)) for piece, s in zip(half.split([12, 5, 8]), SHAPES, strict=True)]
    resumed = optim.Optimizer(params, pair, lr=0.1, execution=execution)
    resumed.load_state_dict(saved)
    assert torch.equal(walk(resumed, gradients[5:]), whole)


def problem():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    return Network(module, torch.nn.functional.mse_loss), Batch(drawn(20, 3), drawn(20, 2, seed=1))


@pairs
def test_descend_runs_each_tensor_in_its_shape(run, pair):
    network, batch = problem()
    theta, flat, gradients = network.theta.clone(), lifted(pair, network.shapes), []
    for step in descend(network, pair, [batch] * 8, lr=0.05):
        gradients.append(step.g.clone())
    assert torch.equal(network.theta, run(flat, theta, gradients, lr=0.05)[0][-1])


def test_a_metric_that_evaluates_the_objective_runs_in_descend_and_behind_torchs_face():
    pair = preconditioned(momentum, newton)
    network, batch = problem()
    losses = [step.loss for step in descend(network, pair, [batch] * 15, lr=0.2, momentum=0.5)]
    module, theta = copy.deepcopy(problem()[0].module), network.theta
    optimizer = ClosureOptimizer(module.parameters(), pair, lr=0.2, momentum=0.5)
    for _ in range(15):
        optimizer.step(lambda: torch.nn.functional.mse_loss(module(batch.inputs), batch.targets))
    assert losses[-1] < 0.9 * losses[0]
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in module.parameters()]), theta)
