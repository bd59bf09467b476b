"""AdaGrad (section 8.5.1)."""

from thalweg.core.rule import clock, full, rule, sqrt


@rule
def adagrad(
    g, r=full("initial_accumulator_value"), t=clock, *, lr=0.01, lr_decay=0.0, eps=1e-10, initial_accumulator_value=0.0
):
    """AdaGrad (Algorithm 8.4): each parameter's step shrinks with the sum of its squared gradients, r.

    eps is the book's delta, there 1e-7; lr_decay and the initial r, both 0 in the book, are PyTorch's.

    >>> adagrad(2.0, 0.0, 0, lr=0.5, eps=0.0)
    (-0.5, 4.0, 1)
    """
    t = t + 1
    r = r + g * g
    return -lr / (1 + (t - 1) * lr_decay) * g / (sqrt(r) + eps), r, t
