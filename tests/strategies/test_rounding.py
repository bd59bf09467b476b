import math

import pytest
import torch

from thalweg import optim
from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.basic.sgd import sgd
from thalweg.core.lifted import lifted
from thalweg.strategies.averaging import averaged
from thalweg.strategies.rounding import compensated, stochastically_rounded

every_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
both = pytest.mark.parametrize("combine", [compensated, stochastically_rounded])


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(dtype):
    """All finite numbers of a half precision, in order, in float32."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).to(torch.float32)
    return every[every.isfinite()].unique()


def sums(dtype, n=200_000):
    """Numbers of a half precision over its whole range, and steps of all sizes that do not lead out of it."""
    generator, known = torch.Generator().manual_seed(0), numbers(dtype) / 4
    theta = known[torch.randint(len(known), (n,), generator=generator)].to(dtype).to(torch.float32)
    scale = 2.0 ** torch.randint(-14, 3, (n,), generator=generator)
    return theta, theta * (scale * torch.randn(n, generator=generator).clamp(-2, 2) * 0.2)


def moved(rule, theta, step, draws=0, **knobs):
    """Where a rule on SGD leads when SGD's own step would be `step`."""
    memory = rule.start(theta) | ({"draws": draws} if "draws" in rule.remembers else {})
    delta, memory = rule.step({"g": -step, "theta": theta}, memory, rule.with_defaults({"lr": 1.0, **knobs}))
    return theta + delta, memory


@both
@every_dtype
def test_it_leads_to_one_of_the_two_neighbours(combine, dtype):
    theta, step = sums(dtype)
    found, _ = moved(combine(sgd, dtype), theta, step)
    known, exact = numbers(dtype), theta + step
    above = torch.searchsorted(known, exact)
    below = torch.searchsorted(known, exact, side="right") - 1
    assert ((found == known[above]) | (found == known[below])).all()
    assert torch.equal(found.to(dtype).to(torch.float32), found)  # so that an execution's rounding changes nothing
    assert (found != exact).float().mean() > 0.5


@every_dtype
def test_compensated_it_leads_to_the_nearest_and_remembers_the_rest(dtype):
    theta, step = sums(dtype)
    found, memory = moved(compensated(sgd, dtype), theta, step)
    assert torch.equal(found, (theta + step).to(dtype).to(torch.float32))
    lost = step.double() - (found.double() - theta.double())
    assert ((memory["c"] - lost).abs() <= 2**-24 * step.abs()).all()


@every_dtype
@pytest.mark.parametrize("part", [1 / 16, 0.3, 0.5, 0.9, 1023 / 1024])
@pytest.mark.parametrize("x", [1.0, -1.0, -37.0, 2.0**-14, -(2.0**-20), 0.0])
def test_stochastically_it_is_right_on_average(dtype, x, part):
    """Means of 200 000 draws, each of one neighbour or the other: within five standard errors."""
    known = numbers(dtype)
    k = int(torch.searchsorted(known, torch.tensor(x)))
    gap = float(known[k + 1] - known[k])
    theta, step = torch.full((20_000,), x), torch.full((20_000,), part * gap)
    rule = stochastically_rounded(sgd, dtype)
    share = torch.stack([moved(rule, theta, step, draws)[0] > x for draws in range(10)]).double().mean()
    exact = (x + step[0] - x) / gap  # after rounding to float32
    assert abs(share - exact) < 5 * math.sqrt(part * (1 - part) / 200_000)


@both
@every_dtype
def test_without_a_step_nothing_moves_whatever_is_drawn(combine, dtype):
    theta, rule = numbers(dtype), combine(sgd, dtype)
    for draws in range(20):
        assert torch.equal(moved(rule, theta, torch.zeros_like(theta), draws)[0], theta)


@both
@every_dtype
def test_a_zero_gradient_never_gives_nan(combine, dtype):
    theta, rule = numbers(dtype), combine(adam, dtype)
    memory = rule.start(theta)
    for _ in range(5):
        delta, memory = rule.step({"g": torch.zeros_like(theta), "theta": theta}, memory, rule.knobs)
        assert torch.equal(delta, torch.zeros_like(theta))


@every_dtype
def test_infinity_comes_from_the_step_and_never_by_chance(dtype):
    largest = torch.full((1000,), torch.finfo(dtype).max)
    gap = numbers(dtype)[-1] - numbers(dtype)[-2]
    for sign in (1, -1):
        for combine in (compensated, stochastically_rounded):
            near, _ = moved(combine(sgd, dtype), sign * largest, sign * largest.sign() * 0.45 * gap)
            far, _ = moved(combine(sgd, dtype), sign * largest, sign * largest.sign() * 0.55 * gap)
            assert torch.equal(near, sign * largest) and torch.equal(far, sign * math.inf * largest)
        bad, _ = moved(stochastically_rounded(sgd, dtype), sign * largest, torch.full((1000,), math.nan))
        assert bad.isnan().all()


def test_the_draws_are_a_function_of_seed_clock_position_and_theta():
    state = torch.random.get_rng_state()
    rule, theta, step = stochastically_rounded(sgd), torch.ones(2000), torch.full((2000,), 2.0**-8)
    first, _ = moved(rule, theta, step, draws=3, rounding_seed=1)
    assert torch.equal(first, moved(rule, theta, step, draws=torch.tensor(3.0), rounding_seed=1)[0])
    assert torch.equal(first[:9], moved(rule, theta[:9], step[:9], draws=3, rounding_seed=1)[0])
    others = [
        moved(rule, theta, step, draws=4, rounding_seed=1)[0],
        moved(rule, theta, step, draws=3, rounding_seed=2)[0],
        moved(rule, 2 * theta, 2 * step, draws=3, rounding_seed=1)[0] / 2,
        first.roll(1),
    ]
    for other in others:
        agreement = (first == other).float().mean()  # a half where they are independent: within five standard errors
        assert 0 < (first > 1).float().mean() < 1 and abs(agreement - 0.5) < 5 * 0.5 / 2000**0.5
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("rule", [sgd, momentum, adam], ids=lambda rule: rule.name)
@every_dtype
def test_theta_and_what_was_lost_are_the_trajectory_in_float32(run, rule, dtype):
    theta, gradients = drawn(500).to(dtype).to(torch.float32), drawn(300, 500, seed=1) + 0.3
    rounded, memory = run(compensated(rule, dtype), theta, gradients, lr=1e-4)
    whole, _ = run(rule, theta.double(), gradients.double(), lr=1e-4)
    exactly = rounded[-1].double() + memory["c"].double()
    assert (exactly - whole[-1]).abs().max() < 2**-24 * whole[-1].abs().max()
    assert (rounded[-1] == rounded[-1].to(dtype).to(torch.float32)).all() and (rounded[-1] != whole[-1]).any()


@every_dtype
def test_small_steps_stall_in_half_precision_but_not_where_rounding_is_minded(dtype):
    """A thousand steps of an eighth of the gap below 1, which the nearest number swallows."""
    gap = 1 - float(numbers(dtype)[torch.searchsorted(numbers(dtype), torch.tensor(1.0)) - 1])
    plain = torch.ones(4000)
    for _ in range(1000):
        delta, _ = sgd.step({"g": torch.ones(4000)}, {}, {"lr": gap / 8})
        plain = (plain + delta).to(dtype).to(torch.float32)
    assert torch.equal(plain, torch.ones(4000))
    for combine, within in ((compensated, gap), (stochastically_rounded, 5 * gap * math.sqrt(1000 / 4) / 4000**0.5)):
        rule, theta = combine(sgd, dtype), torch.ones(4000)
        memory = rule.start(theta)
        for _ in range(1000):
            delta, memory = rule.step(
                {"g": torch.ones(4000), "theta": theta}, memory, rule.with_defaults({"lr": gap / 8})
            )
            theta = (theta + delta).to(dtype).to(torch.float32)
        assert abs(theta.mean() - (1 - 125 * gap)) < within


@both
def test_a_quadratic_is_descended_where_plain_bfloat16_stops_on_the_way(combine):
    def end(rule, steps=3000):
        weights = [torch.nn.Parameter(torch.full(shape, 2.0, dtype=torch.bfloat16)) for shape in ((30, 40), (500,))]
        optimizer = optim.Optimizer(weights, rule, lr=2e-3)
        for _ in range(steps):
            for weight in weights:
                weight.grad = weight.detach() - 1
            optimizer.step()
        return torch.cat([weight.detach().float().flatten() - 1 for weight in weights])

    assert torch.equal(end(sgd), torch.ones(1700))  # every step is a quarter of what bfloat16 sees below 2
    assert end(combine(sgd)).square().mean() < 1e-4


@both
@pytest.mark.parametrize("rule", [sgd, adam], ids=lambda rule: rule.name)
def test_float32_parameters_are_left_alone(combine, rule):
    assert combine(rule, torch.float32) is rule


@both
def test_it_goes_with_averages_and_with_tensors(run, combine):
    theta, gradients = drawn(17).bfloat16().float(), drawn(20, 17, seed=1)
    points, memory = run(lifted(averaged(combine(adam)), [(3, 4), (5,)]), theta, gradients, lr=0.01)
    average = torch.cat([memory[k].flatten() for k in memory if k.startswith("average")])
    torch.testing.assert_close(average, torch.stack(points).mean(dim=0))
