"""What holds of every rule that looks at a tensor or a vector as a whole."""

import json
import math

import pytest
import torch
from safetensors.torch import load, save

import thalweg.modern.muon
from thalweg import adam
from thalweg.core.lifted import lifted
from thalweg.modern.adafactor import adafactor
from thalweg.modern.dadapt_adam import dadapt_adam
from thalweg.modern.dog import dog
from thalweg.modern.lamb import lamb
from thalweg.modern.lars import lars
from thalweg.modern.muon import match_rms_adamw, muon, muon_heavy_ball
from thalweg.modern.muon_adamw import muon_adamw
from thalweg.modern.prodigy import prodigy
from thalweg.modern.psgd_kron import psgd_kron
from thalweg.modern.sam import sharpness_aware
from thalweg.modern.shampoo import shampoo
from thalweg.modern.soap import soap
from thalweg.modern.sophia import sophia

DOUBLE = torch.float64
SHAPES = [(4, 3), (5,), (4, 2, 1, 2), (1, 2)]
N = sum(math.prod(shape) for shape in SHAPES)
TENSORS = [adafactor, muon, muon_heavy_ball, match_rms_adamw(muon), muon_adamw, lamb, lars, shampoo, soap, psgd_kron]
VECTORS = [prodigy, dadapt_adam, dog]
SEEING_F = [sophia, sharpness_aware(adam)]
DEFINITE = {"a", "b", "c", "steps", "max_dim", "max_size", "seed"}  # knobs that say how much is computed, never tensors

every_rule = pytest.mark.parametrize("rule", TENSORS + VECTORS + SEEING_F, ids=lambda rule: rule.name)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)


def drawn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def f(theta):
    """An objective for the rules that see one."""
    return (theta**4).sum() + (theta.sum() ** 2) / 2


def run(rule, theta, gradients, memory=None, **knobs):
    knobs = rule.with_defaults(knobs)
    memory = rule.start(theta, **knobs) if memory is None else memory
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, knobs)
        theta = theta + delta
    return theta, memory


@pytest.fixture
def exactly(monkeypatch):
    """Newton-Schulz without the rounding of bfloat16, which is not the same in a batch."""
    monkeypatch.setattr(thalweg.modern.muon, "DTYPE", DOUBLE)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("rule", TENSORS, ids=lambda rule: rule.name)
def test_on_a_flat_theta_it_takes_the_steps_of_each_tensor(rule):
    thetas = [drawn(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    gradients = [[drawn(*shape, seed=100 * t + i) for i, shape in enumerate(SHAPES)] for t in range(1, 13)]
    pieces = [run(rule, theta, [g[i] for g in gradients])[0] for i, theta in enumerate(thetas)]
    flat, _ = run(lifted(rule, SHAPES), joined(thetas), [joined(g) for g in gradients])
    torch.testing.assert_close(flat, joined(pieces), rtol=1e-9, atol=1e-9)


def joined(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@every_rule
@every_dtype
def test_a_step_changes_nothing_in_place_and_keeps_the_dtype(rule, dtype):
    rule, theta, gradients = lifted(rule, SHAPES), drawn(N, dtype=dtype), drawn(11, N, seed=1, dtype=dtype)
    theta, memory = run(rule, theta, gradients)
    before = [theta.clone(), gradients.clone(), {n: torch.as_tensor(v).clone() for n, v in memory.items()}]
    after, remembered = run(rule, theta, gradients[:1], memory)
    assert torch.equal(theta, before[0]) and torch.equal(gradients, before[1])
    assert all(torch.equal(torch.as_tensor(memory[n]), v) for n, v in before[2].items())
    assert {v.dtype for v in (after, *remembered.values()) if isinstance(v, torch.Tensor)} == {dtype}


@every_rule
@every_dtype
def test_saved_and_resumed_is_uninterrupted_bit_for_bit(rule, dtype):
    rule, theta, gradients = lifted(rule, SHAPES), drawn(N, dtype=dtype), drawn(16, N, seed=1, dtype=dtype)
    whole, _ = run(rule, theta, gradients)
    half, memory = run(rule, theta, gradients[:7])
    tensors = load(save({"theta": half, **{n: v for n, v in memory.items() if isinstance(v, torch.Tensor)}}))
    numbers = json.loads(json.dumps({n: v for n, v in memory.items() if n not in tensors}))
    resumed, _ = run(rule, tensors["theta"], gradients[7:], {n: (numbers | tensors)[n] for n in rule.remembers})
    assert torch.equal(resumed, whole)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("rule", TENSORS + VECTORS, ids=lambda rule: rule.name)
def test_vmapped_over_its_knobs_is_looped(rule):
    rule, theta, gradients = lifted(rule, SHAPES), drawn(N), drawn(12, N, seed=1)
    factors = torch.tensor([0.25, 0.5, 0.9, 1.0], dtype=DOUBLE)
    members = {knob: value * factors for knob, value in rule.knobs.items() if knob not in DEFINITE}
    together = torch.vmap(lambda knobs: run(rule, theta, gradients, **knobs)[0])(members)
    for i, member in enumerate(together):
        alone, _ = run(rule, theta, gradients, **{knob: float(values[i]) for knob, values in members.items()})
        torch.testing.assert_close(member, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("rule", TENSORS + VECTORS, ids=lambda rule: rule.name)
def test_it_is_differentiable_in_its_knobs(rule):
    rule, theta, gradients, w = lifted(rule, SHAPES), drawn(N), drawn(7, N, seed=1), drawn(N, seed=2)
    for knob in {"lr", "beta1", "momentum", "weight_decay", "d0", "reps_rel"} & {*rule.knobs}:
        x = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
        (slope,) = torch.autograd.grad(run(rule, theta, gradients, **{knob: x})[0] @ w, x)
        up, down = (float(run(rule, theta, gradients, **{knob: 0.3 + h})[0] @ w) for h in (1e-6, -1e-6))
        assert slope == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7), knob


@every_rule
def test_without_a_gradient_it_stays_finite(rule):
    rule, theta = lifted(rule, SHAPES), torch.zeros(N)
    after, memory = run(rule, theta, torch.zeros(3, N))
    assert all(torch.as_tensor(value).isfinite().all() for value in (after, *memory.values()))


@every_rule
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_gradient_beyond_all_bounds_is_no_error(rule, bad):
    rule, theta = lifted(rule, SHAPES), drawn(N, dtype=torch.float32)
    gradients = drawn(12, N, seed=1, dtype=torch.float32)
    gradients[5] *= bad
    run(rule, theta, gradients)
