"""Momentum (section 8.3.2)."""

from thalweg.core.rule import rule, zeros


@rule
def momentum(g, velocity=zeros, *, lr=0.01, momentum=0.9):
    """Momentum, or heavy ball (Algorithm 8.2): the velocity gathers gradients and forgets them exponentially.

    As in PyTorch the velocity is that of the gradients, and lr multiplies it only when it moves: the book's v is
    -lr * velocity, the same trajectory while lr stays the same.

    >>> momentum(1.0, 2.0, lr=0.5, momentum=0.5)
    (-1.0, 2.0)
    """
    velocity = momentum * velocity + g
    return -lr * velocity, velocity
