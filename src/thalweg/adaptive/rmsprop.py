"""RMSProp (section 8.5.2)."""

from thalweg.core.rule import rule, sqrt, zeros


@rule
def rmsprop(g, r=zeros, *, lr=0.01, alpha=0.99, eps=1e-8):
    """RMSProp (Algorithm 8.5): AdaGrad that forgets; r is the moving average of the squared gradients.

    alpha is the book's rho. As in PyTorch eps is added to the root. The book has it inside, sqrt(delta + r): where
    gradients are tiny its delta of 1e-6 acts as an eps of 1e-3 does here.

    >>> rmsprop(2.0, 4.0, lr=0.5, eps=0.0)
    (-0.5, 4.0)
    """
    r = alpha * r + (1 - alpha) * g * g
    return -lr * g / (sqrt(r) + eps), r
