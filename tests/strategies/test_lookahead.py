import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.modern.soap import soap
from thalweg.strategies.averaging import averaged, averaged_late
from thalweg.strategies.held_back import accumulated
from thalweg.strategies.lookahead import lookahead

THETA = torch.linspace(-2, 2, 5, dtype=torch.float64)
GRADIENTS = torch.randn(23, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rule", [sgd, momentum, adam], ids=lambda rule: rule.name)
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (3, 0.8), (1, 0.3), (4, 0.0)])
def test_it_is_algorithm_1_of_the_paper(run, rule, k, alpha):
    points, _ = run(lookahead(rule), THETA, GRADIENTS, lr=0.1, slow_every=k, slow_step=alpha)
    phi = theta = THETA
    knobs = rule.with_defaults({"lr": 0.1})
    memory = rule.start(theta)
    for t, g in enumerate(GRADIENTS, start=1):
        delta, memory = rule.step({"g": g}, memory, knobs)
        theta = theta + delta
        if t % k == 0:
            phi = phi + alpha * (theta - phi)
            theta = phi
        torch.testing.assert_close(points[t - 1], theta)


def test_with_a_whole_slow_step_it_is_the_rule(run):
    points, _ = run(lookahead(adam), THETA, GRADIENTS, slow_step=1.0)
    assert torch.equal(points[-1], run(adam, THETA, GRADIENTS)[0][-1])


def test_after_every_step_it_is_sgd_with_a_part_of_its_lr(run):
    points, _ = run(lookahead(sgd), THETA, GRADIENTS, lr=0.1, slow_every=1, slow_step=0.25)
    torch.testing.assert_close(points[-1], run(sgd, THETA, GRADIENTS, lr=0.025)[0][-1])


def test_the_slow_weights_are_theta_where_the_two_meet_and_the_counter_begins_anew(run):
    for steps, fast in ((4, 4), (5, 0), (6, 1), (20, 0)):
        points, memory = run(lookahead(adam), THETA, GRADIENTS[:steps])
        assert memory["fast"] == fast
        assert torch.equal(memory["slow"], points[steps - fast - 1] if steps >= 5 else THETA)


def test_it_goes_with_averages_accumulation_and_rules_that_have_a_rhythm_of_their_own(run):
    points, memory = run(averaged(lookahead(adam)), THETA, GRADIENTS)
    torch.testing.assert_close(memory["average"], torch.stack(points).mean(dim=0))
    slowly, _ = run(accumulated(lookahead(adam), accumulate_every=1), THETA, GRADIENTS)
    assert torch.equal(slowly[-1], points[-1])
    assert averaged_late(lookahead(soap)).knobs["every"] == soap.knobs["every"]
