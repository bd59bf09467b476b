import numpy as np
import pytest
import torch

from thalweg import adam
from thalweg.modern.shampoo import inverse_root, shampoo

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_1(w, gradients, lr, beta1, beta2, eps, beta, ridge, every, sides=(True, True)):
    """Gupta et al. 2018 on a matrix, Adam's length grafted onto its direction."""
    w, m, v = np.array(w), 0.0, 0.0
    left, right = np.zeros((w.shape[0],) * 2), np.zeros((w.shape[1],) * 2)
    left_root, right_root = np.eye(w.shape[0]), np.eye(w.shape[1])
    for t, g in enumerate(gradients):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        adams = (m / (1 - beta1 ** (t + 1))) / (np.sqrt(v / (1 - beta2 ** (t + 1))) + eps)
        left = beta * left + g @ g.T
        right = beta * right + g.T @ g
        if t % every == 0:
            left_root = power(left, -1 / (2 * sum(sides)), ridge) if sides[0] else left_root
            right_root = power(right, -1 / (2 * sum(sides)), ridge) if sides[1] else right_root
        direction = left_root @ m @ right_root
        w = w - lr * np.linalg.norm(adams) / np.linalg.norm(direction) * direction
    return w


def power(matrix, exponent, ridge):
    matrix = matrix + ridge * np.linalg.norm(matrix, 2) * np.eye(len(matrix))
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**exponent) @ vectors.T


KNOBS = [(1e-3, 0.9, 0.999, 1e-8, 0.99, 1e-4, 10), (0.1, 0.0, 0.9, 1e-3, 1.0, 1e-3, 1)]


@pytest.mark.parametrize("shape", [(4, 3), (3, 6), (4, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("knobs", KNOBS)
def test_it_is_algorithm_1_with_adams_length(shape, knobs):
    theta, gradients = drawn(*shape), drawn(25, *shape, seed=1)
    names = ("lr", "beta1", "beta2", "eps", "shampoo_beta", "ridge", "every")
    mine, _ = run(shampoo, theta, gradients, **dict(zip(names, knobs, strict=True)))
    expected = algorithm_1(theta.flatten(1).numpy(), gradients.flatten(2).numpy(), *knobs)
    assert np.abs(mine.flatten(1).numpy() - expected).max() < 1e-10


def test_a_long_side_has_no_factor_and_the_other_takes_the_square_root():
    theta, gradients = drawn(3, 6), drawn(25, 3, 6, seed=1)
    mine, memory = run(shampoo, theta, gradients, max_dim=5, ridge=1e-4)
    assert memory["left"].shape == (3, 3) and memory["right"] is None and memory["right_root"] is None
    knobs = (*KNOBS[0][:5], 1e-4, 10, (True, False))
    assert np.abs(mine.numpy() - algorithm_1(theta.numpy(), gradients.numpy(), *knobs)).max() < 1e-10


@pytest.mark.parametrize(("shape", "max_dim"), [((5,), 1024), ((), 1024), ((4, 3), 2)], ids=str)
def test_without_factors_it_is_adam(shape, max_dim):
    theta, gradients = drawn(*shape), drawn(20, *shape, seed=1)
    mine, memory = run(shampoo, theta, gradients, lr=0.1, max_dim=max_dim)
    torch.testing.assert_close(mine, run(adam, theta, gradients, lr=0.1)[0], rtol=1e-14, atol=1e-14)
    assert memory["left"] is None and memory["right_root"] is None


def test_every_step_is_as_long_as_adams():
    theta, gradients = drawn(4, 3), drawn(15, 4, 3, seed=1)
    one, _ = run(shampoo, theta, gradients[:14], lr=0.1)
    two, _ = run(shampoo, theta, gradients, lr=0.1)
    adams = run(adam, theta, gradients, lr=0.1)[0] - run(adam, theta, gradients[:14], lr=0.1)[0]
    assert (two - one).norm() == pytest.approx(float(adams.norm()), rel=1e-10)


def test_its_direction_turns_with_the_rows_and_columns_of_its_gradients():
    gradients = drawn(10, 4, 3, seed=1)
    u, v = (torch.linalg.qr(drawn(n, n, seed=n)).Q for n in (4, 3))
    knobs, memory, turned_memory = shampoo.with_defaults({"ridge": 1e-3}), *(shampoo.start(drawn(4, 3)) for _ in "ab")
    for g in gradients:
        delta, memory = shampoo.step({"g": g}, memory, knobs)
        turned, turned_memory = shampoo.step({"g": u @ g @ v}, turned_memory, knobs)
        torch.testing.assert_close(turned / turned.norm(), u @ delta @ v / delta.norm(), rtol=1e-9, atol=1e-9)


def test_its_first_direction_is_the_gradient_with_all_singular_values_one():
    g = drawn(3, 3)
    step, _ = run(shampoo, torch.zeros(3, 3, dtype=DOUBLE), [g], lr=1.0, ridge=0.0)
    u, _, vt = torch.linalg.svd(g)
    torch.testing.assert_close(step / step.norm(), -u @ vt / 3**0.5, rtol=1e-9, atol=1e-9)


def test_roots_are_kept_between_refreshes():
    gradients = drawn(12, 4, 3, seed=1)
    _, at_10 = run(shampoo, drawn(4, 3), gradients[:10])
    _, at_11 = run(shampoo, drawn(4, 3), gradients[:11])
    _, at_12 = run(shampoo, drawn(4, 3), gradients)
    assert not torch.equal(at_10["left_root"], at_11["left_root"])
    assert torch.equal(at_11["left_root"], at_12["left_root"])
    torch.testing.assert_close(at_11["left_root"], inverse_root(at_11["left"], 4, 1e-6))


def test_the_inverse_root_to_its_power_is_the_inverse():
    a = drawn(5, 5)
    matrix = a @ a.T
    root = inverse_root(matrix, 4, 0.0)
    torch.testing.assert_close(
        torch.linalg.matrix_power(root, 4) @ matrix, torch.eye(5, dtype=DOUBLE), rtol=0, atol=1e-8
    )
