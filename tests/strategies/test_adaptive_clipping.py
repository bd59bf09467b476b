import math

import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.strategies.adaptive_clipping import clipped_adaptively


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def clip(g, theta, **knobs):
    """What is left of a gradient, as the step that SGD makes of it."""
    rule = clipped_adaptively(sgd)
    return -rule.step({"g": g, "theta": theta}, {}, rule.with_defaults({"lr": 1.0, **knobs}))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3, 2, 2), (1, 5)])
def test_it_is_the_papers_equation_3_unit_by_unit(shape, dtype):
    g, theta = drawn(*shape, dtype=dtype), drawn(*shape, seed=1, dtype=dtype)
    theta[0] = 0  # counts as clip_eps
    g[-1] *= 1e-5  # is short enough
    clipped = clip(g, theta, clip_ratio=0.02, clip_eps=1e-3)
    assert clipped.dtype == dtype
    for mine, g_i, theta_i in zip(clipped, g, theta, strict=True):
        longest = 0.02 * max(float(theta_i.norm()), 1e-3)
        torch.testing.assert_close(mine, g_i * longest / g_i.norm() if g_i.norm() > longest else g_i)


@pytest.mark.parametrize("shape", [(4,), ()])
def test_a_vector_is_one_unit(shape):
    g, theta = torch.full(shape, 3.0), torch.full(shape, 2.0)
    torch.testing.assert_close(clip(g, theta, clip_ratio=0.5), torch.full(shape, 1.0))


def test_without_a_bound_it_is_the_rule(run):
    theta, gradients = drawn(3, 4), drawn(10, 3, 4, seed=1)
    clipped, _ = run(clipped_adaptively(adam), theta, gradients, clip_ratio=math.inf)
    assert torch.equal(clipped[-1], run(adam, theta, gradients)[0][-1])


def test_momentum_gathers_the_clipped_gradients():
    theta, rule = torch.tensor([[3.0, 4.0]]), clipped_adaptively(momentum)
    _, memory = rule.step({"g": torch.tensor([[0.0, 9.0]]), "theta": theta}, rule.start(theta), rule.knobs)
    torch.testing.assert_close(memory["velocity"], torch.tensor([[0.0, 0.05]]))


def test_a_zero_gradient_stays_zero_and_a_tiny_one_what_it_is():
    g = torch.tensor([[0.0, 0.0], [1e-30, 0.0]])
    assert torch.equal(clip(g, torch.zeros(2, 2)), g)


def test_a_gradient_whose_squares_overflow_keeps_its_direction():
    torch.testing.assert_close(
        clip(torch.tensor([[3e30, 4e30]]), torch.tensor([[100.0, 0.0]])), torch.tensor([[0.6, 0.8]])
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_does_not_become_so(bad):
    clipped = clip(torch.tensor([[1.0, bad], [1.0, 1.0]]), torch.ones(2, 2))
    assert not clipped[0].isfinite().all() and clipped[1].isfinite().all()
