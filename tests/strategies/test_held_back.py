import itertools
import math

import pytest
import torch

from thalweg import optim
from thalweg.adaptive.adam import adam
from thalweg.adaptive.adamw import adamw
from thalweg.adaptive.nadam import nadam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.rule import rule as rule_of
from thalweg.execution.kernels import executable
from thalweg.modern.muon_adamw import muon_adamw
from thalweg.modern.soap import soap
from thalweg.strategies.averaging import averaged
from thalweg.strategies.clipping import clipped
from thalweg.strategies.held_back import accumulated, guarded

SHAPES = [(3, 4), (5,), ()]
N = 18
RULES = [sgd, momentum, adam, nadam, averaged(clipped(adamw)), soap, muon_adamw]
every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(dtype):
    """Python's power of a number and torch's differ in the last bit of float64; float32 does not see it."""
    return {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 1e-7}


@every_rule
@every_dtype
def test_steps_that_are_not_finite_are_as_if_they_had_not_been(run, rule, dtype):
    good = list(drawn(8, N, seed=1, dtype=dtype))
    bad = [torch.full((N,), 3.0, dtype=dtype).index_fill(0, torch.tensor(k), x) for k, x in enumerate(BAD)]
    given = [bad[0], *good[:3], bad[1], bad[2], *good[3:], bad[0]]
    theta = drawn(N, dtype=dtype)
    points, memory = run(lifted(guarded(rule), SHAPES), theta, given)
    expected, after = run(lifted(rule, SHAPES), theta, good)
    assert memory.pop("skipped") == 4
    assert points[-1].dtype == dtype and torch.equal(points[0], theta)
    torch.testing.assert_close(points[-1], expected[-1], **near(dtype))
    for name, value in after.items():
        assert isinstance(memory[name], torch.Tensor)
        expected = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)
        torch.testing.assert_close(memory[name], expected, **near(dtype))


BAD = [math.nan, math.inf, -math.inf]


def test_it_is_skipped_whichever_tensor_it_is_in_and_no_number_leaves_its_tensor():
    rule = lifted(guarded(adam), SHAPES)
    g = torch.ones(N)
    g[-1] = math.nan
    delta, memory = rule.step({"g": g}, rule.start(g), rule.knobs)
    assert torch.equal(delta, torch.zeros(N)) and rule.per == "vector"
    assert isinstance(memory["skipped"], torch.Tensor)  # nothing asked a device for its answer


def test_a_clock_that_became_a_tensor_is_as_precise_as_pythons():
    rule, g = guarded(nadam), torch.tensor([0.25])
    _, memory = rule.step({"g": g}, rule.start(g), rule.knobs)
    _, expected = nadam.step({"g": g}, nadam.start(g), nadam.knobs)
    assert memory["t"] == 1 and memory["t"].dtype == torch.float64
    assert float(memory["mu_product"]) == expected["mu_product"]


def test_the_rule_inside_never_sees_what_is_not_finite():
    @rule_of
    def picky(g, *, lr=0.01):
        assert g.isfinite().all()
        return -lr * g

    g = torch.tensor([1.0, math.nan])
    delta, _ = guarded(picky).step({"g": g}, {"skipped": 0}, picky.knobs)
    assert torch.equal(delta, torch.zeros(2))


def test_a_population_skips_member_by_member():
    rule, g = guarded(momentum), torch.tensor([[1.0, 1.0], [1.0, math.inf]])
    delta, skipped, velocity = torch.vmap(lambda g, v: rule(g, 0, v, lr=1.0, momentum=0.5))(g, torch.ones(2, 2))
    assert skipped.tolist() == [0, 1]
    assert delta.tolist() == [[-1.5, -1.5], [0.0, 0.0]] and velocity.tolist() == [[1.5, 1.5], [1.0, 1.0]]


def test_an_optimizer_goes_on_after_a_step_that_was_skipped():
    weights = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = optim.Optimizer(weights, guarded(adam), lr=0.5)
    for bad in (1.0, math.nan, 1.0):
        for weight in weights:
            weight.grad = torch.full_like(weight, bad)
        optimizer.step()
    for weight in weights:
        torch.testing.assert_close(weight.detach(), torch.zeros(weight.shape))


@every_rule
@pytest.mark.parametrize("every", [1, 3])
def test_accumulated_it_is_the_rule_on_the_means_exactly(run, rule, every):
    theta, micro = drawn(N), drawn(12, N, seed=1)
    points, memory = run(lifted(accumulated(rule, accumulate_every=every), SHAPES), theta, micro)
    means = [sum(micro[k : k + every]) / every for k in range(0, 12, every)]
    expected, after = run(lifted(rule, SHAPES), theta, means)
    assert all(torch.equal(a, b) for a, b in zip(points[every - 1 :: every], expected, strict=True))
    assert memory["gathered"] == 0
    for name, value in after.items():
        assert torch.equal(torch.as_tensor(memory[name]), torch.as_tensor(value))


def test_between_its_steps_nothing_moves_and_numbers_stay_numbers(run):
    points, memory = run(accumulated(adam), torch.zeros(2), torch.ones(7, 2))
    assert [bool((p == q).all()) for p, q in itertools.pairwise(points)] == [True, True, False] + [True] * 3
    assert memory["t"] == 1 and type(memory["t"]) is int and memory["gathered"] == 3
    assert torch.equal(memory["total"], torch.full((2,), 3.0))


def test_a_population_accumulates_member_by_member():
    rule, every = accumulated(momentum), torch.tensor([1, 2])

    def step(g, total, velocity, every):
        return rule(g, total, 0, velocity, lr=1.0, momentum=0.5, accumulate_every=every)

    delta, total, gathered, velocity = torch.vmap(step)(torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(2, 1), every)
    assert delta.tolist() == [[-1.0], [0.0]] and total.tolist() == [[0.0], [1.0]]
    assert gathered.tolist() == [0, 1] and velocity.tolist() == [[1.0], [0.0]]


def test_a_large_batch_is_accumulated_from_small_ones():
    """The gradient of a mean over 12 examples is that of three means over 4."""
    x, y, theta = drawn(12, 3), drawn(12, seed=1), drawn(3, seed=2)
    gradient = lambda x, y: x.T @ (x @ theta - y) / len(y)  # noqa: E731
    rule = accumulated(sgd, accumulate_every=3)
    memory = rule.start(theta)
    for a, b in zip(x.split(4), y.split(4), strict=True):
        delta, memory = rule.step({"g": gradient(a, b)}, memory, rule.knobs)
    torch.testing.assert_close(delta, -0.01 * gradient(x, y))


def test_a_gradient_that_is_not_finite_is_left_out_of_the_mean_by_a_guard_outside(run):
    micro = [torch.tensor([1.0]), torch.tensor([math.nan]), torch.tensor([3.0])]
    points, memory = run(guarded(accumulated(sgd, accumulate_every=2)), torch.zeros(1), micro, lr=1.0)
    assert points[-1] == -2 and memory["skipped"] == 1


@pytest.mark.parametrize("combine", [guarded, accumulated])
def test_no_kernel_consumes_what_may_have_to_stay(combine):
    for rule in (combine(adam), averaged(combine(adam))):
        chosen = executable(rule, torch.zeros(3))
        assert chosen.rule is rule and chosen.how.startswith(f"eager: {combine(adam).name} has no kernel")


@pytest.mark.parametrize("combine", [guarded, accumulated])
def test_it_is_not_applied_twice_and_can_be_rebuilt_around_another(combine):
    with pytest.raises(AlgorithmError, match="is it applied twice"):
        combine(combine(adam))
    again, inner = combine(adam).wraps
    assert inner is adam and again(sgd).name == f"{combine.__name__}(sgd)"
