import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.core.lifted import lifted
from thalweg.strategies.cautious import cautious


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_authors_adam_written_out(run):
    theta, gradients, lr, beta1, beta2, eps = drawn(3, 4), drawn(15, 3, 4, seed=1), 0.1, 0.9, 0.99, 1e-8
    expected, m, v = theta, torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    for t, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        mask = (m * g > 0).double()
        step = mask / max(mask.mean(), 1e-3) * m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)
        expected = expected - lr * step
    points, _ = run(cautious(adam), theta, gradients, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
    torch.testing.assert_close(points[-1], expected)


def test_a_step_all_downhill_is_left_alone(run):
    gradients = drawn(5, 7)
    assert torch.equal(run(cautious(sgd), drawn(7), gradients)[0][-1], run(sgd, drawn(7), gradients)[0][-1])


def test_a_step_all_uphill_is_none():
    delta, memory = cautious(momentum).step(
        {"g": torch.ones(3)}, {"velocity": torch.full((3,), -9.0)}, {"lr": 1.0, "momentum": 1.0}
    )
    assert torch.equal(delta, torch.zeros(3)) and torch.equal(memory["velocity"], torch.full((3,), -8.0))


@pytest.mark.parametrize("downhill", [1, 3, 5000])
def test_what_is_left_grows_by_its_share_up_to_a_thousand_times(downhill):
    velocity = torch.full((5000,), -9.0)
    velocity[:downhill] = 0.0
    delta, _ = cautious(momentum).step({"g": torch.ones(5000)}, {"velocity": velocity}, {"lr": 1.0, "momentum": 1.0})
    torch.testing.assert_close(delta[:downhill], torch.full((downhill,), -min(5000 / downhill, 1000.0)))
    assert torch.equal(delta[downhill:], torch.zeros(5000 - downhill))


def test_the_signs_of_numbers_whose_product_underflows_count():
    delta, _ = cautious(sgd).step({"g": torch.tensor([1e-25, -1e-30])}, {}, {"lr": 1.0})
    assert torch.equal(delta, torch.tensor([-1e-25, 1e-30]))


def test_the_share_is_that_of_each_tensor():
    rule = lifted(cautious(momentum), [(2,), (3,)])
    memory = {"velocity.0": torch.tensor([0.0, -9.0]), "velocity.1": torch.zeros(3)}
    delta, _ = rule.step({"g": torch.ones(5)}, memory, {"lr": 1.0, "momentum": 1.0})
    assert delta.tolist() == [-2.0, 0.0, -1.0, -1.0, -1.0]
