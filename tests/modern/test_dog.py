import numpy as np
import pytest
import torch

from thalweg import averaged
from thalweg.modern.dog import dog

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def run(rule, theta, gradients, **knobs):
    knobs, memory = rule.with_defaults(knobs), rule.start(theta, **knobs)
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
    return theta, memory


def distance_over_gradients(x, gradients, lr, reps_rel, eps):
    """Ivgi et al. 2023, equations 1 and 2, every distance measured anew."""
    xs = [np.array(x)]
    for t, _ in enumerate(gradients):
        distances = [reps_rel * (1 + np.linalg.norm(x))] + [np.linalg.norm(past - x) for past in xs]
        squares = [np.sum(g**2) for g in gradients[: t + 1]]
        eta = lr * max(distances) / np.sqrt(sum(squares) + eps)
        xs.append(xs[-1] - eta * gradients[t])
    return xs[-1]


@pytest.mark.parametrize("n", [12, 5])
@pytest.mark.parametrize("knobs", [(1.0, 1e-6, 1e-8), (0.5, 0.1, 0.3)])
def test_it_is_distance_over_gradients(n, knobs):
    theta, gradients = drawn(n), drawn(40, n, seed=1) + drawn(n, seed=2)
    mine, _ = run(dog, theta, gradients, **dict(zip(("lr", "reps_rel", "eps"), knobs, strict=True)))
    assert np.abs(mine.numpy() - distance_over_gradients(theta.numpy(), gradients.numpy(), *knobs)).max() < 1e-10


def test_the_first_step_is_reps_rel_of_one_and_theta_long():
    theta, g = drawn(5), 1e3 * drawn(5, seed=1)
    after, _ = run(dog, theta, [g], reps_rel=0.01)
    assert (after - theta).norm() == pytest.approx(0.01 * (1 + float(theta.norm())), rel=1e-9)


def test_it_does_not_see_the_scale_of_the_gradients():
    theta, gradients = drawn(5), drawn(20, 5, seed=1)
    mine, scaled = (run(dog, theta, factor * gradients, eps=0.0)[0] for factor in (1, 1024))
    torch.testing.assert_close(mine, scaled, rtol=1e-12, atol=1e-12)


def test_it_turns_with_its_gradients():
    theta, gradients, q = drawn(5), drawn(20, 5, seed=1), torch.linalg.qr(drawn(5, 5, seed=2)).Q
    turned, _ = run(dog, q @ theta, gradients @ q.T)
    torch.testing.assert_close(turned, q @ run(dog, theta, gradients)[0], rtol=1e-12, atol=1e-12)


def test_its_answer_is_the_mean_of_its_iterates_where_averaged():
    rule, theta = averaged(dog), drawn(5)
    knobs, memory, thetas = rule.with_defaults({"reps_rel": 0.1}), rule.start(theta, reps_rel=0.1), []
    for g in drawn(20, 5, seed=1):
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
        thetas.append(theta)
    torch.testing.assert_close(rule.answer(theta, memory), torch.stack(thetas).mean(dim=0), rtol=1e-12, atol=1e-12)
