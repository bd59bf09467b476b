"""Adan (after section 8.5.3)."""

from thalweg.core.rule import clock, rule, sqrt, where, zeros


@rule
def adan(
    g, m=zeros, v=zeros, n=zeros, previous=zeros, t=clock, *, lr=1e-3, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-8
):
    """Adan (Xie et al. 2022): Adam on Nesterov's look-ahead gradient, guessed from the change since the previous one.

    m, v and n are the moments of the gradient, of its change, and of the square of both together. The betas are those
    of implementations: the paper's are 1 - beta (0.02, 0.08, 0.01). As in the authors' code the first change is 0 and
    all moments are corrected for starting at 0; Algorithm 1 starts m and n at the first gradient instead, which no knob
    gives. optax weighs the change with 1 - beta2 where the paper's 1 - beta2 is this beta2. Weight decay is `decayed`.

    >>> adan(2.0, 0.0, 0.0, 0.0, 0.0, 0, lr=0.5, beta1=0.5, beta3=0.75, eps=0.0)
    (-0.5, 1.0, 0.0, 1.0, 2.0, 1)
    """
    t = t + 1
    change = where(t == 1, 0.0, g - previous)
    ahead = g + beta2 * change
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * change
    n = beta3 * n + (1 - beta3) * ahead * ahead
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    n_hat = n / (1 - beta3**t)
    return -lr * (m_hat + beta2 * v_hat) / (sqrt(n_hat) + eps), m, v, n, g, t
