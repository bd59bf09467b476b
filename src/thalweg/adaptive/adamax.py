"""AdaMax (after section 8.5.3)."""

from thalweg.core.rule import clock, maximum, rule, zeros


@rule
def adamax(g, m=zeros, u=zeros, t=clock, *, lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """AdaMax (Kingma and Ba 2015): Adam in the infinity norm, u being the largest gradient, forgotten by beta2.

    As in PyTorch eps is added to the gradient's size, where the paper has none (eps=0); Keras adds it to u instead.

    >>> adamax(2.0, 0.0, 1.0, 0, lr=0.5, beta1=0.5, eps=0.0)
    (-0.5, 1.0, 2.0, 1)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    u = maximum(beta2 * u, abs(g) + eps)
    return -lr / (1 - beta1**t) * m / u, m, u, t
