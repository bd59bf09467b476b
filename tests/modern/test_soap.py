import numpy as np
import pytest
import torch

from thalweg import adam
from thalweg.modern.soap import soap

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_3(w, gradients, lr, beta1, beta2, eps, beta, every):
    """Vyas et al. 2024 on a matrix, with the official code's first step, order and sorting."""
    w, m, v = np.array(w), np.zeros(w.shape), np.zeros(w.shape)
    left, right = (1 - beta) * gradients[0] @ gradients[0].T, (1 - beta) * gradients[0].T @ gradients[0]
    ql, qr = np.linalg.eigh(left)[1][:, ::-1], np.linalg.eigh(right)[1][:, ::-1]
    for t, g in enumerate(gradients[1:], start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (ql.T @ g @ qr) ** 2
        n = (ql.T @ m @ qr / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        w = w - lr * ql @ n @ qr.T
        left = beta * left + (1 - beta) * g @ g.T
        right = beta * right + (1 - beta) * g.T @ g
        if t % every == 0:
            by_rows, by_columns = np.argsort(-np.diag(ql.T @ left @ ql)), np.argsort(-np.diag(qr.T @ right @ qr))
            v = v[by_rows][:, by_columns]
            ql = np.linalg.qr(left @ ql[:, by_rows])[0]
            qr = np.linalg.qr(right @ qr[:, by_columns])[0]
    return w


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 1, 2)], ids=str)
@pytest.mark.parametrize("knobs", [(3e-3, 0.95, 0.95, 1e-8, 0.95, 10), (0.1, 0.8, 0.9, 1e-3, 0.7, 2)])
def test_it_is_algorithm_3(shape, knobs):
    theta, gradients = drawn(*shape), drawn(30, *shape, seed=1)
    names = ("lr", "beta1", "beta2", "eps", "shampoo_beta", "every")
    mine, _ = run(soap, theta, gradients, **dict(zip(names, knobs, strict=True)))
    expected = algorithm_3(theta.flatten(1).numpy(), gradients.flatten(2).numpy(), *knobs)
    assert np.abs(mine.flatten(1).numpy() - expected).max() < 1e-10


def test_the_first_gradient_makes_the_basis_and_no_step():
    theta, g = drawn(4, 3), drawn(4, 3, seed=1)
    after, memory = run(soap, theta, [g])
    assert torch.equal(after, theta) and not memory["m"].any() and not memory["v"].any()
    u, _, vt = torch.linalg.svd(g)
    torch.testing.assert_close(
        (u.T @ memory["left_basis"]).abs()[:3], torch.eye(4, dtype=DOUBLE)[:3], atol=1e-7, rtol=0
    )
    torch.testing.assert_close((vt @ memory["right_basis"]).abs(), torch.eye(3, dtype=DOUBLE), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("shape", "max_dim"), [((5,), 10000), ((), 10000), ((4, 3), 2)], ids=str)
def test_without_a_basis_it_is_adam(shape, max_dim):
    theta, gradients = drawn(*shape), drawn(20, *shape, seed=1)
    mine, memory = run(soap, theta, gradients, lr=0.1, max_dim=max_dim)
    assert torch.equal(mine, run(adam, theta, gradients, lr=0.1, beta1=0.95, beta2=0.95)[0])
    assert memory["left"] is None and memory["right_basis"] is None


def test_in_the_identity_for_a_basis_it_is_adam():
    theta, gradients = drawn(4, 3), drawn(20, 4, 3, seed=1)
    memory, mine, knobs = soap.start(theta) | {"t": 1}, theta, soap.with_defaults({"lr": 0.1, "every": 1e9})
    for g in gradients:
        delta, memory = soap.step({"g": g}, memory, knobs)
        mine = mine + delta
    adams, _ = run(adam, theta, gradients, lr=0.1, beta1=0.95, beta2=0.95)
    torch.testing.assert_close(mine, adams, rtol=1e-12, atol=1e-12)


def test_a_side_too_long_for_a_basis_leaves_the_other_its_own():
    theta, gradients = drawn(3, 6), drawn(20, 3, 6, seed=1)
    mine, memory = run(soap, theta, gradients, lr=0.1, max_dim=5)
    assert memory["left_basis"].shape == (3, 3) and memory["right"] is None and memory["right_basis"] is None
    u = torch.linalg.qr(drawn(3, 3, seed=3)).Q
    turned, _ = run(soap, u @ theta, u @ gradients, lr=0.1, max_dim=5)
    torch.testing.assert_close(turned, u @ mine, rtol=1e-9, atol=1e-9)


def test_it_turns_with_the_rows_and_columns_of_its_gradients():
    theta, gradients = drawn(4, 3), drawn(30, 4, 3, seed=1)
    u, v = (torch.linalg.qr(drawn(n, n, seed=n)).Q for n in (4, 3))
    mine, _ = run(soap, theta, gradients, lr=0.1, every=5)
    turned, _ = run(soap, u @ theta @ v, u @ gradients @ v, lr=0.1, every=5)
    torch.testing.assert_close(turned, u @ mine @ v, rtol=1e-8, atol=1e-8)


def test_bases_stay_orthogonal():
    _, memory = run(soap, drawn(4, 3), drawn(60, 4, 3, seed=1), every=3)
    for basis in (memory["left_basis"], memory["right_basis"]):
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(basis), dtype=DOUBLE), rtol=0, atol=1e-13)
