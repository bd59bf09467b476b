import torch

from thalweg.modern.lion import lion


def test_every_component_of_lions_step_is_lr():
    g = torch.randn(50, generator=torch.Generator().manual_seed(0))
    delta, _ = lion(g, torch.zeros(50), lr=0.1)
    assert torch.equal(delta, -0.1 * g.sign())


def test_lion_follows_what_gradient_and_momentum_agree_on():
    assert lion(1.0, -0.2, lr=0.1, beta1=0.9)[0] > 0  # 0.9 * -0.2 + 0.1 * 1 < 0
    assert lion(1.0, -0.1, lr=0.1, beta1=0.9)[0] < 0


def test_lion_remembers_with_beta2_and_steps_with_beta1():
    assert lion(1.0, 2.0, beta1=0.0, beta2=0.75)[1] == 1.75


def test_lion_does_not_see_the_scale_of_the_gradients():
    gradients = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    m = scaled_m = torch.zeros(5)
    for g in gradients:
        delta, m = lion(g, m)
        scaled, scaled_m = lion(1024 * g, scaled_m)
        assert torch.equal(delta, scaled)
