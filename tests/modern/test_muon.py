import numpy as np
import pytest
import torch

import thalweg.modern.muon
from thalweg import decayed
from thalweg.modern.muon import match_rms_adamw, matching_adamw, muon, muon_heavy_ball, original, orthogonalised

DOUBLE = torch.float64
JORDANS = (3.4445, -4.775, 2.0315)


def drawn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta


@pytest.fixture
def exactly(monkeypatch):
    """Newton-Schulz without the rounding of bfloat16."""
    monkeypatch.setattr(thalweg.modern.muon, "DTYPE", DOUBLE)


def jordans(w, gradients, lr, mu, nesterov):
    """Jordan's post, the iteration by what it does to singular values; w is a matrix."""
    w, momentum = np.array(w), np.zeros_like(w)
    for g in gradients:
        momentum = mu * momentum + (1 - mu) * g
        update = mu * momentum + (1 - mu) * g if nesterov else momentum
        u, s, vt = np.linalg.svd(update, full_matrices=False)
        s = s / np.sqrt(np.sum(s**2))
        for _ in range(5):
            s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
        w = w - lr * np.sqrt(max(1, w.shape[0] / w.shape[1])) * (u * s) @ vt
    return w


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (5,), (4, 3, 2, 2)], ids=str)
@pytest.mark.parametrize(("rule", "nesterov"), [(muon, True), (muon_heavy_ball, False)])
def test_it_is_jordans_on_the_matrix_that_a_parameter_is(shape, rule, nesterov):
    theta, gradients = drawn(*shape), drawn(25, *shape, seed=1)
    w, gs = theta.numpy().reshape(shape[0], -1), gradients.numpy().reshape(25, shape[0], -1)
    mine = run(rule, theta, gradients, lr=0.1, momentum=0.8).reshape(shape[0], -1)
    assert np.abs(mine.numpy() - jordans(w, gs, 0.1, 0.8, nesterov)).max() < 1e-10


CONFIGURATIONS = [
    {},
    {"lr": 0.3, "momentum": 0.5},
    {"nesterov": False},
    {"weight_decay": 0.5, "lr": 0.1},
    {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3},
    {"eps": 100.0},
    {"adjust_lr_fn": "original"},
    {"adjust_lr_fn": "match_rms_adamw"},
    {"adjust_lr_fn": "match_rms_adamw", "nesterov": False, "weight_decay": 0.0},
]


@pytest.mark.parametrize("kwargs", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4), (1, 5)], ids=str)
def test_it_is_torchs(kwargs, dtype, shape):
    theta, gradients = drawn(*shape, dtype=dtype), drawn(20, *shape, seed=1, dtype=dtype)
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.Muon([parameter], **kwargs)
    for g in gradients:
        parameter.grad = g.clone()
        optimizer.step()
    rule = muon if kwargs.get("nesterov", True) else muon_heavy_ball
    rule = match_rms_adamw(rule) if kwargs.get("adjust_lr_fn") == "match_rms_adamw" else rule
    knobs = {name: kwargs[name] for name in ("lr", "momentum", "weight_decay", "eps") if name in kwargs}
    knobs |= dict(zip("abc", kwargs.get("ns_coefficients", JORDANS), strict=True))
    knobs |= {"steps": kwargs.get("ns_steps", 5)}
    mine = run(decayed(rule, weight_decay=0.1), theta, gradients, **knobs)
    assert (mine - parameter).abs().max() <= (1e-13 if dtype == DOUBLE else 5e-6)


def test_the_factors_of_lr_are_functions_of_the_shape():
    assert original((6, 3)) == pytest.approx(2**0.5) and original((3, 6)) == 1.0 and original((4, 2, 1, 1)) == 2**0.5
    assert matching_adamw((9, 4)) == pytest.approx(0.6) and matching_adamw((4, 9)) == pytest.approx(0.6)


@pytest.mark.usefixtures("exactly")
def test_every_direction_of_the_step_counts_about_alike():
    g = drawn(8, 8) @ torch.diag(torch.logspace(0, -2, 8, dtype=DOUBLE))
    sizes = torch.linalg.svdvals(orthogonalised(g, 1e-7, JORDANS, 5))
    assert sizes.min() > 0.3 and sizes.max() < 1.21


@pytest.mark.usefixtures("exactly")
def test_muon_turns_with_the_rows_and_columns_of_its_gradients():
    theta, gradients = drawn(4, 3), drawn(10, 4, 3, seed=1)
    u, v = (torch.linalg.qr(drawn(n, n, seed=n)).Q for n in (4, 3))
    turned = run(muon, u @ theta @ v, u @ gradients @ v, lr=0.1)
    torch.testing.assert_close(turned, u @ run(muon, theta, gradients, lr=0.1) @ v, rtol=1e-10, atol=1e-10)


def test_muon_does_not_see_the_scale_of_the_gradients():
    theta, gradients = drawn(4, 3), drawn(10, 4, 3, seed=1)
    assert torch.equal(run(muon, theta, gradients, lr=0.1), run(muon, theta, 1024 * gradients, lr=0.1))


def test_the_step_on_a_vector_has_one_length():
    steps = [run(muon, torch.zeros(6), [scale * drawn(6, seed=5, dtype=torch.float32)], lr=1.0) for scale in (1, 128)]
    assert torch.equal(*steps)
    other = run(muon, torch.zeros(6), [drawn(6, dtype=torch.float32)], lr=1.0)
    assert other.norm() == pytest.approx(float(steps[0].norm()), rel=0.02)
