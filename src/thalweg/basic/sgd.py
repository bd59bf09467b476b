"""Stochastic gradient descent (section 8.3.1)."""

from thalweg.core.rule import rule


@rule
def sgd(g, *, lr=0.01):
    """Stochastic gradient descent (Algorithm 8.1): a step against the gradient.

    >>> sgd(2.0, lr=0.5)
    -1.0
    """
    return -lr * g
