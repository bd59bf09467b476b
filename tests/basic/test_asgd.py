import numpy as np
import pytest
import torch

from thalweg.basic.asgd import asgd
from thalweg.basic.sgd import sgd
from thalweg.strategies.averaging import averaged

DOUBLE = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def walk(rule, gradients, lrs=None, **knobs):
    """theta and the answer after each step, (steps, 2, n)."""
    theta, knobs = drawn(gradients.shape[1], seed=1), rule.with_defaults(knobs)
    memory, seen = rule.start(theta, **knobs), []
    for t, g in enumerate(gradients):
        now = {**knobs, "lr": knobs["lr"] if lrs is None else lrs[t]}
        delta, memory = rule.step({"g": g, "theta": theta}, memory, now)
        theta = theta + delta
        seen.append(torch.stack([theta, rule.answer(theta, memory)]))
    return torch.stack(seen)


@pytest.fixture
def _double():
    torch.set_default_dtype(DOUBLE)  # in which torch's ASGD keeps eta and mu
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("t0", [1e6, 6, 0])
def test_theta_and_its_mean_are_torchs_also_under_a_schedule(t0):
    knobs = {"lambd": 0.03, "alpha": 0.6, "t0": t0}
    gradients, lrs = drawn(20, 5), [0.3 * 0.9**t for t in range(20)]
    parameter = torch.nn.Parameter(drawn(5, seed=1))
    optimizer = torch.optim.ASGD([parameter], lr=lrs[0], foreach=False, **knobs)
    seen = []
    for g, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = g.clone()
        optimizer.step()
        seen.append(torch.stack([parameter.detach(), optimizer.state[parameter]["ax"]]).clone())
    mine = walk(asgd, gradients, lrs, lr=lrs[0], **knobs)
    assert (mine - torch.stack(seen)).abs().max() <= 1e-9


def test_it_is_the_recursion_of_the_paper_with_the_steps_of_torch():
    gradients, lr, lambd, alpha, t0 = drawn(25, 3).numpy(), 0.2, 0.05, 0.7, 4
    theta, ax, expected = drawn(3, seed=1).numpy(), np.zeros(3), []
    for t, g in enumerate(gradients, 1):
        eta = lr / (1 + lambd * lr * (t - 1)) ** alpha
        mu = 1 / max(1, t - 1 - t0)
        theta = (1 - lambd * eta) * theta - eta * g
        ax = ax + mu * (theta - ax)
        expected.append([theta, ax])
    mine = walk(asgd, torch.from_numpy(gradients), lr=lr, lambd=lambd, alpha=alpha, t0=t0)
    np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-14)


def test_without_lambd_and_with_t0_before_the_first_step_it_is_polyaks_mean_of_sgd():
    gradients = drawn(12, 4)
    averages = walk(asgd, gradients, lambd=0.0, t0=-1.0)
    torch.testing.assert_close(averages, walk(averaged(sgd), gradients), rtol=1e-12, atol=1e-12)


def test_the_mean_is_of_the_steps_after_the_first_t0_and_one_more():
    thetas, answers = walk(asgd, drawn(12, 4), t0=3).unbind(1)
    assert torch.equal(answers[:5], thetas[:5])
    for t in range(5, 13):
        torch.testing.assert_close(answers[t - 1], thetas[4:t].mean(dim=0))


def test_before_a_step_the_answer_is_theta():
    theta = drawn(4)
    assert torch.equal(asgd.answer(theta, asgd.start(theta)), theta)


def test_until_the_mean_begins_it_is_theta_exactly_whatever_it_was():
    delta, *_, ax = asgd(1.0, 1.0, 0, 0.25, 1.0, 1e20, lambd=0.0)
    assert ax == 1.0 + delta == 0.75
