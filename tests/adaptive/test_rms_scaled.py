import numpy as np
import pytest
import torch

from thalweg.adaptive.rmsprop import rms_scaled, rmsprop
from thalweg.adaptive.rmsprop_centred import centred_rms_scaled, rmsprop_centred, rmsprop_centred_momentum
from thalweg.adaptive.rmsprop_momentum import rmsprop_momentum
from thalweg.adaptive.rmsprop_nesterov import rmsprop_nesterov
from thalweg.basic.momentum import momentum
from thalweg.modern.lion import lion

DOUBLE = torch.float64
GRADIENTS = torch.randn(25, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def walk(rule, gradients=GRADIENTS, **knobs):
    """theta after each step from 0, (steps, n)."""
    theta, knobs = torch.zeros_like(gradients[0]), rule.with_defaults(knobs)
    memory, seen = rule.start(theta, **knobs), []
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
        seen.append(theta)
    return torch.stack(seen)


def torchs(gradients=GRADIENTS, **settings):
    parameter, seen = torch.nn.Parameter(torch.zeros_like(gradients[0])), []
    optimizer = torch.optim.RMSprop([parameter], foreach=False, **settings)
    for g in gradients:
        parameter.grad = g.clone()
        optimizer.step()
        seen.append(parameter.detach().clone())
    return torch.stack(seen)


@pytest.mark.parametrize("knobs", [{}, {"lr": 0.3, "alpha": 0.8, "eps": 0.02}], ids=["default", "other"])
@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (rmsprop, {}),
        (rmsprop_momentum, {"momentum": 0.7}),
        (rmsprop_centred, {"centered": True}),
        (rmsprop_centred_momentum, {"momentum": 0.7, "centered": True}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_each_form_is_torchs(rule, settings, knobs):
    mine = walk(rule, **knobs, **{name: value for name, value in settings.items() if name in rule.knobs})
    assert (mine - torchs(**settings, **knobs)).abs().max() <= 1e-9


@pytest.mark.parametrize("centred", [False, True])
def test_the_velocity_gathers_scaled_gradients(centred):
    lr, alpha, mu, eps = 0.1, 0.9, 0.8, 0.03
    theta, r, mean, b, expected = np.zeros(5), np.zeros(5), np.zeros(5), np.zeros(5), []
    for g in GRADIENTS.numpy():
        r = alpha * r + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        spread = r - mean**2 if centred else r
        b = mu * b + g / (np.sqrt(spread) + eps)
        theta = theta - lr * b
        expected.append(theta)
    rule = rmsprop_centred_momentum if centred else rmsprop_momentum
    mine = walk(rule, lr=lr, alpha=alpha, momentum=mu, eps=eps)
    np.testing.assert_allclose(mine, expected, rtol=1e-12)


def test_gathering_lr_times_the_scaled_gradient_is_the_same_while_lr_stays():
    lr, alpha, mu, eps = 0.1, 0.9, 0.8, 1e-7
    theta, r, b = np.zeros(5), np.zeros(5), np.zeros(5)
    for g in GRADIENTS.numpy():
        r = alpha * r + (1 - alpha) * g**2
        b = mu * b + lr * g / (np.sqrt(r) + eps)
        theta = theta - b
    np.testing.assert_allclose(walk(rmsprop_momentum, lr=lr, alpha=alpha, momentum=mu, eps=eps)[-1], theta, rtol=1e-12)


@pytest.mark.parametrize("momenta", [(rmsprop_momentum, rmsprop), (rmsprop_nesterov, rmsprop)])
def test_without_momentum_a_form_with_momentum_is_rmsprop(momenta):
    with_momentum, plain = momenta
    assert torch.equal(walk(with_momentum, momentum=0.0), walk(plain))


def test_centring_does_not_see_a_mean_that_rmsprop_divides_by():
    gradients = 100 + GRADIENTS.repeat(40, 1)
    late = [walk(rule, gradients, alpha=0.9).diff(dim=0)[-100:].abs().mean() for rule in (rmsprop, rmsprop_centred)]
    assert late[0] == pytest.approx(0.01, rel=1e-2) and late[1] > 50 * late[0]


def test_a_variance_that_rounding_made_negative_counts_as_zero():
    delta, r, mean = rmsprop_centred(1.0, 1.0, 1.0 + 1e-9, lr=1.0, alpha=0.99, eps=0.5)
    assert r - mean * mean < 0 and delta == -2.0


@pytest.mark.parametrize("combine", [rms_scaled, centred_rms_scaled])
def test_any_rule_can_be_scaled(combine):
    assert combine(momentum, alpha=0.9).knobs["alpha"] == 0.9
    assert torch.equal(walk(combine(lion), beta1=0.0, eps=0.0), walk(lion, beta1=0.0))  # a side has no size
