import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.strategies.decay import decayed
from thalweg.strategies.maximised import maximised
from thalweg.strategies.penalised import penalised

THETA = torch.linspace(-2, 2, 5, dtype=torch.float64)
GRADIENTS = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def torchs(make):
    parameter = torch.nn.Parameter(THETA.clone())
    optimizer = make([parameter])
    for g in GRADIENTS:
        parameter.grad = g.clone()
        optimizer.step()
    return parameter.detach()


def test_it_is_torchs_coupled_weight_decay(run):
    points, _ = run(penalised(adam), THETA, GRADIENTS, lr=0.1, weight_decay=0.3)
    torch.testing.assert_close(points[-1], torchs(lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3)))


def test_torch_turns_the_gradient_round_before_it_adds_the_penalty(run):
    points, _ = run(maximised(penalised(momentum)), THETA, GRADIENTS, lr=0.1, weight_decay=0.3)
    expected = torchs(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.3, maximize=True))
    torch.testing.assert_close(points[-1], expected)


def test_on_sgd_it_is_decoupled_decay_and_on_adam_it_is_not(run):
    coupled, decoupled = (run(c(sgd), THETA, GRADIENTS, weight_decay=0.3)[0][-1] for c in (penalised, decayed))
    torch.testing.assert_close(coupled, decoupled)
    coupled, decoupled = (run(c(adam), THETA, GRADIENTS, weight_decay=0.3)[0][-1] for c in (penalised, decayed))
    assert not torch.allclose(coupled, decoupled, rtol=1e-3)


def test_its_minimum_is_shrunk_as_section_7_1_1_says(run):
    """Of (theta - b)² h / 2 with the penalty: h b / (h + weight_decay)."""
    h, b, theta = torch.tensor([0.5, 2.0]), torch.tensor([1.0, -3.0]), torch.zeros(2)
    rule = penalised(sgd, weight_decay=0.25)
    for _ in range(200):
        delta, _ = rule.step({"g": h * (theta - b), "theta": theta}, {}, rule.with_defaults({"lr": 0.2}))
        theta = theta + delta
    torch.testing.assert_close(theta, h * b / (h + 0.25))


def test_without_a_penalty_it_is_the_rule(run):
    assert torch.equal(run(penalised(adam), THETA, GRADIENTS)[0][-1], run(adam, THETA, GRADIENTS)[0][-1])
