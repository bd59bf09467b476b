import numpy as np
import pytest
import torch

from thalweg import Batch, Network, descend
from thalweg.core.noise import signs
from thalweg.modern.sophia import hutchinson, sophia

DOUBLE = torch.float64
NAMES = ("lr", "beta1", "beta2", "gamma", "eps", "every", "seed")
A = torch.randn(5, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(9))


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def f(x):
    """Not convex, with the Hessian A + A' + 12 diag(x²)."""
    return x @ A @ x + (x**4).sum()


def run(theta, gradients, **knobs):
    knobs, memory = sophia.with_defaults(knobs), sophia.start(theta)
    for g in gradients:
        delta, memory = sophia.step({"g": g, "f": f, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_3(theta, gradients, lr, beta1, beta2, gamma, eps, every, seed):
    """Liu et al. 2023, with Hutchinson's estimate."""
    theta, m, h, a = np.array(theta), 0.0, 0.0, A.numpy()
    for t, g in enumerate(gradients):
        m = beta1 * m + (1 - beta1) * g
        if t % every == 0:
            u = signs(torch.zeros(5, dtype=DOUBLE), t, seed).numpy()
            h_hat = u * ((a + a.T + 12 * np.diag(theta**2)) @ u)
            h = beta2 * h + (1 - beta2) * h_hat
        theta = theta - lr * np.clip(m / np.maximum(gamma * h, eps), -1, 1)
    return theta


@pytest.mark.parametrize("knobs", [(0.01, 0.965, 0.99, 0.01, 1e-12, 10, 0), (0.1, 0.7, 0.8, 0.5, 0.3, 3, 7)])
def test_it_is_algorithm_3(knobs):
    theta, gradients = drawn(5), drawn(25, 5, seed=1)
    mine, _ = run(theta, gradients, **dict(zip(NAMES, knobs, strict=True)))
    assert np.abs(mine.numpy() - algorithm_3(theta.numpy(), gradients.numpy(), *knobs)).max() < 1e-10


def test_no_component_goes_farther_than_lr():
    theta, gradients = drawn(5), 1e6 * drawn(10, 5, seed=1)
    for i in range(1, 10):
        step = run(theta, gradients[: i + 1], lr=0.1)[0] - run(theta, gradients[:i], lr=0.1)[0]
        assert step.abs().max() <= 0.1 * (1 + 1e-12)


def test_with_a_diagonal_hessian_it_is_newtons_step_within_lr():
    curvature, theta = torch.tensor([1.0, 100.0, 1e4]), torch.tensor([3.0, 1e-3, 1e-3])
    seen = {"g": curvature * theta, "f": lambda x: (curvature * x * x).sum() / 2, "theta": theta}
    knobs = sophia.with_defaults({"lr": 1.0, "beta1": 0.0, "beta2": 0.0, "gamma": 1.0})
    delta, _ = sophia.step(seen, sophia.start(theta), knobs)
    torch.testing.assert_close(delta, torch.tensor([-1.0, -1e-3, -1e-3]))


def test_the_estimate_is_exact_where_the_hessian_is_diagonal():
    x = drawn(5)
    assert torch.allclose(hutchinson(lambda x: (x**4).sum(), x, signs(x, 0)), 12 * x**2, rtol=1e-13)


def test_between_estimates_f_is_not_asked():
    def refuse(theta):
        raise AssertionError("asked")

    memory = sophia.start(drawn(5)) | {"t": 11}
    sophia.step({"g": drawn(5), "f": refuse, "theta": drawn(5)}, memory, sophia.knobs)


def test_in_a_run_it_descends():
    network = Network(torch.nn.Linear(3, 1).double(), torch.nn.functional.mse_loss)
    batch = Batch(drawn(6, 3), drawn(6, 3, seed=1).sum(dim=1, keepdim=True))
    losses = [step.loss for step in descend(network, sophia, [batch] * 100, lr=0.02)]
    assert losses[-1] < 0.7 * losses[0]
