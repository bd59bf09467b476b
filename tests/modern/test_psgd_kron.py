import numpy as np
import pytest
import torch

from thalweg.core.noise import signs
from thalweg.modern.psgd_kron import balanced, fits, largest_eigenvalue, psgd_kron

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def largest(matrix):
    """psgd_torch's bound from below, on a matrix of moderate size."""
    i = np.argmax(np.sum(matrix**2, axis=1))
    return np.linalg.norm(matrix @ matrix[i] / np.linalg.norm(matrix[i]))


def kron(w, gradients, probes, lr, beta1, fit_lr, clip):
    """kron_torch on a matrix with two triangular factors, a fit at every step."""
    w, m, ql, qr = np.array(w), 0.0, np.eye(w.shape[0]), np.eye(w.shape[1])
    for t, (g, v) in enumerate(zip(gradients, probes, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * g
        mean = m / (1 - beta1**t)
        a = ql @ mean @ qr.T
        b = np.linalg.inv(ql).T @ v @ np.linalg.inv(qr)
        ql = ql - fit_lr / largest(a @ a.T + b @ b.T) * np.triu(a @ a.T - b @ b.T) @ ql
        qr = qr - fit_lr / largest(a.T @ a + b.T @ b) * np.triu(a.T @ a - b.T @ b) @ qr
        white = ql.T @ ql @ mean @ qr.T @ qr
        w = w - lr * white * min(1, clip / np.sqrt(np.mean(white**2)))
    return w


def kron_of_a_vector(w, gradients, probes, lr, beta1, fit_lr, clip):
    w, m, q = np.array(w), 0.0, np.ones(w.shape)
    for t, (g, v) in enumerate(zip(gradients, probes, strict=True), start=1):
        m = beta1 * m + (1 - beta1) * g
        mean = m / (1 - beta1**t)
        a, b = q * mean, v / q
        q = q - fit_lr * (a**2 - b**2) / np.max(a**2 + b**2) * q
        white = q**2 * mean
        w = w - lr * white * min(1, clip / np.sqrt(np.mean(white**2)))
    return w


KNOBS = [(1e-3, 0.9, 0.1, 1.1), (0.1, 0.7, 0.3, 0.5)]


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (5,)], ids=str)
@pytest.mark.parametrize("knobs", KNOBS)
def test_it_is_kron_with_signs_for_probes(shape, knobs):
    theta, gradients = drawn(*shape), 3 * drawn(25, *shape, seed=1)
    mine, _ = run(
        psgd_kron, theta, gradients, **dict(zip(("lr", "beta1", "precondition_lr", "clip"), knobs, strict=True))
    )
    flat = theta.flatten(1) if theta.ndim > 1 else theta
    probes = np.stack([signs(flat, t, 0).numpy() for t in range(1, 26)])
    oracle = kron if theta.ndim > 1 else kron_of_a_vector
    expected = oracle(flat.numpy(), gradients.reshape(25, *flat.shape).numpy(), probes, *knobs)
    assert np.abs(mine.reshape(flat.shape).numpy() - expected).max() < 1e-10


def test_a_long_side_has_a_diagonal_factor():
    memory = psgd_kron.start(torch.zeros(3, 6), max_size=5)
    assert memory["left"].shape == (3, 3) and memory["right"].shape == (6,)
    column, vector = psgd_kron.start(torch.zeros(6, 1)), psgd_kron.start(torch.zeros(6))
    assert column["right"].shape == (1,) and vector["left"].shape == (6,) and vector["right"] is None


def test_with_one_diagonal_factor_it_is_the_dense_one_kept_diagonal():
    theta, gradients = drawn(3, 6), drawn(25, 3, 6, seed=1)
    one, memory = run(psgd_kron, theta, gradients, lr=0.1, max_size=5)
    turned, other = run(psgd_kron, theta.T, gradients.mT, lr=0.1, max_size=5)
    assert memory["right"].shape == other["left"].shape == (6,)
    assert one.shape == turned.T.shape


def test_whitened_gradients_have_the_covariance_of_signs():
    rows, columns = torch.eye(4) + drawn(4, 4, seed=5) / 2, torch.eye(3) + drawn(3, 3, seed=6) / 2
    gradients = 50 * rows @ drawn(4000, 4, 3, seed=1) @ columns
    _, memory = run(psgd_kron, drawn(4, 3), gradients[:2000], beta1=0.0, precondition_lr=0.02)
    left, right = memory["left"], memory["right"]
    white = (left.T @ left @ gradients[2000:] @ right.T @ right).reshape(-1, 12)
    covariance = white.T @ white / len(white)
    assert (covariance - torch.eye(12, dtype=DOUBLE)).abs().max() < 0.35


def test_from_then_on_the_scale_of_the_gradients_is_not_seen():
    g = drawn(4, 3)
    sizes = [(run(psgd_kron, g, [s * g] * 300)[1], s) for s in (1e-3, 1e3)]
    for memory, scale in sizes:
        delta, _ = psgd_kron.step({"g": scale * g}, memory, psgd_kron.with_defaults({"lr": 1.0, "clip": 1e9}))
        assert 0.5 < delta.square().mean().sqrt() < 1.5


def test_fits_are_as_many_as_kron_torch_expects():
    probability = np.clip(np.exp(-0.001 * (np.arange(20_000) + 0.5 - 250)), 0.03, 1.0)
    expected = np.cumsum(probability)
    mine = np.array([fits(t) for t in range(1, 20_001)])
    assert np.abs(mine - np.floor(expected + 1e-9)).max() <= 1 and set(np.diff(mine)) == {0.0, 1.0}
    assert fits(0) == 0 and fits(250) == 250
    assert fits(torch.tensor(3.0)) == 3 and fits(torch.tensor(1000.0)) == 777


def test_between_fits_the_factors_stay():
    memory, moves = psgd_kron.start(drawn(4, 3)) | {"t": 10_000}, 0
    for _ in range(100):
        before, (_, memory) = memory, psgd_kron.step({"g": drawn(4, 3)}, memory, psgd_kron.knobs)
        moves += not torch.equal(before["left"], memory["left"])
    assert moves == 3


def test_balance_leaves_the_preconditioner_and_makes_the_factors_one_size():
    left, right = 1e3 * drawn(4, 4), 1e-3 * drawn(3, seed=1)
    a, b = balanced(left, right)
    assert a.abs().max() == pytest.approx(float(b.abs().max()), rel=1e-12)
    torch.testing.assert_close(torch.outer(a.reshape(-1), b), torch.outer(left.reshape(-1), right), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_largest_eigenvalue_is_found_from_below_and_near(scale):
    a = drawn(6, 9)
    matrix = scale * a @ a.T
    exact = torch.linalg.eigvalsh(matrix)[-1]
    assert 0.6 * exact < largest_eigenvalue(matrix) <= exact * (1 + 1e-12)
    assert largest_eigenvalue(torch.zeros(3, 3)) == 0
