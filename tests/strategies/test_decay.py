import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.sgd import sgd
from thalweg.strategies.decay import decayed


def test_on_sgd_decoupled_decay_is_l2_regularisation():
    theta, g = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.25])
    decoupled, _ = decayed(sgd).step({"g": g, "theta": theta}, {}, {"lr": 0.1, "weight_decay": 0.3})
    penalised, _ = sgd.step({"g": g + 0.3 * theta}, {}, {"lr": 0.1})
    assert torch.allclose(decoupled, penalised)


def test_on_adam_it_is_not():
    theta, g, knobs = torch.tensor([1.0, -2.0]), torch.tensor([5.0, 0.25]), {**adam.knobs, "lr": 0.1}
    decoupled, _ = decayed(adam).step({"g": g, "theta": theta}, adam.start(theta), {**knobs, "weight_decay": 0.3})
    penalised, _ = adam.step({"g": g + 0.3 * theta}, adam.start(theta), knobs)
    assert not torch.allclose(decoupled, penalised, rtol=0.1)


def test_without_a_gradient_theta_decays_exponentially():
    theta, rule = torch.tensor([8.0], dtype=torch.float64), decayed(sgd)
    for _ in range(10):
        delta, _ = rule.step({"g": torch.zeros_like(theta), "theta": theta}, {}, {"lr": 0.5, "weight_decay": 0.2})
        theta = theta + delta
    assert torch.allclose(theta, 8 * torch.tensor([0.9], dtype=torch.float64) ** 10)
