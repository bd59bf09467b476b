"""Adam (section 8.5.3)."""

from thalweg.core.rule import clock, rule, sqrt, zeros


@rule
def adam(g, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam (Algorithm 8.7); m and v are the first and second moments, t the step.

    >>> adam(2.0, 0.0, 0.0, 0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0)
    (-0.5, 1.0, 1.0, 1)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return -lr * m_hat / (sqrt(v_hat) + eps), m, v, t
