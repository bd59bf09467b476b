"""Adam as torch's SparseAdam has it (after section 8.5.3)."""

from thalweg.core.rule import clock, rule, sqrt, zeros


@rule
def sparse_adam(g, m=zeros, v=zeros, t=clock, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam with eps added to the root of v before its bias is corrected (Kingma and Ba 2015, the end of section 2).

    It is `adam` with an eps that is sqrt(1 - beta2**t) times smaller at first. torch has this form for sparse
    gradients, where only the rows that have one step.

    >>> sparse_adam(2.0, 0.0, 0.0, 0, lr=0.5, beta1=0.5, beta2=0.75, eps=0.0)
    (-0.5, 1.0, 1.0, 1)
    """
    t = t + 1
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    corrected = sqrt(1 - beta2**t) / (1 - beta1**t)
    return -lr * corrected * m / (sqrt(v) + eps), m, v, t
