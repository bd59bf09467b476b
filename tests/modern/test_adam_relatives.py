"""Adan, AdaBelief, Adam-atan2, AdEMAMix and ADOPT, against the lines of their papers in float64."""

import math

import numpy as np
import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.modern.adabelief import adabelief
from thalweg.modern.adam_atan2 import adam_atan2
from thalweg.modern.adan import adan
from thalweg.modern.ademamix import ademamix
from thalweg.modern.adopt import adopt

GRADIENTS = np.random.default_rng(0).standard_normal((25, 5))
LR = 0.1


def walk(rule, gradients=GRADIENTS, **knobs):
    """theta after each step from 0, (steps, n)."""
    gradients = torch.from_numpy(gradients)
    theta, knobs = torch.zeros_like(gradients[0]), rule.with_defaults(knobs)
    memory, seen = rule.start(theta, **knobs), []
    for g in gradients:
        delta, memory = rule.step({"g": g, "theta": theta}, memory, knobs)
        theta = theta + delta
        seen.append(theta)
    return torch.stack(seen).numpy()


def same(mine, expected):
    np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-12)


def zeros(count):
    return [np.zeros(5) for _ in range(count)]


# Adan


def test_adan_is_algorithm_1_with_the_betas_of_implementations_and_corrected_moments():
    beta1, beta2, beta3, eps = 0.1, 0.3, 0.2, 0.01  # the paper's
    theta, m, v, n = zeros(4)
    expected, before = [], GRADIENTS[0]
    for k, g in enumerate(GRADIENTS, 1):
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * (g - before)
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * (g - before)) ** 2
        m_k, v_k, n_k = (moment / (1 - (1 - beta) ** k) for moment, beta in ((m, beta1), (v, beta2), (n, beta3)))
        eta = LR / (np.sqrt(n_k) + eps)
        theta = theta - eta * (m_k + (1 - beta2) * v_k)
        before = g
        expected.append(theta)
    same(walk(adan, lr=LR, beta1=1 - beta1, beta2=1 - beta2, beta3=1 - beta3, eps=eps), expected)


def test_adan_started_at_the_first_gradient_as_in_algorithm_1_is_another_trajectory():
    """Only the first step is shared."""
    theta, v, (m, n) = np.zeros(5), np.zeros(5), (GRADIENTS[0], GRADIENTS[0] ** 2)
    expected, before = [], GRADIENTS[0]
    for g in GRADIENTS:
        m = 0.98 * m + 0.02 * g
        v = 0.92 * v + 0.08 * (g - before)
        n = 0.99 * n + 0.01 * (g + 0.92 * (g - before)) ** 2
        theta = theta - LR / (np.sqrt(n) + 1e-8) * (m + 0.92 * v)
        before = g
        expected.append(theta)
    mine = walk(adan, lr=LR)
    same(mine[0], expected[0])
    assert np.abs(mine - expected).max() > 0.1


def test_adan_under_a_constant_gradient_steps_by_lr():
    same(walk(adan, np.full((9, 5), -7.0), lr=LR, eps=0.0)[:, 0], LR * np.arange(1, 10))


# AdaBelief


def test_adabelief_is_algorithm_2_of_the_paper():
    beta1, beta2, eps = 0.8, 0.9, 1e-3
    theta, m, s = zeros(3)
    expected = []
    for t, g in enumerate(GRADIENTS, 1):
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m) ** 2 + eps
        m_hat = m / (1 - beta1**t)
        s_hat = s / (1 - beta2**t)
        theta = theta - LR * m_hat / (np.sqrt(s_hat) + eps)
        expected.append(theta)
    same(walk(adabelief, lr=LR, beta1=beta1, beta2=beta2, eps=eps), expected)


def test_adabelief_gathers_eps_in_s():
    s = 0.0
    for t in range(400):
        _, _, s, _ = adabelief(0.0, 0.0, s, t, beta2=0.9, eps=1e-4)
    assert s == pytest.approx(1e-4 / (1 - 0.9))


def test_adabelief_takes_longer_steps_where_gradients_are_as_foretold():
    steady, wild = np.full((30, 5), 1.0), np.tile([[1.0] * 5, [-1.0] * 5], (15, 1))
    trusting, careful = ([walk(rule, g, beta2=0.9)[-1, 0] for rule in (adabelief, adam)] for g in (steady, wild))
    assert abs(trusting[0]) > 2 * abs(trusting[1]) and abs(careful[0]) == pytest.approx(abs(careful[1]), rel=0.1)


# Adam-atan2


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.27, 0.5)])
def test_adam_atan2_is_adam_with_the_angle_in_the_place_of_the_quotient(a, b):
    beta1, beta2 = 0.8, 0.9
    theta, m, v = zeros(3)
    expected = []
    for t, g in enumerate(GRADIENTS, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta = theta - LR * a * np.arctan2(m_hat, b * np.sqrt(v_hat))
        expected.append(theta)
    same(walk(adam_atan2, lr=LR, beta1=beta1, beta2=beta2, a=a, b=b), expected)


def test_adam_atan2_does_not_see_the_scale_of_the_gradients_even_where_eps_would_rule():
    same(walk(adam_atan2, 1e-60 * GRADIENTS), walk(adam_atan2))
    assert not walk(adam_atan2, 0 * GRADIENTS).any()


def test_adam_atan2_with_a_of_four_over_pi_is_adam_under_a_constant_gradient():
    constant = np.full((20, 5), 3.0)
    same(walk(adam_atan2, constant, a=4 / math.pi), walk(adam, constant, eps=0.0))
    same(walk(adam_atan2, constant), math.pi / 4 * walk(adam, constant, eps=0.0))


# AdEMAMix


def ademamix_of_the_paper(alpha_end, beta3_end, length, beta1=0.8, beta2=0.9, eps=0.01):
    theta, m1, m2, v = zeros(4)
    expected = []
    for t, g in enumerate(GRADIENTS, 1):
        if length and t < length:
            alpha = min(t * alpha_end / length, alpha_end)
            logs = math.log(beta1), math.log(beta3_end)
            beta3 = min(math.exp(math.prod(logs) / ((1 - t / length) * logs[1] + t / length * logs[0])), beta3_end)
        else:
            alpha, beta3 = alpha_end, beta3_end
        m1 = beta1 * m1 + (1 - beta1) * g
        m2 = beta3 * m2 + (1 - beta3) * g
        v = beta2 * v + (1 - beta2) * g**2
        m1_hat = m1 / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        theta = theta - LR * (m1_hat + alpha * m2) / (np.sqrt(v_hat) + eps)
        expected.append(theta)
    return expected


@pytest.mark.parametrize("length", [0, 10, 100], ids=["off", "over", "under way"])
def test_ademamix_is_algorithm_1_of_the_paper_with_its_schedules(length):
    mine = walk(ademamix, lr=LR, beta1=0.8, beta2=0.9, beta3=0.99, alpha=3.0, warmup_steps=length, eps=0.01)
    same(mine, ademamix_of_the_paper(3.0, 0.99, length))


def test_ademamix_without_its_slow_moment_is_adam():
    same(walk(ademamix, alpha=0.0), walk(adam))


def test_ademamix_can_warm_up_without_a_first_moment():
    assert np.isfinite(walk(ademamix, beta1=0.0, warmup_steps=10)).all()


# ADOPT


@pytest.mark.parametrize("clipped", [True, False])
def test_adopt_is_the_papers_algorithm_clipped_or_with_a_huge_clip_not(clipped):
    beta1, beta2, eps = 0.8, 0.9, 1e-6
    first, *others = GRADIENTS
    theta, m, v = np.zeros(5), np.zeros(5), first**2
    expected = [theta]
    for t, g in enumerate(others, 1):
        scaled = g / np.maximum(np.sqrt(v), eps)
        if clipped:
            scaled = np.clip(scaled, -(t**0.25), t**0.25)
        m = beta1 * m + (1 - beta1) * scaled
        theta = theta - LR * m
        v = beta2 * v + (1 - beta2) * g**2
        expected.append(theta)
    same(walk(adopt, lr=LR, beta1=beta1, beta2=beta2, eps=eps, clip=1.0 if clipped else 1e30), expected)


def test_adopts_clip_matters_after_a_small_first_gradient():
    gradients = np.vstack([np.full((1, 5), 1e-9), GRADIENTS])
    clipped, unclipped = walk(adopt, gradients), walk(adopt, gradients, clip=1e30)
    assert np.abs(clipped).max() < 0.1 < np.abs(unclipped).max()


def test_adopts_first_step_moves_nothing_and_starts_v_at_the_squared_gradient():
    assert adopt(3.0, 0.0, 0.0, 0) == (0.0, 0.0, 9.0, 1)
