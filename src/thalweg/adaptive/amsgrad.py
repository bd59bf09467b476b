"""AMSGrad (after section 8.5.3)."""

from thalweg.core.rule import clock, maximum, rule, sqrt, zeros


@rule
def amsgrad(g, m=zeros, v=zeros, v_max=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """AMSGrad (Reddi et al. 2018): Adam divided by the largest second moment so far, v_max, so that no step grows.

    As in PyTorch the maximum is taken before the bias correction; optax takes it after. The paper corrects nothing and
    has no eps: with eps=0 its steps are those of the schedule lr * (1 - beta1**t) / sqrt(1 - beta2**t), t from 1.

    >>> amsgrad(2.0, 0.0, 0.0, 4.0, 0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0)
    (-0.25, 1.0, 1.0, 4.0, 1)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    v_max = maximum(v_max, v)
    m_hat = m / (1 - beta1**t)
    v_hat = v_max / (1 - beta2**t)
    return -lr * m_hat / (sqrt(v_hat) + eps), m, v, v_max, t
