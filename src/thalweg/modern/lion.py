"""Lion (after section 8.5)."""

from thalweg.core.rule import rule, sign, zeros


@rule
def lion(g, m=zeros, *, lr=1e-4, beta1=0.9, beta2=0.99):
    """Lion (Chen et al. 2023): a step of lr in every parameter, to the side that gradient and momentum m agree on.

    The paper's weight decay is `decayed(lion)`. Its lr is three to ten times smaller than Adam's.

    >>> lion(-2.0, 0.0, lr=0.5, beta2=0.75)
    (0.5, -0.5)
    """
    side = sign(beta1 * m + (1 - beta1) * g)
    m = beta2 * m + (1 - beta2) * g
    return -lr * side, m
