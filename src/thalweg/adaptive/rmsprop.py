"""RMSProp (section 8.5.2)."""

from dataclasses import replace
from inspect import cleandoc

from thalweg.basic.sgd import sgd
from thalweg.core.rule import combinator, sqrt, zeros


@combinator
def rms_scaled(inner, g, r=zeros, *, alpha=0.99, eps=1e-8):
    """Gradients divided by their own size (Algorithm 8.5), for any rule; r is the moving average of their squares.

    alpha is the book's rho. As in PyTorch eps is added to the root. The book has it inside, sqrt(delta + r): where
    gradients are tiny its delta of 1e-6 acts as an eps of 1e-3 does here.

    >>> rms_scaled(sgd)(2.0, 4.0, lr=0.5, eps=0.0)
    (-0.5, 4.0)
    """
    r = alpha * r + (1 - alpha) * g * g
    return inner(g=g / (sqrt(r) + eps)), r


rmsprop = replace(
    rms_scaled(sgd),
    name="rmsprop",
    doc=cleandoc("""
        RMSProp (Algorithm 8.5): AdaGrad that forgets; r is the moving average of the squared gradients.

        It is SGD with gradients `rms_scaled`: alpha is the book's rho, and eps is added to the root as in PyTorch.

        >>> rmsprop(2.0, 4.0, lr=0.5, eps=0.0)
        (-0.5, 4.0)
    """),
)
