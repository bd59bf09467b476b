"""Combinators where they are used: through lifted, optim.Optimizer and descend, beside loops in NumPy."""

import copy
import math

import numpy as np
import pytest
import torch

from thalweg import optim
from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.network import Batch, Network
from thalweg.descend import descend
from thalweg.modern.muon import muon
from thalweg.strategies.adaptive_clipping import clipped_adaptively
from thalweg.strategies.averaging import averaged_late
from thalweg.strategies.cautious import cautious
from thalweg.strategies.centralised import centralised
from thalweg.strategies.held_back import accumulated, guarded
from thalweg.strategies.lookahead import lookahead
from thalweg.strategies.maximised import maximised
from thalweg.strategies.penalised import penalised
from thalweg.strategies.rounding import compensated, stochastically_rounded

SHAPES = [(3, 4), (2, 3, 2, 2), (5,), (), *[(2, 3)] * 4]  # small ones of one shape step in a batch
N = sum(math.prod(shape) for shape in SHAPES)
STEPS = 12
NAMED = [
    penalised, clipped_adaptively, lookahead, averaged_late, guarded, accumulated, compensated, stochastically_rounded,
]  # fmt: skip
both = pytest.mark.parametrize("combine", [compensated, stochastically_rounded])


@pytest.fixture(autouse=True)
def kernel_folder(tmp_path_factory, monkeypatch):
    """One folder of kernels for all tests of the session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "kernels-of-tests"))


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameters(dtype=torch.float64, shapes=SHAPES):
    return [torch.nn.Parameter(drawn(*shape, seed=k).to(dtype)) for k, shape in enumerate(shapes)]


def cut(vector, like):
    pieces = vector.split([math.prod(shape) for shape in like])
    return [piece.view(shape) for piece, shape in zip(pieces, like, strict=True)]


def joined(tensors):
    return torch.cat([t.detach().flatten() for t in tensors])


def walk(optimizer, gradients):
    """Steps with these gradients, vectors each; the parameters end to end."""
    params = optimizer.param_groups[0]["params"]
    for g in gradients:
        for p, piece in zip(params, cut(g, [p.shape for p in params]), strict=True):
            p.grad = piece.to(p.dtype)
        optimizer.step()
    return joined(params)


def naive(theta, gradients, lr, seen=None, taken=None):
    """Momentum on one parameter, in NumPy; the gradient becomes seen(g, theta), the step taken(step, g)."""
    theta, velocity = theta.numpy().copy(), 0.0
    for g in gradients:
        g = g.numpy()
        velocity = 0.9 * velocity + (seen(g, theta) if seen else g)
        step = -lr * velocity
        theta = theta + (taken(step, g) if taken else step)
    return theta


def central(g, theta):
    return np.array([unit - unit.mean() for unit in g]) if g.ndim > 1 else g


def short(g, theta):
    if g.ndim > 1:
        units = [short(*unit) for unit in zip(g.reshape(len(g), -1), theta.reshape(len(g), -1), strict=True)]
        return np.reshape(units, g.shape)
    return g * min(1.0, 0.3 * max(np.linalg.norm(theta), 1e-3) / np.linalg.norm(g))


def downhill(step, g):
    mask = (step * g < 0).astype(float)
    return step * mask / max(mask.mean(), 1e-3)


PER_TENSOR = [
    (centralised(momentum), {"seen": central}),
    (clipped_adaptively(momentum, clip_ratio=0.3), {"seen": short}),
    (cautious(momentum), {"taken": downhill}),
    (cautious(clipped_adaptively(centralised(momentum), clip_ratio=0.3)), {
        "seen": lambda g, theta: central(short(g, theta), theta), "taken": downhill,
    }),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "how"), PER_TENSOR, ids=lambda x: getattr(x, "name", ""))
def test_a_combinator_per_tensor_is_a_loop_over_parameters_and_units(run, rule, how):
    gradients = drawn(STEPS, N, seed=1)
    pieces = zip(*(cut(g, SHAPES) for g in gradients), strict=True)
    expected = np.concatenate(
        [naive(p.detach(), g, 0.1, **how).ravel() for p, g in zip(parameters(), pieces, strict=True)]
    )
    flat, _ = run(lifted(rule, SHAPES), joined(parameters()), gradients, lr=0.1)
    for found in (flat[-1], walk(optim.Optimizer(parameters(), rule, lr=0.1), gradients)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("execution", ["kernel", "eager"])
def test_penalty_sign_lookahead_and_average_are_the_loop_that_their_papers_write(execution):
    gradients, k, alpha, first, every = drawn(STEPS, N, seed=1), 3, 0.4, 4, 2
    slow = theta = joined(parameters()).numpy()
    velocity, averaged = 0.0, []
    for t, g in enumerate(gradients.numpy(), start=1):
        velocity = 0.9 * velocity + -(g + 0.2 * theta)
        theta = theta - 0.1 * velocity
        if t % k == 0:
            slow = theta = slow + alpha * (theta - slow)
        if t > first and (t - first) % every == 0:
            averaged.append(theta)
    rule = averaged_late(
        lookahead(penalised(maximised(momentum), weight_decay=0.2), slow_every=k, slow_step=alpha),
        average_from=first,
        average_every=every,
    )
    optimizer = optim.Optimizer(parameters(), rule, lr=0.1, execution=execution)
    np.testing.assert_allclose(walk(optimizer, gradients), theta, rtol=1e-12, atol=1e-13)
    with optimizer.answer():
        answer = joined(optimizer.param_groups[0]["params"])
    np.testing.assert_allclose(answer, np.mean(averaged, axis=0), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_guarded_optimizer_skips_and_counts_and_its_state_dict_goes_on(bad):
    good = drawn(STEPS, N, seed=1)
    broken = good[0].clone()
    broken[-1] = bad  # in the last parameter alone
    optimizer = optim.Optimizer(parameters(), guarded(adam))
    theta = walk(optimizer, good[:5])
    before = copy.deepcopy(optimizer.state_dict()["state"])
    assert torch.equal(walk(optimizer, [broken] * 3), theta)
    saved = copy.deepcopy(optimizer.state_dict())
    for k, state in saved["state"].items():
        assert state["skipped"] == 3 and before[k].pop("skipped") == 0
        assert all(torch.equal(state[name], value) for name, value in before[k].items())

    uninterrupted = walk(optimizer, [*good[5:], broken])
    resumed = optim.Optimizer(optimizer.param_groups[0]["params"], guarded(adam))
    for p, piece in zip(resumed.param_groups[0]["params"], cut(theta, SHAPES), strict=True):
        p.data.copy_(piece)
    resumed.load_state_dict(saved)
    assert torch.equal(walk(resumed, [*good[5:], broken]), uninterrupted)
    assert all(state["skipped"] == 4 and state["t"] == STEPS for state in resumed.state.values())
    plain = walk(optim.Optimizer(parameters(), adam, execution="eager"), good)
    torch.testing.assert_close(uninterrupted, plain, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", [momentum, adam, lookahead(adam), cautious(adam), muon], ids=lambda rule: rule.name)
def test_an_accumulating_optimizer_is_the_optimizer_on_the_means_exactly(rule):
    shapes, k = [(3, 4)] * 5, 3  # matrices, for Muon, which is not itself in a batch
    micro = drawn(STEPS, 60, seed=1)
    means = [sum(micro[i : i + k]) / k for i in range(0, STEPS, k)]
    optimizer = optim.Optimizer(parameters(shapes=shapes), accumulated(rule, accumulate_every=k), execution="eager")
    found = walk(optimizer, micro)
    assert torch.equal(found, walk(optim.Optimizer(parameters(shapes=shapes), rule, execution="eager"), means))
    assert all(state["gathered"] == 0 and not state["total"].any() for state in optimizer.state.values())


@pytest.mark.parametrize("rule", [adam, cautious(adam)], ids=lambda rule: rule.name)
def test_descend_accumulates_the_gradients_at_one_theta_and_steps_with_their_mean(rule):
    torch.manual_seed(0)
    network = Network(torch.nn.Linear(3, 2).double(), torch.nn.functional.mse_loss)
    batches = [Batch(drawn(8, 3, seed=k), drawn(8, 2, seed=50 + k)) for k in range(STEPS)]
    inner, theta, gradients = lifted(rule, network.shapes), network.theta.clone(), []
    memory, knobs = inner.start(theta), inner.knobs
    for step in descend(network, accumulated(rule, accumulate_every=4), batches):
        gradients.append(step.g.clone())
        if step.t % 4 == 0:
            delta, memory = inner.step({"g": sum(gradients[-4:]) / 4, "theta": theta}, memory, knobs)
            theta = theta + delta
        assert torch.equal(network.theta, theta)


@pytest.mark.parametrize("rule", [adam, cautious(adam)], ids=lambda rule: rule.name)
def test_descend_skips_a_batch_whose_gradient_is_not_finite(rule):
    torch.manual_seed(0)
    network = Network(torch.nn.Linear(3, 2), torch.nn.functional.mse_loss)
    good, bad = (Batch(torch.full((4, 3), x), torch.zeros(4, 2)) for x in (1.0, math.nan))
    before, moved = network.theta.clone(), []
    for step in descend(network, guarded(rule), [good, bad, bad, good]):
        memory = step.memory
        moved.append(not torch.equal(network.theta, before))
        before.copy_(network.theta)
    assert moved == [True, False, False, True] and before.isfinite().all()
    assert memory["skipped"] == 2 and memory["t"] == 2


@both
@pytest.mark.parametrize("rule", [adam, cautious(adam)], ids=lambda rule: rule.name)
def test_half_precision_steps_in_a_batch_of_one_shape_as_each_alone_and_resumes_bit_for_bit(combine, rule):
    gradients, rounded = drawn(STEPS, N, seed=1), combine(rule)
    optimizer = optim.Optimizer(parameters(torch.bfloat16), rounded)
    theta = walk(optimizer, gradients[:5])
    saved = copy.deepcopy(optimizer.state_dict())
    assert all(v.dtype == torch.float32 for state in saved["state"].values() for v in state.values())
    whole = walk(optimizer, gradients[5:])
    alone = [
        walk(optim.Optimizer([p], rounded), joined(g).view(STEPS, -1))
        for p, g in zip(parameters(torch.bfloat16), zip(*(cut(g, SHAPES) for g in gradients), strict=True), strict=True)
    ]
    assert torch.equal(whole, torch.cat(alone))
    params = [torch.nn.Parameter(piece.clone()) for piece in cut(theta, SHAPES)]
    resumed = optim.Optimizer(params, rounded)
    resumed.load_state_dict(saved)
    assert torch.equal(walk(resumed, gradients[5:]), whole)


def test_bfloat16_and_what_it_lost_are_the_float32_optimizer_to_float32s_precision():
    steps, lr = 200, 1e-4
    gradients = (drawn(steps, N, seed=1) + 0.3).bfloat16()
    optimizer = optim.Optimizer(parameters(torch.bfloat16), compensated(adam), lr=lr)
    rounded = walk(optimizer, gradients).float()
    expected = walk(optim.Optimizer(in_float32(), adam, lr=lr), gradients.float())
    lost = joined([optimizer.state[p]["c"] for p in optimizer.param_groups[0]["params"]])
    assert (rounded + lost - expected).abs().max() < steps * 2**-24 * expected.abs().max()  # half a unit a step
    stalled = walk(optim.Optimizer(parameters(torch.bfloat16), adam, lr=lr), gradients).float()
    assert (rounded - expected).abs().mean() < 0.2 * (stalled - expected).abs().mean()


def in_float32():
    return [torch.nn.Parameter(p.detach().float()) for p in parameters(torch.bfloat16)]


def test_stochastic_rounding_keeps_infinity_and_nan_what_they_are():
    rule, theta = stochastically_rounded(sgd), torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
    for g in (0.0, 1.0):
        seen = {"g": torch.tensor([g] * 3 + [0.0] * 2), "theta": theta}
        delta, _ = rule.step(seen, rule.start(theta), rule.knobs)
        torch.testing.assert_close(theta + delta, theta, rtol=0, atol=0, equal_nan=True)


@both
def test_around_averages_lookahead_and_caution_it_follows_them_in_float32_and_a_guard_goes_around_it(combine):
    inner = averaged_late(lookahead(cautious(adam), slow_every=2))
    bad = torch.full((N,), math.nan)
    gradients = [torch.zeros(N), *drawn(STEPS, N, seed=1).bfloat16().float()]
    optimizer = optim.Optimizer(parameters(torch.bfloat16), guarded(combine(inner)), lr=0.05)
    theta = walk(optimizer, [bad, *gradients, bad]).float()
    expected = walk(optim.Optimizer(in_float32(), inner, lr=0.05), gradients)
    assert (theta - expected).abs().max() < 0.03 < 0.1 < (expected - joined(in_float32())).abs().max()
    assert all(state["skipped"] == 2 for state in optimizer.state.values())


@pytest.mark.parametrize("combine", NAMED, ids=lambda c: c.__name__)
def test_what_has_names_of_its_own_is_not_applied_twice(combine):
    with pytest.raises(AlgorithmError, match="is it applied twice"):
        combine(cautious(combine(adam)))


def test_turning_round_twice_and_centralising_twice_are_nothing_new(run):
    gradients, theta = drawn(STEPS, 3, 4, seed=1), drawn(3, 4)
    assert torch.equal(run(maximised(maximised(adam)), theta, gradients)[0][-1], run(adam, theta, gradients)[0][-1])
    once, twice = (run(r, theta, gradients)[0][-1] for r in (centralised(adam), centralised(centralised(adam))))
    torch.testing.assert_close(once, twice)
