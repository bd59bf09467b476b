import numpy as np
import pytest
import torch

from thalweg.adaptive.rprop import rprop


def walk(gradients, **knobs):
    """theta and the step sizes after each step from 0, (steps, 2, n)."""
    theta, knobs = torch.zeros_like(gradients[0]), rprop.with_defaults(knobs)
    memory, seen = rprop.start(theta, **knobs), []
    for g in gradients:
        delta, memory = rprop.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
        seen.append(torch.stack([theta, memory["step_size"]]))
    return torch.stack(seen)


def test_it_is_the_papers_irprop_minus():
    gradients = torch.randn(25, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eta_minus, eta_plus, low, high = 0.4, 1.3, 0.05, 0.4
    w, step, before, expected = np.zeros(6), np.full(6, 0.2), np.zeros(6), []
    for g in gradients.numpy().copy():
        for i in range(6):
            if before[i] * g[i] > 0:
                step[i] = min(step[i] * eta_plus, high)
            elif before[i] * g[i] < 0:
                step[i] = max(step[i] * eta_minus, low)
                g[i] = 0
            w[i] = w[i] - np.sign(g[i]) * step[i]
        before = g
        expected.append([w.copy(), step.copy()])
    mine = walk(gradients, lr=0.2, eta_minus=eta_minus, eta_plus=eta_plus, step_min=low, step_max=high)
    np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-14)


def test_where_the_sign_turns_a_parameter_rests_and_goes_on_with_the_smaller_step():
    thetas = walk(torch.tensor([[1.0], [1.0], [-1.0], [-1.0], [-1.0]], dtype=torch.float64), lr=1.0)[:, 0, 0]
    steps = thetas.diff(prepend=torch.zeros(1)).tolist()
    assert steps == pytest.approx([-1.0, -1.2, 0.0, 0.6, 0.72])


def test_only_the_signs_of_the_gradients_matter():
    gradients = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(walk(gradients), walk(gradients.sign()))


def test_lr_is_the_first_step_size_and_nothing_after():
    first = rprop(1.0, 1.0, 0.5, lr=0.1)
    assert first == rprop(1.0, 1.0, 0.5, lr=100.0)
    assert rprop.start(torch.zeros(2), lr=0.25)["step_size"].tolist() == [0.25, 0.25]
