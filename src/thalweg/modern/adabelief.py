"""AdaBelief (after section 8.5.3)."""

from thalweg.core.rule import clock, rule, sqrt, zeros


@rule
def adabelief(g, m=zeros, s=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-16):
    """AdaBelief (Zhuang et al. 2020): Adam that divides by how far gradients are from what m foretold, not their size.

    As in Algorithm 2 and the authors' code eps is added twice: to s itself in every step, so that it gathers, and to
    the root. Implementations that add it to the corrected s only, as optax once did, differ where s is as small as eps.

    >>> adabelief(2.0, 0.0, 0.0, 0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0)
    (-1.0, 1.0, 0.25, 1)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    s = beta2 * s + (1 - beta2) * (g - m) * (g - m) + eps
    m_hat = m / (1 - beta1**t)
    s_hat = s / (1 - beta2**t)
    return -lr * m_hat / (sqrt(s_hat) + eps), m, s, t
