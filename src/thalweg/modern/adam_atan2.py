"""Adam-atan2 (after section 8.5.3)."""

from thalweg.core.rule import atan2, clock, rule, sqrt, zeros


@rule
def adam_atan2(g, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, a=1.0, b=1.0):
    """Adam-atan2 (Everett et al. 2024): Adam without eps, for atan2 is the quotient that needs none.

    The steps do not see the scale of the gradients, however small, and none is longer than lr * a * pi / 2. a and b
    are 1 as in the paper, and a step is then pi / 4 of Adam's where the gradient is constant: implementations have
    a = 4 / pi (1.27), which makes it Adam's.

    >>> adam_atan2(2.0, 0.0, 0.0, 0, lr=4.0, beta1=0.5, beta2=0.75)
    (-3.141592653589793, 1.0, 1.0, 1)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return -lr * a * atan2(m_hat, b * sqrt(v_hat)), m, v, t
