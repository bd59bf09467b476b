"""ADOPT (after section 8.5.3)."""

from thalweg.core.rule import clock, maximum, minimum, rule, sqrt, where, zeros


@rule
def adopt(g, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.9999, eps=1e-6, clip=1.0):
    """ADOPT (Taniguchi et al. 2024): Adam that divides a gradient by the second moment of those before it alone.

    The first step only starts v and moves nothing. As in the paper's clipped version and the authors' code, step t
    after it keeps the scaled gradient within clip * t**0.25, clip being 1. Algorithm 1 as first published, and some
    implementations still, do not clip: a huge clip (1e30, say) gives that.

    >>> adopt(2.0, 0.0, 0.0, 0)[1:], adopt(2.0, 0.0, 4.0, 1, lr=0.5, beta1=0.5, beta2=0.5)
    ((0.0, 4.0, 1), (-0.25, 0.5, 4.0, 2))
    """
    bound = clip * t**0.25  # 0 in the first step, which makes it one of 0
    scaled = minimum(maximum(g / maximum(sqrt(v), eps), -bound), bound)
    m = beta1 * m + (1 - beta1) * scaled
    v = where(t == 0, g * g, beta2 * v + (1 - beta2) * g * g)
    return -lr * m, m, v, t + 1
