import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd
from thalweg.strategies.clipping import clipped, clipped_by_value


def clip(combine, g, **knobs):
    """What is left of a gradient, as the step that SGD makes of it."""
    return -combine(sgd).step({"g": g}, {}, {"lr": 1.0, **knobs})[0]


def test_a_long_gradient_keeps_its_direction_and_gets_the_norm():
    g = torch.tensor([3.0, 4.0])
    assert torch.allclose(clip(clipped, g, clip_norm=2.0), torch.tensor([1.2, 1.6]))


@pytest.mark.parametrize("g", [[0.3, 0.4], [0.6, 0.8], [0.0, 0.0]])
def test_a_short_gradient_is_left_alone(g):
    assert torch.equal(clip(clipped, torch.tensor(g), clip_norm=1.01), torch.tensor(g))


def test_it_clips_as_torch_does():
    parameter = torch.nn.Parameter(torch.zeros(9))
    g = 10 * torch.randn(9, generator=torch.Generator().manual_seed(0))
    parameter.grad = g.clone()
    torch.nn.utils.clip_grad_norm_([parameter], 2.0)
    torch.testing.assert_close(clip(clipped, g, clip_norm=2.0), parameter.grad)
    parameter.grad = g.clone()
    torch.nn.utils.clip_grad_value_([parameter], 2.0)
    assert torch.equal(clip(clipped_by_value, g, clip_value=2.0), parameter.grad)


def test_a_gradient_whose_squares_overflow_keeps_its_direction():
    assert torch.allclose(clip(clipped, torch.tensor([3e30, 4e30]), clip_norm=1.0), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_does_not_become_so(bad):
    assert not clip(clipped, torch.tensor([1.0, bad]), clip_norm=1.0).isfinite().all()


def test_clipping_by_value_keeps_nan_and_bounds_infinity():
    clean = clip(clipped_by_value, torch.tensor([float("nan"), float("inf"), -0.5, -3.0]), clip_value=2.0)
    assert clean[0].isnan() and clean[1:].tolist() == [2.0, -0.5, -2.0]


def test_it_is_the_gradient_that_is_clipped_and_not_the_step():
    rule, g = clipped(adam, clip_norm=0.5), torch.tensor([3.0, 4.0])
    _, memory = rule.step({"g": g}, rule.start(g), rule.with_defaults({}))
    _, expected = adam.step({"g": g / 10}, adam.start(g), adam.knobs)
    assert torch.allclose(memory["m"], expected["m"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_population_can_have_a_norm_each(dtype):
    g, norms = torch.tensor([3.0, 4.0], dtype=dtype), torch.tensor([0.5, 1.0, 10.0], dtype=dtype)
    together = torch.vmap(lambda norm: clip(clipped, g, clip_norm=norm))(norms)
    assert together.dtype == dtype
    for row, norm in zip(together, norms, strict=True):
        torch.testing.assert_close(row, clip(clipped, g, clip_norm=float(norm)))
