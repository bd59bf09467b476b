import json
import math
import runpy
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from sklearn.datasets import load_digits
from torch import nn

import thalweg
from thalweg import Batch, Network, descend
from thalweg.core.derivatives import gauss_newton_at, value_and_gradient
from thalweg.core.errors import AlgorithmError, CurvatureError
from thalweg.core.objective import Evaluations
from thalweg.core.status import Status
from thalweg.second_order.adaptive_damping import Objective
from thalweg.second_order.blocks import FULL, Block, blocks_of, cut, dense
from thalweg.second_order.ekfac import ekfac
from thalweg.second_order.estimate import Choices, estimate
from thalweg.second_order.fisher import outputs_at, pushed
from thalweg.second_order.kfac import kfac, kfac_with
from thalweg.second_order.kronecker import evaluated, factors
from thalweg.second_order.processes import alone
from thalweg.second_order.quadratic import Quadratic, by_lr, by_model, clipped, quadratic
from thalweg.second_order.quadratic import stepped as best
from thalweg.second_order.tikhonov import damped, inverse, inverses, solved
from thalweg.second_order.treatment import diagonal, refuse

F = nn.functional
DOUBLE = torch.float64
EYE = torch.eye(9, dtype=DOUBLE)
both = pytest.mark.parametrize("rule", [kfac, ekfac], ids=["kfac", "ekfac"])


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def classes(*shape, count=3, seed=0):
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def psd(n, seed=0):
    x = drawn(n, n, seed=seed)
    return (x @ x.T)[None]


def network(*widths, loss=F.mse_loss, act=nn.Tanh, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), act())]
        return Network(nn.Sequential(*parts[:-1]).double(), loss)


def stepped(rule, net, batch, memory=None, **knobs):
    """One step; theta stays where it is."""
    f = Evaluations(net.on(batch))
    _, g = f.value_and_gradient(net.theta)
    memory = rule.start(net.theta) if memory is None else memory
    return rule.step({"g": g, "theta": net.theta, "f": f}, memory, rule.with_defaults(knobs))


def trained(rule, net, batches, memory=None, **knobs):
    for batch in batches:
        delta, memory = stepped(rule, net, batch, memory, **knobs)
        with torch.no_grad():
            net.theta.add_(delta)
    return memory


def close(a, b, rtol=1e-9):
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


# Damping


def test_pi_is_the_root_of_the_ratio_of_mean_traces():
    """Section 6.3 of Martens and Grosse 2015, literally."""
    left, right, lam = psd(3), psd(5, seed=1), 0.07
    pi = (left[0].trace() / 3 / (right[0].trace() / 5)) ** 0.5
    a, b = damped(left, right, lam)
    mine = dense(Block(0, -1, 1, 3, 5, FULL, FULL), a, b)[0]
    close(mine, torch.kron(left[0] + pi * lam**0.5 * EYE[:3, :3], right[0] + lam**0.5 / pi * EYE[:5, :5]))


def test_beside_a_number_all_of_the_damping_is_the_others():
    for number in (torch.full((1, 1), 2.0, dtype=DOUBLE), torch.full((1, 1, 1), 2.0, dtype=DOUBLE)):
        for a, b in (damped(psd(3), number, 0.07), damped(number, psd(3), 0.07)):
            matrix, one = (a, b) if a.shape[-1] == 3 else (b, a)
            close(matrix * one.reshape(1, 1, 1), 2 * psd(3) + 0.07 * EYE[:3, :3])
    a, b = damped(torch.full((1, 1), 2.0), torch.full((1, 1), 3.0), 0.07)
    close(a * b, torch.full((1, 1), 6.07))


@pytest.mark.parametrize("zeros", [(0,), (1,), (0, 1)])
def test_a_factor_of_zeros_leaves_the_damping(zeros):
    left, right = (0 * psd(n, seed=k) if k in zeros else psd(n, seed=k) for k, n in enumerate((3, 4)))
    a, b = damped(left, right, 0.09)
    close(torch.kron(a[0], b[0]), 0.09 * torch.eye(12, dtype=DOUBLE))


def test_each_group_has_a_pi_of_its_own():
    left, right = torch.cat([psd(3), psd(3, seed=1)]), torch.cat([psd(2, seed=2), 9 * psd(2, seed=3)])
    together = damped(left, right, 0.1)
    for k in range(2):
        close(tuple(x[k : k + 1] for x in together), damped(left[k : k + 1], right[k : k + 1], 0.1))


def test_an_inverse_of_a_singular_factor_leaves_out_what_is_not_of_its_range():
    x = torch.tensor([[1.0, 2.0]], dtype=DOUBLE)
    close(inverse((x.T @ x)[None])[0], torch.linalg.pinv(x.T @ x))
    close(inverse(torch.tensor([[4.0, 0.0]])), torch.tensor([[0.25, 0.0]]))


@pytest.mark.parametrize("lam", [1e-1, 1e-4])
def test_the_inverse_with_this_damping_is_that_of_curvlinops(curvlinops, lam):
    net, x = network(4, 5, 3, loss=nn.CrossEntropyLoss()), drawn(7, 4)
    theirs = curvlinops.KFACLinearOperator(
        net.module, net.loss, list(net.module.parameters()), [(x, classes(7))], fisher_type="type-2",
        separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    theirs = curvlinops.KFACInverseLinearOperator(theirs, damping=lam, use_heuristic_damping=True, min_damping=0.0)
    found = evaluated(net.on(Batch(x, classes(7))), net.theta, refuse, 2048, 0, 0, 0)
    g = drawn(len(net.theta), seed=3)
    mine = solved([layer.block for layer in found.layers], inverses(factors(found), lam), g, lam)
    close(mine, theirs @ g, rtol=1e-7)


def test_the_inverse_is_a_solution_block_by_block_and_the_damping_elsewhere():
    net = network(3, 4, 2)
    found = evaluated(net.on(Batch(drawn(5, 3), drawn(5, 2))), net.theta, refuse, 2048, 0, 0, 0)
    first, pair = found.layers[0].block, factors(found)[0]
    g = drawn(len(net.theta), seed=3)
    mine = solved([first], inverses([pair], 0.2), g, 0.2)
    whole = dense(first, *damped(*pair, 0.2))[0]
    close(whole @ first.matrix(mine).reshape(-1), first.matrix(g).reshape(-1))
    close(mine[16:], g[16:] / 0.2)


# The model, and how far to go


def test_the_model_is_the_quadratic_one_with_the_exact_fisher_matrix():
    net = network(3, 4, 2)
    f, theta = net.on(Batch(drawn(5, 3), drawn(5, 2))), net.theta
    _, g = value_and_gradient(f, theta)
    d, before, lam = drawn(len(g), seed=1), drawn(len(g), seed=2), 0.3
    outputs, product = outputs_at(f, theta), gauss_newton_at(f, theta)
    push = pushed(outputs, theta)
    model = quadratic(outputs, [push(d), push(before)], g, [d, before], lam, alone)
    delta = 0.7 * d - 0.2 * before
    assert model.at(0.7, -0.2) == pytest.approx(float(g @ delta + delta @ (product(delta) + lam * delta) / 2), rel=1e-9)
    assert model.divergence(0.7, -0.2) == pytest.approx(float(delta @ product(delta) / 2), rel=1e-9)


def test_by_model_is_the_models_minimum_and_keeps_of_the_last_step_at_most_momentum():
    model = Quadratic((-1.0, -2.0), (3.0, 1.0, 2.0), (1.0, 0.0, 1.0), 0.5)
    M, b = torch.tensor([[3.5, 1.0], [1.0, 2.5]], dtype=DOUBLE), torch.tensor([1.0, 2.0], dtype=DOUBLE)
    assert by_model(model, 1.0, 9.0) == pytest.approx(torch.linalg.solve(M, b).tolist())
    assert by_model(model, 0.5, 9.0) == pytest.approx((torch.linalg.solve(M, b) / 2).tolist())
    first, second = by_model(model, 1.0, 0.1)
    assert second == 0.1 and 3.5 * first + 0.1 == pytest.approx(1.0)


@pytest.mark.parametrize("second", [(0.0, 0.0), (6.0, 12.0), (-3.0, 3.0)])
def test_directions_that_are_one_or_none_are_not_told_apart(second):
    """The second is zero, or twice, or minus, the first."""
    off, own = second
    model = Quadratic((-1.0, -off / 3), (3.0, off, own), (0.0, 0.0, 0.0), 0.0)
    assert by_model(model, 1.0, 9.0) == pytest.approx((1 / 3, 0.0))


def test_where_nothing_is_seen_along_the_direction_nothing_moves():
    assert by_model(Quadratic((-1.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), 0.0), 1.0, 1.0) == (0.0, 0.0)


def test_a_step_is_clipped_to_a_divergence_and_to_what_f_can_fall():
    model = Quadratic((-4.0, -1.0), (2.0, 0.5, 1.0), (1.0, 0.0, 1.0), 0.1)
    step = by_model(model, 1.0, 9.0)
    assert clipped(model, step, 0.0, 1e9) == step == clipped(model, step, 1e9, 1e9)
    assert model.divergence(*clipped(model, step, 0.3, 1e9)) == pytest.approx(0.3)
    assert -model.at(*clipped(model, step, 0.0, 0.2)) == pytest.approx(0.2)
    assert clipped(model, step, 0.0, -1.0) == step  # of an f below zero nothing is known


def test_of_several_dampings_the_one_that_promises_most_is_taken():
    net = network(3, 4, 2)
    f = net.on(Batch(drawn(5, 3), drawn(5, 2)))
    _, g = value_and_gradient(f, net.theta)
    outputs, before = outputs_at(f, net.theta), torch.zeros_like(g)
    ways = {1.0: drawn(len(g)), 2.0: -g, 3.0: torch.full_like(g, math.nan)}
    found = best(outputs, g, before, 0.1, ways.get, list(ways), lambda model: by_model(model, 1.0, 1.0), alone)
    assert found.gamma == 2.0 and torch.nn.functional.cosine_similarity(found.delta, -g, dim=0) > 1 - 1e-9
    curvature = float(g @ gauss_newton_at(f, net.theta)(g)) + 0.1 * float(g @ g)
    assert found.promised == pytest.approx(float(g @ g) ** 2 / curvature / 2)


# The rule


def test_by_lr_it_is_the_damped_inverse_times_the_gradient_and_momentum():
    net, batch = network(3, 4, 2), Batch(drawn(6, 3), drawn(6, 2))
    rule, knobs = kfac_with(step=by_lr), {"lr": 0.1, "momentum": 0.9, "samples": 0.0, "adapt_every": 0.0}
    memory, expected = None, torch.zeros_like(net.theta)
    for t in range(3):
        _, g = value_and_gradient(net.on(batch), net.theta)
        delta, memory = stepped(rule, net, batch, memory, **knobs, estimate_every=100.0, every=100.0)
        if t == 0:
            found = evaluated(net.on(batch), net.theta, refuse, 2048, 0, 0, 0)
            blocks, made = [layer.block for layer in found.layers], inverses(factors(found), memory["strength"])
        expected = 0.9 * expected - 0.1 * solved(blocks, made, g, memory["strength"])
        close(delta, expected)
        net.theta.add_(delta)


def test_a_linear_layer_and_squares_are_solved_in_one_step():
    net = network(3, 2)
    batch = Batch(drawn(20, 3), drawn(20, 2))
    delta, _ = stepped(kfac, net, batch, damping=0.0, samples=0.0)
    x = torch.cat([batch.inputs, torch.ones(20, 1, dtype=DOUBLE)], dim=1)
    best = torch.linalg.lstsq(x, batch.targets).solution
    close(net.theta + delta, torch.cat([best[:3].T.reshape(-1), best[3]]), rtol=1e-6)


def test_on_a_deep_linear_network_it_is_block_diagonal_gauss_newton():
    net, batch = network(3, 4, 2, act=nn.Identity), Batch(drawn(20, 3), drawn(20, 2))
    f = net.on(batch)
    product = gauss_newton_at(f, net.theta)
    whole = torch.stack([product(e) for e in torch.eye(len(net.theta), dtype=DOUBLE)])
    whole[:16, 16:] = whole[16:, :16] = 0
    _, g = value_and_gradient(f, net.theta)
    delta, _ = stepped(kfac_with(step=by_lr), net, batch, damping=0.0, samples=0.0, adapt_every=0.0)
    torch.testing.assert_close(whole @ delta, -g, rtol=1e-6, atol=1e-8)


def test_a_multiple_of_the_loss_changes_no_step():
    """The sum is one of the mean."""
    ends = []
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")):
        net = network(3, 4, 3, loss=loss)
        trained(kfac, net, [Batch(drawn(12, 3), classes(12))] * 10)
        ends.append(net.theta)
    close(*ends, rtol=1e-6)


def test_adaptive_damping_goes_down_where_the_model_is_right_and_up_where_it_is_not():
    easy, batch = network(3, 2), Batch(drawn(20, 3), drawn(20, 2))
    memory = trained(kfac, easy, [batch] * 5, adapt_every=5.0, omega=0.9)
    assert memory["strength"] == pytest.approx(0.9**5 * memory["initial"])

    class Jumping(nn.Module):
        """What it answers jumps where its parameter moves."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False).double()
            nn.init.ones_(self.layer.weight)

        def forward(self, x):
            return self.layer(x) + 5 * (self.layer.weight.detach() - 1).abs().ceil()

    hard = Batch(torch.ones(2, 1, dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE))
    _, memory = stepped(kfac, Network(Jumping(), F.mse_loss), hard, adapt_every=1.0, omega=0.9)
    assert memory["strength"] == pytest.approx(memory["initial"] / 0.9)


def test_the_first_damping_is_relative_to_the_curvature_along_the_gradient_and_has_a_least():
    net, batch = network(3, 4, 2), Batch(drawn(20, 3), drawn(20, 2))
    f = net.on(batch)
    _, g = value_and_gradient(f, net.theta)
    along = float(g @ gauss_newton_at(f, net.theta)(g) / (g @ g))
    memory = trained(kfac, net, [batch] * 40, damping=0.5, adapt_every=1.0, omega=0.5, least=1e-3)
    assert memory["initial"] == pytest.approx(0.5 * along) and memory["strength"] >= 1e-3 * memory["initial"]


def test_gamma_is_chosen_by_the_model_between_the_strengths_of_now_and_of_the_beginning():
    net, batch = network(3, 8, 2), Batch(drawn(20, 3), drawn(20, 2))
    memory, seen = None, []
    for _ in range(45):
        memory = trained(kfac, net, [batch], memory, omega=0.8)
        seen.append(memory["gamma"])
        assert memory["gamma"] <= memory["initial"] ** 0.5 * (1 + 1e-12)
    assert len(set(seen[2:20])) == 1 and len(set(seen)) > 1  # tried in the first three steps, then every twenty


def test_without_adaptation_both_stay():
    net, batch = network(3, 4, 2), Batch(drawn(20, 3), drawn(20, 2))
    memory = trained(kfac, net, [batch] * 25, adapt_every=0.0)
    assert memory["strength"] == memory["initial"] and memory["gamma"] == memory["initial"] ** 0.5


def test_weight_decay_is_a_penalty_on_f():
    """The minimum of a linear model's squares and its penalty."""
    net, batch, decay = network(3, 1), Batch(drawn(20, 3), drawn(20, 1)), 0.3
    trained(kfac, net, [batch] * 60, weight_decay=decay, samples=0.0)
    x = torch.cat([batch.inputs, torch.ones(20, 1, dtype=DOUBLE)], dim=1)
    best = torch.linalg.solve(2 / 20 * x.T @ x + decay * EYE[:4, :4], 2 / 20 * x.T @ batch.targets)
    close(net.theta, best[:, 0], rtol=1e-5)


def test_with_weight_decay_the_step_is_as_long_as_the_penalised_f_falls():
    net, batch, decay = network(3, 2), Batch(drawn(20, 3), drawn(20, 2)), 0.3
    delta, _ = stepped(kfac, net, batch, weight_decay=decay, damping=0.0)
    _, g = value_and_gradient(net.on(batch), net.theta + delta)
    after = g + decay * (net.theta + delta)
    assert abs(float(after @ delta)) < 1e-9 * float(after.norm() * delta.norm())
    penalised = Objective(net.on(batch), decay, alone)(net.theta)
    assert penalised == pytest.approx(float(net.f(net.theta, batch)) + decay / 2 * float(net.theta @ net.theta))


def test_estimates_and_inverses_are_new_every_so_many_steps():
    net = network(3, 4, 2)
    memory, statistics, made = None, [], []
    for t in range(13):
        batch = Batch(drawn(9, 3, seed=t), drawn(9, 2, seed=t))
        memory = trained(kfac, net, [batch], memory, every=6.0, estimate_every=3.0, adapt_every=0.0)
        statistics.append(memory["statistics"])
        made.append(memory["kept"])
    assert [t for t in range(1, 13) if not torch.equal(statistics[t], statistics[t - 1])] == [3, 6, 9, 12]
    assert [t for t in range(1, 13) if not torch.equal(made[t], made[t - 1])] == [6, 12]


def test_estimates_are_first_a_mean_then_one_that_fades():
    net = network(3, 4, 2)
    batches = [Batch(drawn(9, 3, seed=t), drawn(9, 2, seed=t)) for t in range(4)]
    each = [stepped(kfac, net, batch, samples=0.0)[1]["statistics"] for batch in batches]
    memory = None
    for batch in batches:
        _, memory = stepped(kfac, net, batch, memory, samples=0.0, decay=0.6)
    close(memory["statistics"], 0.6 * (0.6 * (each[0] + each[1]) / 2 + 0.4 * each[2]) + 0.4 * each[3])


def test_in_the_burn_in_nothing_moves_and_every_batch_is_estimated():
    net, batch = network(3, 4, 2), Batch(drawn(9, 3), drawn(9, 2))
    before, memory = net.theta.clone(), None
    for t in range(3):
        last = memory
        memory = trained(kfac, net, [batch], memory, burn_in=3.0, estimate_every=5.0)
        assert torch.equal(net.theta, before)
        assert t == 0 or not torch.equal(memory["statistics"], last["statistics"])
    trained(kfac, net, [batch], memory, burn_in=3.0)
    assert not torch.equal(net.theta, before)


def test_a_part_of_the_batch_may_do_for_the_curvature():
    net, batch = network(3, 4, 2), Batch(drawn(32, 3), drawn(32, 2))
    whole, part = (stepped(kfac, net, batch, samples=0.0, share=share)[1] for share in (1.0, 0.5))
    assert not torch.equal(whole["statistics"], part["statistics"])
    losses = [step.loss for step in descend(net, kfac, [batch] * 30, share=0.5)]
    assert losses[-1] < 0.7 * losses[0]


class Sometimes(nn.Module):
    """A layer that a batch reaches or does not."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(3, 3).double() for _ in range(3))
        self.deep = True

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.middle(h)) if self.deep else h)


@both
def test_a_layer_that_a_batch_does_not_reach_keeps_its_factors(rule):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Network(Sometimes(), F.mse_loss)
    batch, memory, kept = Batch(drawn(9, 3), drawn(9, 3)), None, []
    for deep in (False, True, False):
        net.module.deep = deep
        delta, memory = stepped(rule, net, batch, memory, samples=0.0, decay=0.5, momentum=0.0)
        kept.append((blocks_of(memory["layout"]), memory["statistics"]))
        assert bool(delta[12:24].any()) == deep
    assert [[block.at for block in blocks] for blocks, _ in kept] == [[0, 24], [0, 12, 24], [0, 12, 24]]
    then, now = (cut(statistics, blocks) for blocks, statistics in kept[1:])
    assert torch.equal(then[1][0], now[1][0]) and torch.equal(then[1][1], now[1][1])
    assert not torch.equal(then[0][0], now[0][0])


@both
def test_saved_and_resumed_it_goes_on_bit_for_bit(rule):
    batches = [Batch(drawn(9, 3, seed=t), classes(9, seed=t)) for t in range(12)]
    whole, half = (network(3, 4, 3, loss=F.cross_entropy) for _ in range(2))
    trained(rule, whole, batches)
    memory = trained(rule, half, batches[:7])
    tensors = load(save({n: v for n, v in memory.items() if isinstance(v, torch.Tensor)}))
    numbers = json.loads(json.dumps({n: v for n, v in memory.items() if n not in tensors}, allow_nan=False))
    trained(rule, half, batches[7:], {n: (tensors | numbers)[n] for n in rule.remembers})
    assert torch.equal(whole.theta, half.theta)


def test_what_is_not_finite_changes_nothing():
    net, batch = network(3, 4, 2), Batch(drawn(9, 3), drawn(9, 2))
    memory = trained(kfac, net, [batch])
    delta, after = stepped(kfac, net, Batch(torch.full((9, 3), math.inf, dtype=DOUBLE), drawn(9, 2)), memory)
    assert not delta.any() and after["status"] == Status.NOT_FINITE
    assert all(after[n] is memory[n] for n in ("statistics", "kept", "before")) and after["t"] == 1


def test_at_a_minimum_it_has_converged():
    net, x = network(3, 2), drawn(9, 3)
    delta, memory = stepped(kfac, net, Batch(x, net.module(x).detach()))
    assert not delta.any() and memory["status"] == Status.CONVERGED
    memory = trained(kfac, net, [Batch(x, drawn(9, 2))] * 30, samples=0.0)
    assert memory["status"] == Status.CONVERGED


@both
def test_examples_fitted_perfectly_do_not_make_it_explode(rule):
    """In float32, where the curvature vanishes and rounding is all that is left of the gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Network(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)), F.cross_entropy)
    x, y = drawn(64, 8).float(), classes(64)
    orders = [torch.randperm(64, generator=torch.Generator().manual_seed(t)) for t in range(200)]
    losses = [step.loss for step in descend(net, rule, [Batch(x[some[:48]], y[some[:48]]) for some in orders])]
    assert min(losses) < 1e-6 and max(losses[100:]) < 0.1


def test_parameters_without_factors_are_refused_or_treated_as_chosen():
    class Positioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.position, self.last = nn.Parameter(torch.zeros(3)), nn.Linear(3, 2)

        def forward(self, x):
            return self.last(torch.tanh(x + self.position))

    batch = Batch(drawn(20, 3), drawn(20, 2))
    net = Network(Positioned().double(), F.mse_loss)
    with pytest.raises(CurvatureError, match="the parameter position, used by add"):
        stepped(kfac, net, batch)
    losses = [step.loss for step in descend(net, kfac_with(others=diagonal), [batch] * 30)]
    assert losses[-1] < losses[0] and net.theta[:3].abs().min() > 0


def test_it_asks_for_a_likelihood():
    with pytest.raises(CurvatureError, match="f says huber_loss"):
        stepped(kfac, network(3, 2, loss=F.huber_loss), Batch(drawn(9, 3), drawn(9, 2)))


# Several processes


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Where one process and two of them ended."""
    program, folder = Path(__file__).parent / "kfac_processes.py", tmp_path_factory.mktemp("processes")
    running = [subprocess.Popen([sys.executable, program, str(rank), folder]) for rank in range(2)]
    alone = runpy.run_path(str(program))["ended"](0, 1)
    assert [one.wait(timeout=300) for one in running] == [0, 0]
    return [alone, *(torch.load(folder / f"{rank}.pt") for rank in range(2))]


@both
def test_two_processes_with_half_a_batch_each_are_one_with_the_whole(rule, processes):
    whole, first, second = (one[rule.name] for one in processes)
    assert torch.equal(first, second)
    close(first, whole, rtol=1e-6)


def test_processes_that_reach_different_layers_are_told():
    def of_others_too(x):
        return x + torch.arange(len(x), dtype=x.dtype)[:, None] if x.shape == (2, 2) else x

    f = network(3, 2).on(Batch(drawn(9, 3), drawn(9, 2)))
    choices, how = Choices(average=of_others_too), {"samples": 1.0, "max_dim": 2048.0, "t": 0, "seed": 0.0}
    with pytest.raises(AlgorithmError, match="reach different layers"):
        estimate(f, f.network.theta, (None, None), choices, due=True, fading=0.0, **how)


# Against first order


@both
def test_on_the_digits_it_needs_fewer_steps_than_tuned_sgd_and_adam(rule):
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def after(rule, **knobs):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Network(nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)), F.cross_entropy)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        batches = [Batch(x[order[i : i + 128]], y[order[i : i + 128]]) for _ in range(3) for i in range(0, 1792, 128)]
        for _ in descend(net, rule, batches, **knobs):
            pass
        return float(net.f(net.theta, Batch(x, y)).detach())

    adams = min(after(thalweg.adam, lr=lr) for lr in (3e-3, 1e-2, 3e-2, 1e-1))
    nesterovs = min(after(thalweg.nesterov, lr=lr, momentum=0.9) for lr in (3e-2, 1e-1, 3e-1, 1.0))
    assert after(rule) < 0.8 * min(adams, nesterovs)
