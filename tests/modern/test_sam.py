import numpy as np
import torch

from thalweg import Batch, Network, adam, descend, sgd
from thalweg.core.lifted import lifted
from thalweg.modern.muon import muon
from thalweg.modern.sam import sharpness_aware

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def quartic(x):
    """f with the gradient 4x³."""
    return (x**4).sum()


def run(rule, theta, steps, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta)
    for _ in range(steps):
        delta, memory = rule.step({"g": 4 * theta**3, "theta": theta, "f": quartic}, memory, knobs)
        theta = theta + delta
    return theta


def test_it_is_algorithm_1_of_foret_et_al():
    mine, w = run(sharpness_aware(sgd), drawn(5), 25, lr=0.01, rho=0.3), drawn(5).numpy()
    for _ in range(25):
        gradient = 4 * w**3
        epsilon = 0.3 * gradient / np.sqrt(np.sum(gradient**2))
        w = w - 0.01 * 4 * (w + epsilon) ** 3
    assert np.abs(mine.numpy() - w).max() < 1e-10


def test_without_a_radius_it_is_the_rule_inside():
    mine = run(sharpness_aware(adam), drawn(5), 20, lr=0.1, rho=0.0)
    torch.testing.assert_close(mine, run(adam, drawn(5), 20, lr=0.1), rtol=1e-12, atol=1e-12)


def test_it_asks_at_a_distance_of_rho():
    asked = []

    def f(x):
        asked.append(x.detach().clone())
        return quartic(x)

    theta, g = drawn(5), drawn(5, seed=1)
    sharpness_aware(sgd).step({"g": g, "theta": theta, "f": f}, {}, {"lr": 0.1, "rho": 0.7})
    torch.testing.assert_close(asked[0] - theta, 0.7 * g / g.norm(), rtol=1e-12, atol=1e-14)


def test_where_the_gradient_is_zero_it_asks_there():
    zero = torch.zeros(5, dtype=DOUBLE)
    assert torch.equal(run(sharpness_aware(sgd), zero, 3), zero)


def test_the_radius_is_the_whole_vectors_around_a_rule_for_matrices():
    rule, theta = sharpness_aware(muon), drawn(15)
    flat = lifted(rule, [(4, 3), (3,)])
    seen = {"g": 4 * theta**3, "theta": theta, "f": quartic}
    delta, _ = flat.step(seen, flat.start(theta), flat.with_defaults({"lr": 0.1, "rho": 0.3}))
    g = 4 * (theta + 0.3 * seen["g"] / seen["g"].norm()) ** 3
    pieces = [muon(piece, torch.zeros_like(piece), lr=0.1)[0] for piece in (g[:12].reshape(4, 3), g[12:])]
    torch.testing.assert_close(delta, torch.cat([piece.reshape(-1) for piece in pieces]), rtol=1e-9, atol=1e-9)


def test_in_a_run_it_descends_with_two_gradients_a_step():
    network = Network(torch.nn.Linear(3, 1).double(), torch.nn.functional.mse_loss)
    batch = Batch(drawn(6, 3), drawn(6, 3, seed=1).sum(dim=1, keepdim=True))
    losses = [step.loss for step in descend(network, sharpness_aware(sgd), [batch] * 100, lr=0.1)]
    assert losses[-1] < 0.9 * losses[0]
