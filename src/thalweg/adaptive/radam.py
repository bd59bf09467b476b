"""RAdam (after section 8.5.3)."""

from thalweg.core.rule import clock, maximum, rule, sqrt, where, zeros


@rule
def radam(g, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, threshold=5.0):
    """Rectified Adam (Liu et al. 2020): momentum alone until the second moment can be trusted, then Adam, warmed up.

    rho is the number of gradients that v averages over, and the step is Adam's once it is above `threshold`: 5 as in
    PyTorch and the authors' code, where the paper has 4. eps, not in the paper, is added to the root of v before its
    bias is corrected.

    >>> radam(2.0, 0.0, 0.0, 0, lr=0.5)[0], radam(2.0, 0.0, 4.0, 10**6, lr=0.5, beta1=0.0, eps=0.0)[0]
    (-1.0, -0.5)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    # Both are positive wherever rho is above 4: the bounds are for where the result is not used.
    above = maximum((rho - 4) * (rho - 2) * rho_inf, 0.0)
    below = maximum((rho_inf - 4) * (rho_inf - 2) * rho, 1e-12)
    adaptive = sqrt(above / below) * sqrt(1 - beta2**t) / (sqrt(v) + eps)
    return -lr * m_hat * where(rho > threshold, adaptive, 1.0), m, v, t
