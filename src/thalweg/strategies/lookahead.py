"""Lookahead (after section 8.5)."""

from thalweg.core.rule import clock, combinator, current, where


@combinator
def lookahead(inner, theta, slow=current, fast=clock, *, slow_every=5, slow_step=0.5):
    """Lookahead (Zhang et al. 2019): now and then slow weights go a part of the way, and theta back to them.

    That is after slow_every steps, the paper's k; `fast` counts them; slow_step is its α. The memory of the rule inside
    is kept then, one of the paper's three ways.

    >>> import torch
    >>> from thalweg import sgd
    >>> rule, theta = lookahead(sgd, slow_every=2), torch.tensor([1.0])
    >>> memory = rule.start(theta)
    >>> for _ in range(2):
    ...     delta, memory = rule.step({"g": torch.ones(1), "theta": theta}, memory, {**rule.knobs, "lr": 0.25})
    ...     theta = theta + delta
    >>> theta  # half of the way from 1 to 0.5
    tensor([0.7500])
    """
    delta = inner()
    fast = fast + 1
    due = fast >= slow_every
    delta = where(due, delta + (1 - slow_step) * (slow - (theta + delta)), delta)
    slow = where(due, theta + delta, slow)
    return delta, slow, where(due, 0, fast)
