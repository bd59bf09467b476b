"""The loop: each Step is what it says, a knob may follow the step, and the loop can be taken up where it was."""

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.core.errors import AlgorithmError

BATCH = tw.Batch(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]))


def line(w: float = 0.0, dropout: float = 0.0) -> tw.Network:
    """y = wx, squared error."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, w)
    return tw.Network(nn.Sequential(layer, nn.Dropout(dropout)), nn.functional.mse_loss)


def test_gradient_descent_on_a_quadratic_is_its_closed_form():
    network = line()
    losses = [step.loss for step in tw.descend(network, tw.sgd, [BATCH] * 20, lr=0.05)]
    w = [2 - 2 * 0.75**t for t in range(21)]  # g = 5 (w - 2), so w - 2 shrinks by 1 - 0.05 * 5
    assert losses == pytest.approx([2.5 * (w_t - 2) ** 2 for w_t in w[:-1]], rel=1e-4)
    assert network.theta.item() == pytest.approx(w[-1], rel=1e-6)


def test_a_step_holds_what_it_saw_before_it_moved():
    step = next(iter(tw.descend(line(w=1.0), tw.momentum, [BATCH], lr=0.1)))
    assert (step.t, step.loss, step.g.item()) == (1, 2.5, -5.0)
    assert step.batch is BATCH and step.knobs["lr"] == 0.1 and set(step.memory) == set(tw.momentum.remembers)


def test_a_knob_may_be_a_function_of_the_step_counted_from_0():
    lrs = [step.knobs["lr"] for step in tw.descend(line(), tw.sgd, [BATCH] * 3, lr=lambda t: 0.1 / (t + 1))]
    assert lrs == [0.1, 0.05, 0.1 / 3]


@pytest.mark.parametrize("rule", [tw.sgd, tw.momentum, tw.adam, tw.averaged(tw.nadam)], ids=lambda r: r.name)
def test_taken_up_where_it_was_it_is_the_uninterrupted_loop(rule):
    def lr(t):
        return 0.1 / (t + 1)

    whole, parts = line(dropout=0.5), line(dropout=0.5)
    for _ in tw.descend(whole, rule, [BATCH] * 10, lr=lr, seed=4):
        pass
    *_, last = tw.descend(parts, rule, [BATCH] * 6, lr=lr, seed=4)
    for _ in tw.descend(parts, rule, [BATCH] * 4, lr=lr, seed=4, memory=last.memory, t=last.t):
        pass
    assert torch.equal(whole.theta, parts.theta)


def test_what_the_model_draws_is_a_function_of_seed_and_step():
    def losses(seed):
        return [step.loss for step in tw.descend(line(1.0, dropout=0.5), tw.sgd, [BATCH] * 30, lr=0.0, seed=seed)]

    assert losses(1) == losses(1) != losses(2)
    assert len(set(losses(1))) > 1


def test_a_rule_that_sees_the_objective_gets_it_on_this_batch():
    @tw.rule
    def secant(theta, f, *, lr=1.0):
        """To the minimum of the parabola through three values of f."""
        low, here, high = (f(theta + step) for step in (-lr, 0, lr))
        return torch.full_like(theta, lr / 2) * (low - high) / (low - 2 * here + high)

    network = line()
    other = tw.Batch(BATCH.inputs, 3 * BATCH.inputs)
    minima = [network.theta.item() for _ in tw.descend(network, secant, [BATCH, other])]
    assert minima == pytest.approx([2.0, 3.0], rel=1e-5)


def test_an_unknown_knob_is_refused_before_the_first_step():
    with pytest.raises(AlgorithmError, match="sgd has no knob 'beta1': its knobs are lr"):
        next(iter(tw.descend(line(), tw.sgd, [BATCH], beta1=0.9)))
