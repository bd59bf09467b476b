"""Momentum with dampening (after section 8.3.2)."""

from thalweg.core.rule import clock, minimum, rule, zeros


@rule
def dampened_momentum(g, velocity=zeros, started=clock, *, lr=0.01, momentum=0.9, dampening=0.0):
    """Momentum (Algorithm 8.2) whose velocity takes in only 1 - dampening of each gradient after the first.

    As in PyTorch the first gradient counts whole; started is 0 before it and 1 from then on. With dampening equal to
    momentum the velocity is a moving average of the gradients. Without momentum PyTorch ignores the dampening.

    >>> dampened_momentum(2.0, 0.0, 0, lr=0.5, dampening=0.5), dampened_momentum(2.0, 1.0, 1, lr=0.5, dampening=0.5)
    ((-1.0, 2.0, 1), (-0.95, 1.9, 1))
    """
    velocity = momentum * velocity + (1 - dampening * started) * g
    return -lr * velocity, velocity, minimum(started + 1, 1)
