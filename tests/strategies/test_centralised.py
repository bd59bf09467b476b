import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd
from thalweg.core.lifted import lifted
from thalweg.strategies.centralised import centralised


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def left(g):
    """What is left of a gradient, as the step that SGD makes of it."""
    return -centralised(sgd).step({"g": g}, {}, {"lr": 1.0})[0]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5, 5), (4, 1), (1, 6)])
def test_the_gradient_of_every_output_unit_has_mean_zero_and_its_differences_stay(shape):
    g = drawn(*shape)
    rows, before = left(g).flatten(1), g.flatten(1)
    torch.testing.assert_close(rows.sum(dim=1), torch.zeros(shape[0], dtype=torch.float64))
    torch.testing.assert_close(rows - rows[:, :1], before - before[:, :1])


def test_it_is_the_projection_of_the_paper():
    """P = I - e eᵀ with the unit vector e of equal components; applied twice it is itself."""
    g, e = drawn(3, 4), torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(left(g), g @ (torch.eye(4, dtype=torch.float64) - torch.outer(e, e)))
    torch.testing.assert_close(left(left(g)), left(g))


@pytest.mark.parametrize("shape", [(5,), ()])
def test_vectors_and_numbers_are_left_alone(shape):
    g = torch.ones(shape)
    assert torch.equal(left(g), g)


def test_the_sum_of_a_units_weights_never_changes(run):
    theta = drawn(3, 4)
    points, _ = run(centralised(sgd), theta, drawn(10, 3, 4, seed=1), lr=0.5)
    torch.testing.assert_close(points[-1].sum(dim=1), theta.sum(dim=1))


def test_adam_inside_sees_centralised_gradients_of_each_tensor(run):
    shapes, gradients = [(3, 4), (5,)], drawn(6, 17)
    points, _ = run(lifted(centralised(adam), shapes), torch.zeros(17, dtype=torch.float64), gradients)
    central = [torch.cat([left(g[:12].view(3, 4)).flatten(), g[12:]]) for g in gradients]
    torch.testing.assert_close(points[-1], run(adam, torch.zeros(17, dtype=torch.float64), central)[0][-1])
