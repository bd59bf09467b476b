import numpy as np
import pytest
import torch

from thalweg.modern.schedule_free_adamw import schedule_free_adamw
from thalweg.modern.schedule_free_sgd import schedule_free_sgd

RULES = [schedule_free_sgd, schedule_free_adamw]
GRADIENTS = np.random.default_rng(0).standard_normal((25, 5))
START = np.random.default_rng(1).standard_normal(5)

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def walk(rule, gradients=GRADIENTS, lrs=None, **knobs):
    """theta and the answer after each step, (steps, 2, n)."""
    theta, knobs = torch.from_numpy(START.copy()), rule.with_defaults(knobs)
    memory, seen = rule.start(theta, **knobs), []
    for t, g in enumerate(gradients):
        now = {**knobs, "lr": knobs["lr"] if lrs is None else lrs[t]}
        delta, memory = rule.step({"g": torch.as_tensor(g), "theta": theta}, memory, now)
        theta = theta + delta
        seen.append(torch.stack([theta, rule.answer(theta, memory, knobs)]))
    return torch.stack(seen).numpy()


def same(mine, expected):
    np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("warmup", [0, 10, 100])
def test_schedule_free_sgd_is_the_papers_three_sequences(warmup):
    gamma, beta = 0.3, 0.8
    x, z, weights, expected = START, START, [], []
    for t, g in enumerate(GRADIENTS, 1):  # taken at y
        gamma_t = gamma * min(1, t / warmup) if warmup else gamma
        z = z - gamma_t * g
        weights.append(gamma_t**2)
        c = weights[-1] / sum(weights)
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        expected.append([y, x])
    same(walk(schedule_free_sgd, lr=gamma, momentum=beta, warmup_steps=warmup), expected)


@pytest.mark.parametrize("warmup", [0, 10])
def test_schedule_free_adamw_is_the_papers_algorithm_1(warmup):
    gamma, lam, beta1, beta2, eps = 0.3, 0.2, 0.8, 0.9, 0.01
    x, y, z, v, weights, expected = START, START, START, np.zeros(5), [], []
    for t, g in enumerate(GRADIENTS, 1):  # taken at y
        v = beta2 * v + (1 - beta2) * g**2
        v_hat = v / (1 - beta2**t)
        gamma_t = gamma * min(1, t / warmup) if warmup else gamma
        z = z - gamma_t * g / (np.sqrt(v_hat) + eps) - gamma_t * lam * y
        weights.append(gamma_t**2)
        c = weights[-1] / sum(weights)
        x = (1 - c) * x + c * z
        y = (1 - beta1) * z + beta1 * x
        expected.append([y, x])
    knobs = {"lr": gamma, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": lam, "warmup_steps": warmup}
    same(walk(schedule_free_adamw, **knobs), expected)


@every_rule
def test_the_answer_of_a_constant_lr_is_the_mean_of_z(rule):
    theta, memory, zs = torch.from_numpy(START.copy()), None, []
    memory = rule.start(theta, **rule.knobs)
    for g in GRADIENTS:
        delta, memory = rule.step({"g": torch.as_tensor(g), "theta": theta}, memory, rule.knobs)
        theta = theta + delta
        zs.append(memory["z"])
    same(rule.answer(theta, memory).numpy(), torch.stack(zs).mean(dim=0).numpy())


@every_rule
def test_after_lr_has_fallen_a_step_counts_as_at_the_largest_lr(rule):
    """As in the authors' code; the paper's gamma_t**2 would nearly forget the last steps."""
    theta = torch.from_numpy(START.copy())
    memory = rule.start(theta)
    weights = []
    for g, lr in zip(GRADIENTS, [0.1, 0.4, *[0.01] * 23], strict=True):
        before = memory["weight_sum"]
        _, memory = rule.step({"g": torch.as_tensor(g), "theta": theta}, memory, {**rule.knobs, "lr": lr})
        weights.append(memory["weight_sum"] - before)
    assert weights == pytest.approx([0.01, *[0.16] * 24])


@every_rule
def test_before_a_step_the_answer_is_theta(rule):
    theta = torch.from_numpy(START.copy())
    assert torch.equal(rule.answer(theta, rule.start(theta)), theta)


@every_rule
def test_steps_with_an_lr_of_zero_move_nothing(rule):
    same(walk(rule, lrs=[0.0] * 25), np.tile(START, (25, 2, 1)))


@every_rule
def test_a_run_may_start_with_an_lr_of_zero(rule):
    rest = walk(rule, lrs=[0.0, *[0.1] * 24])
    assert np.isfinite(rest).all() and not np.allclose(rest[-1, 0], START)


def test_the_answer_of_a_noisy_quadratic_is_nearer_its_minimum_than_where_gradients_are_taken():
    noise = np.random.default_rng(2)
    theta = torch.from_numpy(START.copy())
    memory, means = schedule_free_sgd.start(theta), []
    for _ in range(500):
        g = theta + torch.as_tensor(noise.standard_normal(5))
        delta, memory = schedule_free_sgd.step({"g": g, "theta": theta}, memory, schedule_free_sgd.knobs)
        theta = theta + delta
        means.append(torch.stack([theta, schedule_free_sgd.answer(theta, memory)]).norm(dim=1))
    at_theta, at_answer = torch.stack(means)[-100:].mean(dim=0)
    assert at_answer < 0.7 * at_theta
