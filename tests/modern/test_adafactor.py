import numpy as np
import pytest
import torch

from thalweg import decayed
from thalweg.modern.adafactor import adafactor

DOUBLE = torch.float64


def drawn(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def algorithm_4(x, gradients, lr, decay, eps1, eps2, d):
    """Shazeer and Stern's algorithms 4 and 5, with torch's eps1 and lr; x is a matrix or a vector."""
    x, r, c, v = np.array(x), 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        rho = min(lr, 1 / np.sqrt(t))
        alpha = max(eps2, np.sqrt(np.mean(x**2))) * rho
        beta2 = 1 - t**decay
        if x.ndim == 2:
            r = beta2 * r + (1 - beta2) * np.sum(g**2, axis=1) / g.shape[1]
            c = beta2 * c + (1 - beta2) * np.sum(g**2, axis=0) / g.shape[0]
            v_hat = np.outer(r, c) / max(np.mean(r), eps1)
        else:
            v = beta2 * v + (1 - beta2) * g**2
            v_hat = v
        u = g / np.maximum(np.sqrt(v_hat), eps1)
        u = u / max(1, np.sqrt(np.mean(u**2)) / d)
        x = x - alpha * u
    return x


@pytest.mark.parametrize("shape", [(4, 3), (5,)])
@pytest.mark.parametrize("knobs", [(0.01, -0.8, 1e-7, 1e-3, 1.0), (0.5, -0.5, 0.8, 2.0, 1.2)])
def test_it_is_algorithm_4(shape, knobs):
    theta, gradients = drawn(*shape), drawn(30, *shape, seed=1)
    lr, beta2_decay, eps1, eps2, clip = knobs
    mine, _ = run(adafactor, theta, gradients, lr=lr, beta2_decay=beta2_decay, eps1=eps1, eps2=eps2, clip=clip)
    assert np.abs(mine.numpy() - algorithm_4(theta.numpy(), gradients.numpy(), *knobs)).max() < 1e-10


CONFIGURATIONS = [
    {},
    {"lr": 0.3},
    {"beta2_decay": -0.4},
    {"eps": (0.5, 1e-3)},
    {"eps": (None, 3.0)},
    {"d": 1.5, "lr": 0.1},
    {"weight_decay": 0.3, "lr": 0.2},
]


@pytest.mark.parametrize("kwargs", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("shape", [(4, 3), (5,), (), (4, 3, 2, 2), (1, 6)], ids=str)
def test_it_is_torchs(kwargs, dtype, shape):
    theta, gradients = drawn(*shape, dtype=dtype), drawn(25, *shape, seed=1, dtype=dtype)
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = torch.optim.Adafactor([parameter], **kwargs)
    for g in gradients:
        parameter.grad = g.clone()
        optimizer.step()
    eps1, eps2 = kwargs.get("eps", (None, 1e-3))
    knobs = {"clip" if name == "d" else name: value for name, value in kwargs.items() if name != "eps"}
    knobs |= {"eps1": torch.finfo(dtype).eps if eps1 is None else eps1, "eps2": eps2}
    mine, _ = run(decayed(adafactor, weight_decay=0.0), theta, gradients, **knobs)
    assert (mine - parameter).abs().max() <= (1e-12 if dtype == DOUBLE else 2e-6)


def test_a_matrix_remembers_a_row_and_a_column_and_a_vector_everything():
    memory = adafactor.start(torch.zeros(4, 3))
    assert memory["row"].shape == (4, 1) and memory["col"].shape == (1, 3) and memory["variance"] is None
    memory = adafactor.start(torch.zeros(5))
    assert memory["row"] is None and memory["col"] is None and memory["variance"].shape == (5,)


def test_second_moments_that_are_an_outer_product_are_factored_without_a_loss():
    size = drawn(4, 1).abs() * drawn(1, 3, seed=1).abs()
    signs = drawn(20, 4, 3, seed=2).sign()
    whole, factored = drawn(12, seed=3), drawn(12, seed=3).reshape(4, 3)
    whole, _ = run(adafactor, whole, (size * signs).reshape(20, 12), eps1=1e-30)
    factored, _ = run(adafactor, factored, size * signs, eps1=1e-30)
    torch.testing.assert_close(factored.reshape(-1), whole, rtol=1e-12, atol=1e-12)


def test_it_does_not_see_the_scale_of_the_gradients():
    theta, gradients = drawn(4, 3), drawn(10, 4, 3, seed=1)
    mine, scaled = (run(adafactor, theta, factor * gradients)[0] for factor in (1, 1024))
    torch.testing.assert_close(mine, scaled, rtol=1e-12, atol=1e-12)
