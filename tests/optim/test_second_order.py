"""Every class that evaluates the closure itself, on a small network: as people would call it."""

import copy

import pytest
import torch
from torch import nn

from thalweg import optim
from thalweg.core.errors import AlgorithmError
from thalweg.core.status import Status

F = nn.functional
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X @ torch.tensor([[1.0], [-0.5], [0.3]]))
CLASSES = (Y[:, 0] > 0).long()


def network(outputs=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, outputs))


def residuals(model):
    return lambda: (2 / len(X)) ** 0.5 * (model(X) - Y)  # half the sum of their squares is the mean of the squares


def with_outputs(model, loss, targets):
    def closure():
        z = model(X)
        return loss(z, targets), z

    return closure


def taken(kind):
    """A model, its optimizer, and the closure that it asks for."""
    if kind in ("GaussNewton", "LevenbergMarquardt"):
        model = network()
        return model, getattr(optim, kind)(model.parameters()), residuals(model)
    if kind in ("KFAC", "EKFAC"):
        model = network(2)
        optimizer = getattr(optim, kind)(model, F.cross_entropy)
        return model, optimizer, with_outputs(model, F.cross_entropy, CLASSES)
    model = network()
    settings = {"loss": F.mse_loss} if kind == "NaturalGradient" else {}
    optimizer = getattr(optim, kind)(model.parameters(), **settings)
    if kind in ("NaturalGradient", "HessianFree"):
        return model, optimizer, with_outputs(model, F.mse_loss, Y)
    return model, optimizer, lambda: F.mse_loss(model(X), Y)


KINDS = (
    "BFGS", "LBFGS", "StochasticLBFGS", "NonlinearCG", "Newton", "NewtonCG", "TrustKrylov", "SaddleFreeNewton",
    "HessianFree", "GaussNewton", "LevenbergMarquardt", "NaturalGradient", "KFAC", "EKFAC",
)  # fmt: skip


def number(loss):
    return float(loss[0] if isinstance(loss, tuple) else loss)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_a_network(kind):
    model, optimizer, closure = taken(kind)
    losses = [number(optimizer.step(closure)) for _ in range(12)]
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_state_goes_on_as_the_run_would_have(kind):
    model, optimizer, closure = taken(kind)
    for _ in range(3):
        optimizer.step(closure)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    straight = [number(optimizer.step(closure)) for _ in range(3)]
    again, other, closure = taken(kind)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    assert [number(other.step(closure)) for _ in range(3)] == straight


@pytest.mark.parametrize("kind", ["GaussNewton", "LevenbergMarquardt"])
def test_of_linear_least_squares_one_step_is_the_solution(kind):
    A, b = X.double(), Y.double()
    x = nn.Parameter(torch.zeros(3, 1, dtype=torch.float64))
    settings = {"radius": 1e3} if kind == "LevenbergMarquardt" else {}
    optimizer = getattr(optim, kind)([x], **settings)
    before = optimizer.step(lambda: A @ x - b)
    assert float(before) == pytest.approx(float(b.square().sum() / 2))
    torch.testing.assert_close(x.detach(), torch.linalg.lstsq(A, b).solution)


def test_the_gradient_left_behind_is_that_of_half_the_sum_of_squares():
    model, optimizer, closure = taken("LevenbergMarquardt")
    F.mse_loss(model(X), Y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    optimizer.step(closure)
    for p, g in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_groups_with_learning_rates_of_their_own_are_other_units_of_least_squares_too():
    """Gauss-Newton does not change with the units, but for rounding."""
    ends = []
    for lrs in ((1.0, 1.0), (1.0, 0.01)):
        a, b = (nn.Parameter(torch.tensor(start, dtype=torch.float64)) for start in (-1.2, 1.0))
        optimizer = optim.GaussNewton([{"params": [p], "lr": lr} for p, lr in zip((a, b), lrs, strict=True)])
        for _ in range(4):
            optimizer.step(lambda a=a, b=b: torch.stack([1 - a, 10 * (b - a * a)]))
        ends.append(torch.stack([a, b]).detach())
    torch.testing.assert_close(*ends)


def test_parameters_in_single_precision_beside_others_have_one_jacobian():
    a, b = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = optim.LevenbergMarquardt([a, b], max_iter=20)
    optimizer.step(lambda: torch.cat([a.double() - 2, b * b - 4]))
    assert (a.item(), b.item()) == (2.0, pytest.approx(2.0))


@pytest.mark.parametrize("returned", [torch.tensor(1.0), 3.0])
def test_a_closure_that_returns_no_residuals_is_told_so(returned):
    x = nn.Parameter(torch.ones(2))
    with pytest.raises(AlgorithmError, match="let the closure return its residuals"):
        optim.GaussNewton([x]).step(lambda: returned)
    assert x.tolist() == [1.0, 1.0]


def test_a_sum_of_squares_is_not_maximised():
    with pytest.raises(AlgorithmError, match="no maximum"):
        optim.LevenbergMarquardt([nn.Parameter(torch.ones(2))], maximize=True)


@pytest.mark.parametrize("kind", ["Newton", "NewtonCG", "TrustKrylov", "SaddleFreeNewton"])
def test_second_derivatives_find_the_minimum_of_rosenbrock(kind):
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    optimizer = getattr(optim, kind)([x], max_iter=100, tolerance_grad=1e-10)
    optimizer.step(lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
    assert optimizer.status is Status.CONVERGED
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["KFAC", "EKFAC"])
def test_layers_are_looked_at_in_a_model(kind):
    with pytest.raises(AlgorithmError, match="give the model"):
        getattr(optim, kind)(network().parameters(), F.mse_loss)
