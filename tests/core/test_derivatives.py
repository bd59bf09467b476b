import numpy as np
import pytest
import torch

from thalweg import Batch, Network, descend
from thalweg.core.derivatives import Product, gradient, hessian_at, hessian_vector
from thalweg.core.noise import signs as noise
from thalweg.core.rule import rule

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def quadratic(seed=0):
    """f(x) = x'Ax / 2 + b'x, with its A and b."""
    a, b = drawn(5, 5, seed=seed), drawn(5, seed=seed + 1)
    a = a + a.T
    return (lambda x: x @ a @ x / 2 + b @ x), a, b


class Known:
    """An objective that knows its derivatives, and is not to be called."""

    def value_and_gradient(self, theta):
        return theta @ theta, 2 * theta

    def hessian_at(self, theta):
        return Product(lambda u: 2 * u)


def test_the_gradient_of_a_quadratic_is_ax_plus_b():
    (f, a, b), theta = quadratic(), drawn(5, seed=2)
    torch.testing.assert_close(gradient(f, theta), a @ theta + b, rtol=1e-13, atol=1e-13)


def test_the_hessian_of_a_quadratic_times_a_vector_is_a_times_it():
    (f, a, _), theta, u = quadratic(), drawn(5, seed=2), drawn(5, seed=3)
    torch.testing.assert_close(hessian_vector(f, theta, u), a @ u, rtol=1e-13, atol=1e-13)


def test_the_hessian_of_a_network_times_a_vector_is_the_dense_one_times_it():
    network = Network(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double(), mse)
    batch = Batch(drawn(6, 3), drawn(6, 2, seed=1))
    u = drawn(len(network.theta), seed=2)
    dense = torch.autograd.functional.hessian(lambda theta: network.f(theta, batch), network.theta)
    mine = hessian_vector(lambda theta: network.f(theta, batch), network.theta, u)
    torch.testing.assert_close(mine, dense @ u, rtol=1e-12, atol=1e-12)


def mse(outputs, targets):
    return torch.nn.functional.mse_loss(outputs, targets)


def test_derivatives_are_found_under_no_grad_and_are_values():
    (f, a, b), theta = quadratic(), drawn(5, seed=2)
    with torch.no_grad():
        g, hu = gradient(f, theta), hessian_vector(f, theta, b)
    torch.testing.assert_close((g, hu), (a @ theta + b, a @ b), rtol=1e-13, atol=1e-13)
    assert not g.requires_grad and not hu.requires_grad and not theta.requires_grad


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: x[0] ** 2 + x[1], lambda x: x.abs().sum()])
def test_where_f_is_linear_the_hessian_is_zero(f):
    theta, u = drawn(5), torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0], dtype=DOUBLE)
    assert torch.equal(hessian_vector(f, theta, u), torch.zeros(5, dtype=DOUBLE))


def test_an_objective_with_derivatives_of_its_own_is_asked_for_them():
    theta, u = drawn(5), drawn(5, seed=1)
    assert torch.equal(gradient(Known(), theta), 2 * theta)
    assert torch.equal(hessian_vector(Known(), theta, u), 2 * u)


@rule(per="vector")
def newtonian(g, f, theta, *, lr=1.0):
    """Sees that both derivatives are there in a run."""
    return -lr * gradient(f, theta) - 0 * hessian_vector(f, theta, g)


def test_a_rule_has_the_gradient_at_theta_in_a_run():
    module = torch.nn.Linear(3, 1).double()
    network, batch = Network(module, mse), Batch(drawn(6, 3), drawn(6, 1, seed=1))
    before = network.theta.clone()
    (step,) = descend(network, newtonian, [batch], lr=0.5)
    torch.testing.assert_close(network.theta, before - 0.5 * step.g, rtol=1e-13, atol=1e-13)


def lowbias32(x):
    x = np.asarray(x, dtype=np.uint32)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


@pytest.mark.parametrize(("t", "seed"), [(0, 0), (7, 3), (123456, 2**31)])
def test_noise_is_the_hash_of_seed_step_and_position(t, seed):
    key = lowbias32(lowbias32(seed).astype(np.uint64) + np.uint64(t))
    bits = lowbias32(key ^ lowbias32(np.arange(12))) & np.uint32(1)
    expected = torch.from_numpy(1.0 - 2.0 * bits).reshape(3, 4)
    assert torch.equal(noise(torch.zeros(3, 4, dtype=DOUBLE), t, seed), expected)


def test_noise_is_as_often_one_as_minus_one_and_knows_nothing_of_itself():
    signs = torch.stack([noise(torch.zeros(1000), t, seed) for t in range(100) for seed in range(5)])  # (500, 1000)
    across, along, both = signs[:, 1:] * signs[:, :-1], signs[5:] * signs[:-5], signs[5:, 1:] * signs[:-5, :-1]
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    for sample in [signs, across, along, both, signs[1:] * signs[:-1]]:
        assert abs(sample.mean()) < 4 / sample.numel() ** 0.5
    for sample in (signs.mean(dim=0) * 500**0.5, signs.mean(dim=1) * 1000**0.5):
        assert 0.8 < sample.var() < 1.2


def test_noise_takes_a_tensor_for_a_step_and_a_whole_float_for_a_seed():
    theta = torch.zeros(9)
    assert torch.equal(noise(theta, torch.tensor(4), 2.0), noise(theta, 4, 2))
    together = torch.vmap(lambda t, seed: noise(theta, t, seed))(torch.arange(5), torch.arange(5.0))
    assert torch.equal(together, torch.stack([noise(theta, t, t) for t in range(5)]))


def test_noise_has_theta_s_shape_dtype_and_no_effect_on_the_generator():
    before = torch.get_rng_state()
    assert noise(torch.zeros((), dtype=torch.float16), 0, 0).dtype == torch.float16
    assert noise(torch.zeros(2, 3), 0).shape == (2, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_hutchinsons_estimate_is_the_diagonal_in_the_mean():
    (f, a, _), theta = quadratic(), drawn(5, seed=2)
    probes = [noise(theta, t, 0) for t in range(4000)]
    product = hessian_at(f, theta)
    estimate = torch.stack([u * product(u) for u in probes]).mean(dim=0)
    assert (estimate - a.diagonal()).abs().max() < 0.25
