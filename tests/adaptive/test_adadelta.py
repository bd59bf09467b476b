import numpy as np
import torch

from thalweg.adaptive.adadelta import adadelta


def walk(gradients, **knobs):
    theta, r, u, seen = 0.0, *torch.zeros(2, gradients.shape[1], dtype=torch.float64), []
    for g in gradients:
        delta, r, u = adadelta(g, r, u, **knobs)
        theta = theta + delta
        seen.append(theta)
    return torch.stack(seen)


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_is_algorithm_1_of_the_paper():
    rho, eps = 0.95, 1e-3
    x, squares, updates, expected = np.zeros(4), np.zeros(4), np.zeros(4), []
    for g in drawn(25, 4).numpy():
        squares = rho * squares + (1 - rho) * g**2
        dx = -np.sqrt(updates + eps) / np.sqrt(squares + eps) * g
        updates = rho * updates + (1 - rho) * dx**2
        x = x + dx
        expected.append(x)
    np.testing.assert_allclose(walk(drawn(25, 4), rho=rho, eps=eps), expected, rtol=1e-12)


def test_lr_only_shortens_the_steps_that_the_paper_takes():
    torch.testing.assert_close(walk(drawn(25, 4), lr=0.001), 0.001 * walk(drawn(25, 4)), rtol=1e-12, atol=0)


def test_the_scale_of_the_gradients_hardly_matters_where_they_are_larger_than_eps():
    torch.testing.assert_close(walk(1e6 * drawn(25, 4)), walk(1e4 * drawn(25, 4)), rtol=1e-6, atol=0)
