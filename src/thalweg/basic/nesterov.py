"""Nesterov momentum (section 8.3.3)."""

from thalweg.core.rule import rule, zeros


@rule
def nesterov(g, velocity=zeros, *, lr=0.01, momentum=0.9):
    """Nesterov momentum (Algorithm 8.3): the gradient is taken where the velocity is about to lead.

    As in PyTorch, theta is the book's look-ahead point theta + momentum * v, with v = -lr * velocity, so that g is the
    gradient at theta itself. While lr and momentum stay the same the two are the same trajectory, and they end
    in the same point.

    >>> nesterov(1.0, 2.0, lr=0.5, momentum=0.5)
    (-1.0, 2.0)
    """
    velocity = momentum * velocity + g
    return -lr * (g + momentum * velocity), velocity
