"""RMSProp with Nesterov momentum (section 8.5.2)."""

from thalweg.core.rule import rule, sqrt, zeros


@rule
def rmsprop_nesterov(g, velocity=zeros, r=zeros, *, lr=0.01, alpha=0.99, momentum=0.9, eps=1e-8):
    """RMSProp with Nesterov momentum (Algorithm 8.6): the velocity gathers gradients scaled by their own size.

    As in `nesterov`, theta is the book's look-ahead point theta + momentum * v with v = -lr * velocity, the same
    trajectory while lr and momentum stay the same. alpha is the book's rho; eps, which the book leaves out here, is
    added to the root as in `rmsprop`.

    >>> rmsprop_nesterov(2.0, 1.0, 4.0, lr=0.5, momentum=0.5, eps=0.0)
    (-0.875, 1.5, 4.0)
    """
    r = alpha * r + (1 - alpha) * g * g
    scaled = g / (sqrt(r) + eps)
    velocity = momentum * velocity + scaled
    return -lr * (scaled + momentum * velocity), velocity, r
