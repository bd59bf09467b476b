"""Every rule against every property: a new rule is one row.

A rule that looks at a tensor or at the vector as a whole is lifted onto theta first; what holds of such rules alone is
in modern/test_tensors_and_vectors.py.
"""

import json
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load, save

from thalweg.algorithms import ALGORITHMS, SECOND_ORDER
from thalweg.core.lifted import lifted
from thalweg.strategies.schedules import cosine

DTYPES = [torch.float32, torch.float64]
SHAPES = [(3, 4), (5,), ()]
N = sum(math.prod(shape) for shape in SHAPES)


class Row(NamedTuple):
    """What is particular to a rule."""

    first: Callable[..., torch.Tensor] | None  # the first step of a vector in closed form, from (g, theta, knobs)
    other: dict[str, float]  # knobs away from their defaults
    lr: float  # that descends a quadratic
    peer: Callable[..., torch.optim.Optimizer] | None = None  # in torch.optim, from (parameters, knobs)


def betas(optimizer):
    return lambda p, beta1, beta2, **knobs: optimizer(p, betas=(beta1, beta2), foreach=False, **knobs)


def amsgrad(p, **knobs):
    return torch.optim.Adam(p, amsgrad=True, **knobs)


def radam(p, threshold, **knobs):
    return torch.optim.RAdam(p, **knobs)  # whose threshold is always 5


def rprop(p, lr, eta_minus, eta_plus, step_min, step_max):
    return torch.optim.Rprop(p, lr, (eta_minus, eta_plus), (step_min, step_max), foreach=False)


def adafactor(p, eps1, eps2, clip, **knobs):
    return torch.optim.Adafactor(p, eps=(eps1, eps2), d=clip, weight_decay=0.0, foreach=False, **knobs)


def plain(optimizer, **fixed):
    return lambda p, **knobs: optimizer(p, foreach=False, **fixed, **knobs)


def adam_first(g, k):
    return -k["lr"] * g / (g.abs() + k["eps"])


def nadam_first(g, k):
    mu1, mu2 = (k["beta1"] * (1 - 0.5 * 0.96 ** (t * k["momentum_decay"])) for t in (1, 2))
    return adam_first(g, k) * (1 + mu2 * (1 - k["beta1"]) / (1 - mu1 * mu2))


def rms_first(g, k):
    return -k["lr"] * g / ((1 - k["alpha"]) ** 0.5 * g.abs() + k["eps"])


def centred_first(g, k):
    return -k["lr"] * g / ((k["alpha"] * (1 - k["alpha"])) ** 0.5 * g.abs() + k["eps"])


def warmed(k):
    return k["lr"] / max(k["warmup_steps"], 1)


def slow_share(k):
    """What AdEMAMix adds to Adam's first step: alpha * (1 - beta3), both one step into their warm-up."""
    part = 1 / max(k["warmup_steps"], 1)
    half_lives = [-1 / math.log(k[beta]) for beta in ("beta1", "beta3")]
    half_life = (1 - part) * half_lives[0] + part * half_lives[1]
    return part * k["alpha"] * (1 - math.exp(-1 / half_life))


def clipped(update, clip):
    """An update whose root mean square is at most clip."""
    return update / (update.square().mean().sqrt() / clip).clamp(min=1)


def adafactor_first(g, theta, k):
    size = theta.square().mean().sqrt().clamp(min=k["eps2"])
    return -min(k["lr"], 1) * size * clipped(g / g.abs().clamp(min=k["eps1"]), k["clip"])


def lars_first(g, theta, k):
    size, wd = theta.norm(), k["weight_decay"]
    return -k["lr"] * k["trust_coefficient"] * size / (g.norm() + wd * size) * (g + wd * theta)


def lamb_first(g, theta, k):
    u = g / (g.abs() + k["eps"]) + k["weight_decay"] * theta
    return -k["lr"] * theta.norm() / u.norm() * u


def psgd_kron_first(g, theta, k):
    q = 1 - k["precondition_lr"] * (g * g - 1) / (g * g + 1).max()
    return -k["lr"] * clipped(q * q * g, k["clip"])


def adapted_first(g, k):
    """Of D-Adapted Adam; Prodigy's differs in how eps and lr stand in it, which is not to be seen where both are 1."""
    return -k["d0"] * k["lr"] * (1 - k["beta1"]) * g / ((1 - k["beta2"]) ** 0.5 * g.abs() + k["eps"])


def sophia_first(g, theta, k):
    h = k["gamma"] * (1 - k["beta2"]) * curvature(theta)
    return -k["lr"] * ((1 - k["beta1"]) * g / h.clamp(min=k["eps"])).clamp(-1, 1)


def curvature(theta):
    return torch.logspace(-0.5, 0.5, theta.numel(), dtype=theta.dtype)


def f(theta):
    """The objective of the rules that see one: its Hessian is diagonal."""
    return (curvature(theta) * theta * theta).sum() / 2


ROWS = {
    "sgd": Row(lambda g, theta, k: -k["lr"] * g, {"lr": 0.3}, 0.1, plain(torch.optim.SGD)),
    "momentum": Row(
        lambda g, theta, k: -k["lr"] * g, {"lr": 0.3, "momentum": 0.7}, 0.02, plain(torch.optim.SGD, dampening=0)
    ),
    "dampened_momentum": Row(
        lambda g, theta, k: -k["lr"] * g,
        {"lr": 0.3, "momentum": 0.7, "dampening": 0.4},
        0.02,
        plain(torch.optim.SGD),
    ),
    "nesterov": Row(
        lambda g, theta, k: -k["lr"] * (1 + k["momentum"]) * g,
        {"lr": 0.3, "momentum": 0.7},
        0.02,
        plain(torch.optim.SGD, nesterov=True),
    ),
    "asgd": Row(
        lambda g, theta, k: -k["lr"] * (g + k["lambd"] * theta),
        {"lr": 0.3, "lambd": 0.02, "alpha": 0.6, "t0": 4},
        0.1,
        plain(torch.optim.ASGD),
    ),
    "adagrad": Row(
        lambda g, theta, k: -k["lr"] * g / ((k["initial_accumulator_value"] + g * g).sqrt() + k["eps"]),
        {"lr": 0.3, "lr_decay": 0.1, "eps": 0.01, "initial_accumulator_value": 0.2},
        0.5,
        plain(torch.optim.Adagrad),
    ),
    "adadelta": Row(
        lambda g, theta, k: -k["lr"] * g * (k["eps"] / ((1 - k["rho"]) * g * g + k["eps"])) ** 0.5,
        {"lr": 0.3, "rho": 0.8, "eps": 0.01},
        5.0,
        plain(torch.optim.Adadelta),
    ),
    "rmsprop": Row(
        lambda g, theta, k: rms_first(g, k),
        {"lr": 0.3, "alpha": 0.9, "eps": 0.01},
        0.02,
        plain(torch.optim.RMSprop),
    ),
    "rmsprop_momentum": Row(
        lambda g, theta, k: rms_first(g, k),
        {"lr": 0.3, "alpha": 0.9, "momentum": 0.7, "eps": 0.01},
        0.01,
        plain(torch.optim.RMSprop),
    ),
    "rmsprop_nesterov": Row(
        lambda g, theta, k: (1 + k["momentum"]) * rms_first(g, k),
        {"lr": 0.3, "alpha": 0.9, "momentum": 0.7, "eps": 0.01},
        0.01,
    ),
    "rmsprop_centred": Row(
        lambda g, theta, k: centred_first(g, k),
        {"lr": 0.3, "alpha": 0.9, "eps": 0.1},
        0.02,
        plain(torch.optim.RMSprop, centered=True),
    ),
    "adam": Row(
        lambda g, theta, k: adam_first(g, k),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01},
        0.05,
        betas(torch.optim.Adam),
    ),
    "adamw": Row(
        lambda g, theta, k: adam_first(g, k) - k["lr"] * k["weight_decay"] * theta,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "weight_decay": 0.5},
        0.05,
        betas(torch.optim.AdamW),
    ),
    "amsgrad": Row(
        lambda g, theta, k: adam_first(g, k),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01},
        0.05,
        betas(amsgrad),
    ),
    "adamax": Row(
        lambda g, theta, k: adam_first(g, k),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01},
        0.05,
        betas(torch.optim.Adamax),
    ),
    "nadam": Row(
        lambda g, theta, k: nadam_first(g, k),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "momentum_decay": 0.1},
        0.05,
        betas(torch.optim.NAdam),
    ),
    "radam": Row(
        lambda g, theta, k: -k["lr"] * g,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01},
        0.05,
        betas(radam),
    ),
    "rprop": Row(
        lambda g, theta, k: -k["lr"] * g.sign(),
        {"lr": 0.3, "eta_minus": 0.4, "eta_plus": 1.3, "step_min": 0.01, "step_max": 0.6},
        0.01,
        rprop,
    ),
    "lion": Row(lambda g, theta, k: -k["lr"] * g.sign(), {"lr": 0.3, "beta1": 0.7, "beta2": 0.9}, 0.02),
    "adan": Row(
        lambda g, theta, k: adam_first(g, k),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.8, "beta3": 0.9, "eps": 0.01},
        0.05,
    ),
    "adabelief": Row(
        lambda g, theta, k: -k["lr"] * g / (((k["beta1"] * g) ** 2 + k["eps"] / (1 - k["beta2"])).sqrt() + k["eps"]),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01},
        0.05,
    ),
    "adam_atan2": Row(
        lambda g, theta, k: -k["lr"] * k["a"] * torch.atan2(g, k["b"] * g.abs()),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "a": 1.27, "b": 0.5},
        0.05,
    ),
    "ademamix": Row(
        lambda g, theta, k: adam_first(g, k) * (1 + slow_share(k)),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "beta3": 0.99, "alpha": 3.0, "warmup_steps": 8, "eps": 0.01},
        0.1,
    ),
    "adopt": Row(
        lambda g, theta, k: 0 * g,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "clip": 0.8},
        0.05,
    ),
    "schedule_free_sgd": Row(
        lambda g, theta, k: -warmed(k) * g,
        {"lr": 0.3, "momentum": 0.7, "warmup_steps": 4},
        0.5,
    ),
    "schedule_free_adamw": Row(
        lambda g, theta, k: -warmed(k) * (g / (g.abs() + k["eps"]) + k["weight_decay"] * theta),
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "weight_decay": 0.5, "warmup_steps": 4},
        0.2,
    ),
    "adafactor": Row(
        adafactor_first,
        {"lr": 0.3, "beta2_decay": -0.6, "eps1": 0.01, "eps2": 0.1, "clip": 1.2},
        0.1,
        adafactor,
    ),
    "lars": Row(lars_first, {"lr": 0.3, "momentum": 0.7, "weight_decay": 0.5, "trust_coefficient": 0.1}, 30.0),
    "lamb": Row(
        lamb_first,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "weight_decay": 0.5},
        0.05,
    ),
    "muon": Row(None, {"lr": 0.3, "momentum": 0.7, "eps": 0.01, "steps": 3}, 0.05),  # an iteration, in bfloat16
    "muon_adamw": Row(
        lambda g, theta, k: (
            -k["adam_lr"] * (g / (g.abs() + k["eps"]) + k["weight_decay"] * theta)  # the knobs of what is no matrix
        ),
        {"lr": 0.3, "adam_lr": 0.2, "momentum": 0.7, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "weight_decay": 0.5},
        0.05,
    ),
    "shampoo": Row(
        lambda g, theta, k: adam_first(g, k),  # no matrix has no factors
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "shampoo_beta": 0.8, "ridge": 0.01, "every": 3},
        0.05,
    ),
    "soap": Row(
        lambda g, theta, k: adam_first(g, k),  # as above
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "shampoo_beta": 0.8, "every": 3},
        0.05,
    ),
    "psgd_kron": Row(
        psgd_kron_first, {"lr": 0.3, "beta1": 0.7, "precondition_lr": 0.3, "clip": 0.8, "max_size": 3, "seed": 1}, 0.02
    ),
    "dog": Row(
        lambda g, theta, k: -k["lr"] * k["reps_rel"] * (1 + theta.norm()) * g / (k["eps"] + g.square().sum()).sqrt(),
        {"lr": 0.3, "reps_rel": 0.1, "eps": 0.01},
        1.0,
    ),
    "dadapt_adam": Row(
        lambda g, theta, k: adapted_first(g, k) - k["d0"] * k["lr"] * k["weight_decay"] * theta,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "d0": 0.1, "weight_decay": 0.5},
        1.0,
    ),
    "prodigy": Row(
        lambda g, theta, k: adapted_first(g, k) - k["d0"] * k["lr"] * k["weight_decay"] * theta,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "eps": 0.01, "d0": 0.1, "d_coef": 0.5, "weight_decay": 0.5},
        1.0,
    ),
    "sophia": Row(
        sophia_first,
        {"lr": 0.3, "beta1": 0.7, "beta2": 0.9, "gamma": 0.5, "eps": 0.1, "every": 3, "seed": 1},
        0.1,
    ),
    "sam": Row(
        lambda g, theta, k: -k["lr"] * curvature(theta) * (theta + k["rho"] * g / g.norm()),
        {"lr": 0.3, "momentum": 0.7, "rho": 0.5},
        0.02,
    ),
}
ELEMENTWISE = [name for name, entry in ALGORITHMS.items() if entry.rule.per == "element"]

every_rule = pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in SECOND_ORDER])
every_elementwise_rule = pytest.mark.parametrize("name", ELEMENTWISE)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def drawn(dtype, *shape, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, memory=None, **knobs):
    """The parameters and the memory after one step for each gradient."""
    knobs = rule.with_defaults(knobs)
    memory = rule.start(theta, **knobs) if memory is None else memory
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta, "f": f}, memory, knobs)
        theta = theta + delta
    return theta, memory


def flat(name):
    """The rule of that name on the vector of parameters of several shapes."""
    return lifted(ALGORITHMS[name].rule, SHAPES)


def test_every_algorithm_has_its_row():
    assert set(ROWS) == set(ALGORITHMS) - set(SECOND_ORDER)  # those have second_order/test_every_rule.py


@pytest.fixture
def default_dtype(dtype):
    torch.set_default_dtype(dtype)  # in which torch's NAdam keeps the product of its momenta
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.peer is not None])
@every_dtype
@pytest.mark.parametrize("knobs", ["default", "other"])
@pytest.mark.usefixtures("default_dtype")
def test_it_is_torchs_where_torch_has_it(name, dtype, knobs):
    rule, row = ALGORITHMS[name].rule, ROWS[name]
    values = rule.with_defaults(row.other if knobs == "other" else {})
    theta, gradients = drawn(dtype, 7), drawn(dtype, 20, 7, seed=1)
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = row.peer([parameter], **values)
    for g in gradients:
        parameter.grad = g.clone()
        optimizer.step()
    mine, _ = run(rule, theta, gradients, **values)
    assert (mine - parameter).abs().max() <= (1e-9 if dtype == torch.float64 else 2e-6)


@every_elementwise_rule
@every_dtype
def test_flat_is_per_tensor(name, dtype):
    rule = ALGORITHMS[name].rule
    thetas = [drawn(dtype, *shape, seed=i) for i, shape in enumerate(SHAPES)]
    gradients = [[drawn(dtype, *shape, seed=10 * t + i) for i, shape in enumerate(SHAPES)] for t in range(1, 6)]
    pieces = [run(rule, theta, [g[i] for g in gradients])[0] for i, theta in enumerate(thetas)]
    flat, _ = run(rule, joined(thetas), [joined(g) for g in gradients])
    assert torch.equal(flat, joined(pieces))


def joined(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@every_rule
@every_dtype
def test_saved_and_resumed_is_uninterrupted_bit_for_bit(name, dtype):
    rule, theta, gradients = flat(name), drawn(dtype, N), drawn(dtype, 12, N, seed=1)
    whole = run(rule, theta, gradients, **ROWS[name].other)
    half, memory = run(rule, theta, gradients[:5], **ROWS[name].other)
    tensors = {"theta": half, **{n: v for n, v in memory.items() if isinstance(v, torch.Tensor)}}
    tensors = load(save(tensors))
    numbers = json.loads(json.dumps({n: v for n, v in memory.items() if n not in tensors}))
    memory = {n: tensors[n] if n in tensors else numbers[n] for n in rule.remembers}
    resumed = run(rule, tensors["theta"], gradients[5:], memory, **ROWS[name].other)
    assert torch.equal(resumed[0], whole[0])
    assert all(type(resumed[1][n]) is type(whole[1][n]) for n in rule.remembers)
    assert all(torch.equal(*map(torch.as_tensor, (resumed[1][n], whole[1][n]))) for n in rule.remembers)


@every_elementwise_rule
@every_dtype
def test_vmapped_over_its_knobs_is_looped(name, dtype):
    rule, theta, gradients = ALGORITHMS[name].rule, drawn(dtype, 7), drawn(dtype, 5, 7, seed=1)
    base = rule.with_defaults(ROWS[name].other)
    members = {knob: value * torch.tensor([0.25, 0.5, 0.9, 1.0], dtype=dtype) for knob, value in base.items()}
    together = torch.vmap(lambda knobs: run(rule, theta, gradients, **knobs)[0])(members)
    for i, member in enumerate(together):
        alone, _ = run(rule, theta, gradients, **{knob: values[i] for knob, values in members.items()})
        assert member.dtype == dtype
        torch.testing.assert_close(member, alone, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


@every_rule
@every_dtype
def test_it_descends_a_quadratic(name, dtype):
    rule, theta, steps = flat(name), torch.ones(N, dtype=dtype), 400
    memory, lr, least = rule.start(theta), cosine(ROWS[name].lr, steps), 1e-4 * f(theta)
    for t in range(steps):
        knobs = {**rule.knobs, "lr": lr(t)}
        if "adam_lr" in knobs:
            knobs["adam_lr"] = lr(t)
        delta, memory = rule.step({"g": curvature(theta) * theta, "theta": theta, "f": f}, memory, knobs)
        theta = theta + delta
    assert f(theta) < least


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.first is not None])
@every_dtype
@pytest.mark.parametrize("knobs", ["default", "other"])
def test_the_first_step_has_its_closed_form(name, dtype, knobs):
    rule, row, theta, g = ALGORITHMS[name].rule, ROWS[name], drawn(dtype, 7), drawn(dtype, 7, seed=1)
    values = rule.with_defaults(row.other if knobs == "other" else {})
    delta, _ = rule.step({"g": g, "theta": theta, "f": f}, rule.start(theta, **values), values)
    torch.testing.assert_close(
        delta, row.first(g, theta, values), rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0
    )


@every_rule
@every_dtype
def test_a_step_changes_nothing_in_place_and_keeps_the_dtype(name, dtype):
    rule, theta, gradients = flat(name), drawn(dtype, N), drawn(dtype, 3, N, seed=1)
    theta, memory = run(rule, theta, gradients)
    before = [theta.clone(), gradients.clone(), {n: torch.as_tensor(v).clone() for n, v in memory.items()}]
    delta, after = rule.step({"g": gradients[0], "theta": theta, "f": f}, memory, rule.knobs)
    assert torch.equal(theta, before[0]) and torch.equal(gradients, before[1])
    assert all(torch.equal(torch.as_tensor(memory[n]), v) for n, v in before[2].items())
    assert {v.dtype for v in (delta, *after.values()) if isinstance(v, torch.Tensor)} == {dtype}


@every_elementwise_rule
def test_numbers_take_the_same_steps_as_a_vector(name):
    rule, theta, gradients = ALGORITHMS[name].rule, drawn(torch.float64, 2), drawn(torch.float64, 5, 2, seed=1)
    vector, _ = run(rule, theta, gradients)
    for i, x in enumerate(theta.tolist()):
        memory = {n: s.make(theta[i], rule.knobs) for n, s in rule.remembers.items()}
        memory = {n: float(v) if isinstance(v, torch.Tensor) else v for n, v in memory.items()}
        number, _ = run(rule, x, gradients[:, i].tolist(), memory)
        assert isinstance(number, float) and number == pytest.approx(float(vector[i]), rel=1e-14)


@every_rule
def test_it_says_where_it_comes_from(name):
    algorithm = ALGORITHMS[name]
    assert re.search(r"\((Algorithm 8\.\d+|[A-Z][^()]* \d{4})\)", algorithm.summary)
    assert re.fullmatch(r"(after )?8\.\d(\.\d)?", algorithm.section)
