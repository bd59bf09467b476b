import math

import pytest
import torch

from thalweg import adam, sgd
from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import (
    clock,
    combinator,
    current,
    full,
    maximum,
    minimum,
    one,
    rule,
    sign,
    sqrt,
    where,
    zeros,
)
from thalweg.strategies.averaging import averaged


@rule
def drifting(g, theta, m=zeros, best=current, r=full("floor"), t=clock, product=one, *, lr=0.1, floor=0.5):
    """Uses all that a signature can say."""
    t = t + 1
    m = m + g
    return -lr * (m + theta), m, best, r, t, product * 0.5


@combinator
def doubled(inner, *, lr, factor=2.0):
    """Twice the step, plus its lr."""
    return factor * inner() + lr


@combinator
def counted(inner, g, theta, calls=clock):
    """Counts, and turns the gradient round."""
    return inner(g=-g) + 0 * theta, calls + 1


def test_a_signature_says_what_a_rule_sees_remembers_and_has_for_knobs():
    assert drifting.name == "drifting"
    assert drifting.sees == ("g", "theta")
    assert list(drifting.remembers) == ["m", "best", "r", "t", "product"]
    assert drifting.knobs == {"lr": 0.1, "floor": 0.5}
    assert drifting.doc == "Uses all that a signature can say."


def test_memory_starts_as_the_defaults_say():
    theta = torch.tensor([1.0, -2.0])
    memory = drifting.start(theta, floor=0.25)
    assert torch.equal(memory["m"], torch.zeros(2))
    assert torch.equal(memory["best"], theta) and memory["best"] is not theta
    assert torch.equal(memory["r"], torch.tensor([0.25, 0.25]))
    assert memory["t"] == 0 and memory["product"] == 1.0


def test_a_step_gives_the_new_memory_by_name():
    theta, g = torch.tensor([1.0]), torch.tensor([2.0])
    delta, memory = drifting.step({"g": g, "theta": theta}, drifting.start(theta), drifting.with_defaults({}))
    assert torch.allclose(delta, torch.tensor([-0.3]))
    assert memory["m"] == 2.0 and memory["t"] == 1 and memory["product"] == 0.5


def test_an_unknown_knob_is_refused_with_those_there_are():
    with pytest.raises(AlgorithmError, match="adam has no knob 'beta': its knobs are beta1, beta2, eps, lr"):
        adam.start(torch.zeros(1), beta=0.9)


def test_a_rule_that_wants_to_see_something_else_is_refused():
    with pytest.raises(AlgorithmError, match="wants to see 'gradient': a rule can see g, theta, f"):
        rule(lambda gradient: gradient)


def test_a_memory_without_a_start_is_refused():
    with pytest.raises(AlgorithmError, match=r"remembers 'm' from 0\.0: say zeros, current, clock"):
        rule(lambda g, m=0.0: (g, m))


def test_the_answer_is_the_average_where_there_is_one():
    theta, average = torch.zeros(1), torch.ones(1)
    assert sgd.answer(theta, {}) is theta
    assert averaged(sgd).answer(theta, {"average": average, "n": 1}) is average


def test_a_combinator_adds_what_it_sees_remembers_and_has_for_knobs():
    rule = counted(doubled(adam))
    assert rule.name == "counted(doubled(adam))"
    assert rule.sees == ("g", "theta")
    assert list(rule.remembers) == ["calls", "m", "v", "t"]
    assert list(rule.knobs) == ["lr", "beta1", "beta2", "eps", "factor"]


def test_a_combinator_reads_a_shared_knob_and_replaces_what_the_inner_rule_sees():
    rule = counted(doubled(sgd, factor=3.0))
    seen = {"g": torch.tensor([1.0]), "theta": torch.tensor([7.0])}
    delta, memory = rule.step(seen, rule.start(seen["theta"]), rule.with_defaults({"lr": 0.5}))
    assert delta == 3.0 * 0.5 + 0.5 and memory == {"calls": 1}


def test_the_defaults_of_a_combinator_can_be_given_when_it_is_applied():
    assert doubled(sgd, factor=5.0).knobs == {"lr": 0.01, "factor": 5.0}
    with pytest.raises(AlgorithmError, match="doubled has no knob 'facto': its knobs are factor"):
        doubled(sgd, facto=5.0)


def test_a_combinator_is_not_applied_twice():
    with pytest.raises(AlgorithmError, match=r"cannot wrap doubled\(sgd\): both have 'factor'; is it applied twice\?"):
        doubled(doubled(sgd))


def test_a_combinator_and_the_rule_inside_use_a_name_for_the_same_thing():
    @combinator
    def weighted(inner, *, m=0.5):
        return m * inner()

    with pytest.raises(AlgorithmError, match=r"weighted cannot wrap adam: both have 'm'"):
        weighted(adam)


def test_a_combinator_needs_the_knob_that_it_shares():
    with pytest.raises(AlgorithmError, match="doubled needs a rule with the knob 'lr': still has none"):
        doubled(rule(still))


def still(g):
    return 0 * g


def test_a_wrapped_rule_can_be_rebuilt_around_another():
    outer = doubled(sgd, factor=5.0)
    combine, inner = outer.wraps
    assert outer.source.__name__ == "doubled"
    assert inner is sgd
    assert combine(adam).name == "doubled(adam)" and combine(adam).knobs["factor"] == 5.0


@pytest.mark.parametrize(
    "word",
    [
        lambda x, y: sqrt(abs(x)),
        lambda x, y: abs(x),
        lambda x, y: sign(x),
        lambda x, y: where(x > y, x, y * 2),
        lambda x, y: maximum(x, y),
        lambda x, y: minimum(x, y),
        lambda x, y: maximum(x, 0.5),
        lambda x, y: minimum(-0.5, x),
    ],
)
def test_the_vocabulary_means_the_same_on_a_tensor_and_on_its_numbers(word):
    x, y = (torch.tensor(v, dtype=torch.float64) for v in ([2.0, -3.0, 0.0, 1.0], [1.0, -2.0, 0.0, 4.0]))
    numbers = [word(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert word(x, y).tolist() == pytest.approx(numbers, rel=1e-15)  # torch's vector sqrt is not rounded exactly


@pytest.mark.parametrize("word", [maximum, minimum])
def test_nan_goes_through_the_vocabulary(word):
    nan = torch.tensor([math.nan])
    assert math.isnan(word(math.nan, 1.0)) and math.isnan(word(1.0, math.nan))
    assert word(nan, 1.0).isnan() and word(1.0, nan).isnan() and sqrt(nan).isnan() and abs(nan).isnan()
