"""Published results, and identities between the algorithms, that the rules must reproduce."""

import numpy as np
import pytest
import torch

from thalweg.algorithms import ALGORITHMS
from thalweg.learning.batches import permutation

DOUBLE = torch.float64


def minimised(rule, gradient, theta, steps, **knobs):
    """Where a rule is after some steps from `theta: (n,)`; gradient is a function of (theta, t)."""
    knobs = rule.with_defaults(knobs)
    memory = rule.start(theta, **knobs)
    for t in range(steps):
        now = {name: knob(t) if callable(knob) else knob for name, knob in knobs.items()}
        delta, memory = rule.step({"g": gradient(theta, t), "theta": theta}, memory, now)
        theta = theta + delta
    return theta


class QuadraticDeep:
    """DeepOBS `quadratic_deep` (Schneider et al. 2019): the mean of (theta - x)' Q (theta - x) / 2 over data x.

    Q is of 90 eigenvalues in (0, 1) and 10 in (30, 60), like a deep network's Hessian, turned at random.
    """

    def __init__(self):
        random = np.random.RandomState(42)
        eigenvalues = np.concatenate((random.uniform(0, 1, 90), random.uniform(30, 60, 10)))
        rotation = random_rotation(100, random)
        self.Q = torch.from_numpy(rotation.T @ np.diag(eigenvalues) @ rotation)  # (100, 100)
        self.train, test = (np.random.RandomState(seed).normal(0, 0.6, (1000, 100)) for seed in (42, 43))
        self.test = torch.from_numpy(test)[:896]  # whole batches of 128 only, as in training

    def test_loss(self, theta):
        return 0.5 * ((theta - self.test) @ self.Q * (theta - self.test)).sum(dim=1).mean()

    def after(self, rule, lrs, seed, epochs=100, **knobs):
        """The test loss after training with each lr, every epoch in the same order, as the published runs had it."""
        order = permutation(1000, seed, epoch=0)[:896]
        means = torch.from_numpy(self.train)[order].reshape(7, 128, 100).mean(dim=1)

        def final(lr):
            start = torch.ones(100, dtype=DOUBLE)
            theta = minimised(rule, lambda th, t: self.Q @ (th - means[t % 7]), start, 7 * epochs, lr=lr, **knobs)
            return self.test_loss(theta)

        return torch.vmap(final)(torch.tensor(lrs, dtype=DOUBLE))


def random_rotation(n, random):
    """A rotation of n dimensions drawn evenly from all (Diaconis and Shahshahani 1987)."""
    angle = 2 * np.pi * random.uniform()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for d in range(3, n + 1):
        first = np.eye(d)[0]
        point = random.normal(size=d)
        mirror = first - point / np.linalg.norm(point)
        mirror /= np.linalg.norm(mirror)
        larger = np.eye(d)
        larger[1:, 1:] = rotation
        rotation = larger - 2 * np.outer(mirror, mirror @ larger)
    return -rotation


@pytest.fixture(scope="module")
def quadratic():
    return QuadraticDeep()


# lr = 10^(k / 5), the published test loss of seed 42, and how far another order of the data may be from it.
SGD_CURVE = {
    -20: (106.628, 0.1),
    -18: (103.626, 0.1),
    -15: (95.853, 0.1),
    -13: (90.146, 0.1),
    -11: (87.601, 0.2),
    -9: (87.398, 0.2),
}
ADAM_CURVE = {-20: (280.31, 0.1), -15: (106.70, 0.1), -10: (88.53, 0.1), -7: (87.12, 0.1), -5: (87.25, 0.25)}


@pytest.mark.parametrize(("name", "curve"), [("sgd", SGD_CURVE), ("adam", ADAM_CURVE)])
def test_the_learning_rate_curves_of_deepobs_quadratic_deep(quadratic, name, curve):
    lrs = [10 ** (k / 5) for k in curve]
    losses = torch.stack([quadratic.after(ALGORITHMS[name].rule, lrs, seed) for seed in range(3)]).mean(dim=0)
    for loss, (published, tolerance) in zip(losses.tolist(), curve.values(), strict=True):
        assert loss == pytest.approx(published, abs=tolerance)


def test_quadratic_deep_starts_where_published(quadratic):
    assert float(quadratic.test_loss(torch.ones(100, dtype=DOUBLE))) == pytest.approx(353.45, abs=0.005)


def test_sgd_diverges_on_quadratic_deep_beyond_two_over_the_largest_eigenvalue(quadratic):
    edge = 2 / float(torch.linalg.eigvalsh(quadratic.Q).max())
    assert edge == pytest.approx(0.0376, abs=1e-4)
    below, above = quadratic.after(ALGORITHMS["sgd"].rule, [0.98 * edge, 1.02 * edge], seed=0, epochs=300)
    assert below < 100 < 1e6 < above


def test_momentum_of_099_on_quadratic_deep_is_as_published(quadratic):
    losses = [quadratic.after(ALGORITHMS["momentum"].rule, [10**-2.6], seed, momentum=0.99) for seed in range(3)]
    assert float(torch.cat(losses).mean()) == pytest.approx(87.045, abs=0.1)


def rosenbrock(theta, t):
    x, y = theta
    return torch.stack([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


def test_adam_with_a_huge_eps_is_heavy_ball_up_to_bias_correction():
    """The inclusion identity of Choi et al. 2019: what keeps a tuned Adam from losing to a tuned momentum."""
    lr, beta1, eps, start = 1e-3, 0.9, 1e8, torch.tensor([-1.0, 1.5], dtype=DOUBLE)
    adam, momentum = ALGORITHMS["adam"].rule, ALGORITHMS["momentum"].rule
    ball = minimised(momentum, rosenbrock, start, 300, lr=lr, momentum=beta1)
    included = minimised(
        adam, rosenbrock, start, 300, lr=lambda t: lr * eps / (1 - beta1) * (1 - beta1 ** (t + 1)), beta1=beta1, eps=eps
    )
    assert torch.allclose(included, ball, atol=1e-5, rtol=0)
    uncorrected = minimised(adam, rosenbrock, start, 300, lr=lr * eps / (1 - beta1), beta1=beta1, eps=eps)
    assert not torch.allclose(uncorrected, ball, atol=1e-3, rtol=0)


class Wilson:
    """The construct of Wilson et al. 2017, section 3.3: y = 1 in more than half of the examples, x tells it outright.

    Coordinate 1 is y, 2 and 3 are always 1, and each example has a block of five of its own: one 1 in it where
    y = 1, five where y = -1. A new example's block is a new one, where w is still 0.
    """

    def __init__(self, n=60, positive=45):
        self.y = torch.ones(n, dtype=DOUBLE)
        self.y[positive:] = -1
        blocks = torch.zeros(n, n, 5, dtype=DOUBLE)
        for i, y in enumerate(self.y):
            blocks[i, i, : 1 if y > 0 else 5] = 1
        always = torch.ones(n, 2, dtype=DOUBLE)
        self.X = torch.cat([self.y[:, None], always, blocks.reshape(n, -1)], dim=1)  # (n, 3 + 5n)

    def trained(self, rule, steps, **knobs):
        """w after full-batch steps from 0 on the squared loss."""
        start = torch.zeros(self.X.shape[1], dtype=DOUBLE)
        return minimised(rule, lambda w, t: self.X.T @ (self.X @ w - self.y) / len(self.y), start, steps, **knobs)

    def train_loss(self, w):
        return float(((self.X @ w - self.y) ** 2).mean())

    def test_error(self, w, positive=741, negative=253):
        """The fraction of new examples on the wrong side; the counts give P(y = -1) = 0.2545."""
        wrong = sum(n * (y * float(y * w[0] + w[1] + w[2]) <= 0) for y, n in ((1, positive), (-1, negative)))
        return wrong / (positive + negative)


@pytest.mark.parametrize(("name", "knobs"), [("sgd", {"lr": 0.5}), ("momentum", {"lr": 0.1})])
def test_wilsons_construct_is_learnt_by_gradient_descent(name, knobs):
    problem = Wilson()
    w = problem.trained(ALGORITHMS[name].rule, 3000, **knobs)
    assert problem.train_loss(w) < 1e-6
    assert problem.test_error(w) == 0


@pytest.mark.parametrize(("name", "lr"), [("adagrad", 0.1), ("rmsprop", 1e-3), ("adam", 1e-2)])
def test_wilsons_construct_misleads_adaptive_methods(name, lr):
    problem = Wilson()
    w = problem.trained(ALGORITHMS[name].rule, 3000, lr=lambda t: lr * (1 - t / 3000), eps=1e-12)
    assert problem.train_loss(w) < 1e-6
    towards = torch.sign(problem.X.T @ problem.y)
    assert float(torch.cosine_similarity(w, towards, dim=0)) == pytest.approx(1, abs=1e-6)
    assert problem.test_error(w) == 253 / 994  # every new example is called positive
