"""AMSGrad, AdaMax, NAdam and RAdam, against their papers' lines."""

import math

import numpy as np
import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.adaptive.adamax import adamax
from thalweg.adaptive.amsgrad import amsgrad
from thalweg.adaptive.nadam import nadam
from thalweg.adaptive.radam import radam

GRADIENTS = np.random.default_rng(0).standard_normal((25, 4))
ALPHA, BETA1, BETA2, EPS = 0.1, 0.8, 0.9, 0.02
KNOBS = {"beta1": BETA1, "beta2": BETA2}


def walk(rule, gradients=GRADIENTS, schedule=None, **knobs):
    """theta after each step from 0, (steps, n); `schedule` gives lr in step t, counted from 1."""
    gradients = torch.from_numpy(gradients)
    theta, knobs = torch.zeros_like(gradients[0]), rule.with_defaults(knobs)
    memory, seen = rule.start(theta, **knobs), []
    for t, g in enumerate(gradients, 1):
        now = {**knobs, "lr": schedule(t)} if schedule else knobs
        delta, memory = rule.step({"g": g, "theta": theta}, memory, now)
        theta = theta + delta
        seen.append(theta)
    return torch.stack(seen).numpy()


# AMSGrad


def test_amsgrad_takes_the_largest_second_moment_before_it_corrects_the_bias():
    theta, m, v, v_max, expected = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4), []
    for t, g in enumerate(GRADIENTS, 1):
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        v_max = np.maximum(v_max, v)
        theta = theta - ALPHA * m / (1 - BETA1**t) / (np.sqrt(v_max / (1 - BETA2**t)) + EPS)
        expected.append(theta)
    np.testing.assert_allclose(walk(amsgrad, lr=ALPHA, eps=EPS, **KNOBS), expected, rtol=1e-12)


def test_amsgrad_without_bias_correction_is_a_schedule_of_lr():
    theta, m, v, v_hat, expected = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4), []
    for g in GRADIENTS:
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        v_hat = np.maximum(v_hat, v)
        theta = theta - ALPHA * m / np.sqrt(v_hat)
        expected.append(theta)
    schedule = lambda t: ALPHA * (1 - BETA1**t) / math.sqrt(1 - BETA2**t)  # noqa: E731
    np.testing.assert_allclose(walk(amsgrad, schedule=schedule, eps=0.0, **KNOBS), expected, rtol=1e-12)


def test_amsgrad_is_adam_while_the_second_moment_grows_and_remembers_when_it_falls():
    growing = np.arange(1.0, 10.0)[:, None]
    np.testing.assert_array_equal(walk(amsgrad, growing), walk(adam, growing))
    falling = np.array([[100.0]] + [[1.0]] * 50)
    last = [np.diff(walk(rule, falling, beta2=0.9), axis=0)[-1, 0] for rule in (amsgrad, adam)]
    assert abs(last[0]) < 0.1 * abs(last[1])


# AdaMax


@pytest.mark.parametrize("eps", [0.0, EPS])
def test_adamax_is_algorithm_2_of_the_paper_with_eps_added_to_the_gradients_size(eps):
    theta, m, u, expected = np.zeros(4), np.zeros(4), np.zeros(4), []
    for t, g in enumerate(GRADIENTS, 1):
        m = BETA1 * m + (1 - BETA1) * g
        u = np.maximum(BETA2 * u, np.abs(g) + eps)
        theta = theta - (ALPHA / (1 - BETA1**t)) * m / u
        expected.append(theta)
    np.testing.assert_allclose(walk(adamax, lr=ALPHA, eps=eps, **KNOBS), expected, rtol=1e-12)


# NAdam


def warming(t, decay):
    return BETA1 * (1 - 0.5 * 0.96 ** (t * decay))


@pytest.mark.parametrize(
    ("momentum_decay", "mu"),
    [(0.04, lambda t: warming(t, 0.04)), (1.0, lambda t: warming(t, 1)), (1e9, lambda t: BETA1)],
    ids=["as in the paper", "as in Keras", "without warm-up"],
)
def test_nadam_follows_its_momentum(momentum_decay, mu):
    theta, m, v, product, expected = np.zeros(4), np.zeros(4), np.zeros(4), 1.0, []
    for t, g in enumerate(GRADIENTS, 1):
        product = product * mu(t)
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        m_hat = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        theta = theta - ALPHA * m_hat / (np.sqrt(v / (1 - BETA2**t)) + EPS)
        expected.append(theta)
    mine = walk(nadam, lr=ALPHA, eps=EPS, momentum_decay=momentum_decay, **KNOBS)
    np.testing.assert_allclose(mine, expected, rtol=1e-12)


# RAdam


def rectified(threshold, beta2):
    """Algorithm 2 of the paper, which has 4 for the threshold and no eps."""
    theta, m, v, expected = np.zeros(4), np.zeros(4), np.zeros(4), []
    rho_inf = 2 / (1 - beta2) - 1
    for t, g in enumerate(GRADIENTS, 1):
        v = beta2 * v + (1 - beta2) * g**2
        m = BETA1 * m + (1 - BETA1) * g
        m_hat = m / (1 - BETA1**t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > threshold:
            length = np.sqrt((1 - beta2**t) / v)
            r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            theta = theta - ALPHA * r * m_hat * length
        else:
            theta = theta - ALPHA * m_hat
        expected.append(theta)
    return np.array(expected)


@pytest.mark.parametrize("threshold", [4.0, 5.0])
@pytest.mark.parametrize("beta2", [0.64, 0.9, 0.999])
def test_radam_is_algorithm_2_of_the_paper_with_its_threshold_or_torchs(threshold, beta2):
    mine = walk(radam, lr=ALPHA, beta1=BETA1, beta2=beta2, eps=0.0, threshold=threshold)
    np.testing.assert_allclose(mine, rectified(threshold, beta2), rtol=1e-12)


def test_the_two_thresholds_of_radam_differ_by_a_step_that_one_of_them_rectifies():
    assert not np.allclose(rectified(4.0, 0.9), rectified(5.0, 0.9))
    np.testing.assert_array_equal(walk(radam), walk(radam, threshold=5.0))


def test_radam_whose_second_moment_can_never_be_trusted_is_momentum_also_where_a_denominator_is_zero():
    for beta2 in (0.6, 0.5, 0.1):  # rho_inf is 4, 3 and 1.2
        theta, m = np.zeros(4), np.zeros(4)
        for t, g in enumerate(GRADIENTS, 1):
            m = BETA1 * m + (1 - BETA1) * g
            theta = theta - ALPHA * m / (1 - BETA1**t)
        np.testing.assert_allclose(walk(radam, lr=ALPHA, beta1=BETA1, beta2=beta2)[-1], theta, rtol=1e-12)


def test_radam_goes_over_to_adam():
    late = radam(2.0, 0.0, 4.0, 10**6, lr=0.5)[0]
    assert late == pytest.approx(adam(2.0, 0.0, 4.0, 10**6, lr=0.5)[0], rel=1e-6)
