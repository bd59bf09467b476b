import functools

import pytest
import torch
from torch import nn

from thalweg import Batch, Network
from thalweg.core.derivatives import gauss_newton_at, value_and_gradient
from thalweg.core.errors import CurvatureError
from thalweg.core.objective import Composed, LeastSquares
from thalweg.second_order.fisher import fisher_at, outputs_at, pushed, vectors

F = nn.functional
DOUBLE = torch.float64
PLENTY = 10**6


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def classes(*shape, count=4, seed=1):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


class Logits(nn.Module):
    """Outputs that are the parameters."""

    def __init__(self, z):
        super().__init__()
        self.z = nn.Parameter(z)

    def forward(self, x):
        return self.z


def objective(loss, z, y):
    return Network(Logits(z), loss).on(Batch(torch.zeros(len(z)), y))


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=DOUBLE)
LOSSES = {
    "cross entropy": (F.cross_entropy, drawn(5, 4), classes(5)),
    "of pixels": (F.cross_entropy, drawn(2, 4, 3, 2), classes(2, 3, 2)),
    "of one example": (F.cross_entropy, drawn(4), classes()),
    "a sum": (nn.CrossEntropyLoss(reduction="sum"), drawn(5, 4), classes(5)),
    "class weights": (nn.CrossEntropyLoss(weight=WEIGHTS), drawn(5, 4), classes(5)),
    "smoothed": (functools.partial(F.cross_entropy, label_smoothing=0.2), drawn(5, 4), classes(5)),
    "ignored": (nn.CrossEntropyLoss(ignore_index=2), drawn(5, 4), classes(5)),
    "soft labels": (F.cross_entropy, drawn(5, 4), drawn(5, 4, seed=2).softmax(1)),
    "sure of itself": (F.cross_entropy, 9 * drawn(5, 4), classes(5)),
    "squares": (F.mse_loss, drawn(5, 3), drawn(5, 3, seed=1)),
    "squares of numbers": (nn.MSELoss(), drawn(5), drawn(5, seed=1)),
    "squares of a sum": (nn.MSELoss(reduction="sum"), drawn(5, 2, 3), drawn(5, 2, 3, seed=1)),
    "binary": (F.binary_cross_entropy_with_logits, drawn(5, 3), drawn(5, 3, seed=1).sigmoid()),
    "positives": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), drawn(5, 3), classes(5, 3, count=2).double()),
    "pixels": (functools.partial(F.binary_cross_entropy_with_logits, weight=WEIGHTS[:3]), drawn(5, 3), drawn(5, 3) * 0),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def case(name):
    loss, z, y = LOSSES[name]
    f = objective(loss, z.clone(), y)
    hessian = torch.autograd.functional.hessian(lambda at: loss(at.view(z.shape), y), z.reshape(-1).clone())
    return outputs_at(f, z.reshape(-1).clone()), hessian


@every_loss
def test_the_root_times_its_transpose_is_the_hessian_of_the_loss(name):
    outputs, hessian = case(name)
    eye = torch.eye(len(hessian), dtype=DOUBLE).view(-1, *outputs.z.shape)
    there_and_back = torch.stack([outputs.root(outputs.back(e)) for e in eye]).flatten(1)
    torch.testing.assert_close(there_and_back, hessian, rtol=1e-9, atol=1e-12)


@every_loss
def test_back_is_the_roots_transpose(name):
    outputs, _ = case(name)
    u, v = drawn(*outputs.z.shape, seed=7), drawn(*outputs.z.shape, seed=8)
    torch.testing.assert_close((u * outputs.root(v)).sum(), (outputs.back(u) * v).sum(), rtol=1e-12, atol=1e-14)


@every_loss
def test_the_columns_sum_to_the_hessian_within_each_example(name):
    outputs, hessian = case(name)
    columns = torch.cat(list(vectors(outputs, samples=0, t=3, seed=1, most=2)))
    assert len(columns) == outputs.z.numel() // outputs.examples
    rows = columns.reshape(len(columns), outputs.examples, -1)
    mine = torch.block_diag(*torch.einsum("kni,knj->nij", rows, rows))
    torch.testing.assert_close(mine, hessian, rtol=1e-9, atol=1e-12)


@every_loss
def test_sampled_vectors_have_it_as_their_covariance(name):
    outputs, hessian = case(name)
    flat = torch.cat(list(vectors(outputs, samples=1000, t=0, seed=0, most=100))).flatten(1)
    assert (flat.T @ flat - hessian).norm() < 0.25 * hessian.norm()


def test_the_mean_over_examples_is_in_it():
    once, _ = case("squares")
    z = torch.cat([once.z, once.z]).detach()
    twice = outputs_at(objective(F.mse_loss, z, torch.zeros_like(z)), z.reshape(-1))
    ones = torch.ones_like(z)
    torch.testing.assert_close(2 * twice.root(ones)[:5].square(), once.root(ones[:5]).square())


def test_where_the_model_is_sure_the_root_keeps_the_digits_that_the_hessian_loses():
    z = torch.tensor([[30.0, 0.0, -3.0]])
    outputs = outputs_at(objective(F.cross_entropy, z, torch.tensor([0])), z.reshape(-1))
    p = z.double().softmax(1)[0]
    u = torch.tensor([[1.0, 2.0, -1.0]])
    exact = (torch.diag(p) - p.outer(p)) @ u[0].double() @ u[0].double()
    assert float(outputs.back(u).square().sum()) == pytest.approx(float(exact), rel=1e-5)


def test_samples_are_a_function_of_step_seed_and_number():
    outputs, _ = case("cross entropy")

    def of(**which):
        return torch.cat(list(vectors(outputs, **{"samples": 3, "t": 2, "seed": 1, "most": PLENTY} | which)))

    assert torch.equal(of(), of()) and torch.equal(of(), of(most=1))
    assert not torch.equal(of(), of(t=3)) and not torch.equal(of(), of(seed=2))
    assert not torch.equal(of()[0], of()[1])


def network(loss, outputs=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double(), loss)


def dense(product, n):
    return torch.stack([product(e) for e in torch.eye(n, dtype=DOUBLE)])


def test_it_is_the_covariance_of_the_gradients_for_the_models_own_labels():
    """Not for the labels of the data: the expectation over all of them, example by example."""
    net, x = network(F.cross_entropy), drawn(5, 3)
    p = net.module(x).softmax(1).detach()
    expected = torch.zeros(len(net.theta), len(net.theta), dtype=DOUBLE)
    for n in range(5):
        for label in range(3):
            _, g = value_and_gradient(net.on(Batch(x[n : n + 1], torch.tensor([label]))), net.theta)
            expected += p[n, label] * g.outer(g) / 5
    for labels in (torch.zeros(5, dtype=torch.int64), classes(5, count=3)):
        mine = dense(fisher_at(net.on(Batch(x, labels)), net.theta), len(net.theta))
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits])
def test_it_is_made_of_the_jacobian_and_the_root(loss):
    net, x = network(loss), drawn(5, 3)
    f = net.on(Batch(x, drawn(5, 3, seed=1).sigmoid()))
    outputs = outputs_at(f, net.theta)
    push = pushed(outputs, net.theta)
    jacobian = torch.autograd.functional.jacobian(f.outputs, net.theta)
    u = drawn(len(net.theta), seed=2)
    torch.testing.assert_close(push(u), jacobian @ u)
    seen = torch.stack([outputs.back(push(e)).reshape(-1) for e in torch.eye(len(u), dtype=DOUBLE)])
    torch.testing.assert_close(dense(fisher_at(f, net.theta), len(u)), seen @ seen.T, rtol=1e-9, atol=1e-12)


def test_of_a_sum_of_squares_it_is_the_gauss_newton_matrix():
    f, theta, u = LeastSquares(lambda x: x**2), drawn(3), drawn(3, seed=1)
    torch.testing.assert_close(fisher_at(f, theta)(u), gauss_newton_at(f, theta)(u))


def test_a_loss_that_is_not_known_is_named():
    f = network(F.huber_loss).on(Batch(drawn(5, 3), drawn(5, 3)))
    with pytest.raises(CurvatureError, match="f says huber_loss: cross_entropy, mse_loss and binary"):
        fisher_at(f, f.network.theta)
    with pytest.raises(CurvatureError, match="f says NLLLoss"):
        fisher_at(objective(nn.NLLLoss(), drawn(2, 3), classes(2)), drawn(6))
    with pytest.raises(CurvatureError, match="f says none"):
        fisher_at(Composed(lambda x: x, lambda z: z.sum()), drawn(3))


def test_a_subclass_of_a_known_loss_may_be_another():
    class Mine(nn.MSELoss):
        def forward(self, z, y):
            return super().forward(z, y) ** 2

    with pytest.raises(CurvatureError, match="f says Mine"):
        fisher_at(objective(Mine(), drawn(2, 3), drawn(2, 3)), drawn(6))
