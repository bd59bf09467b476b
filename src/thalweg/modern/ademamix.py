"""AdEMAMix (after section 8.5.3)."""

from thalweg.core.rule import clock, exp, log, maximum, minimum, rule, sqrt, zeros


@rule
def ademamix(
    g, m1=zeros, m2=zeros, v=zeros, t=clock,
    *, lr=1e-3, beta1=0.9, beta2=0.999, beta3=0.9999, alpha=5.0, warmup_steps=0, eps=1e-8,
):  # fmt: skip
    """AdEMAMix (Pagliardini et al. 2024): Adam with a second, slow moment m2 of the gradients, counted alpha times.

    Over warmup_steps alpha rises from 0 in equal parts and beta3 from beta1 in equal parts of its half-life, the
    schedules of Algorithm 1; with 0 both are in force at once, as in implementations that are given no schedules. The
    bias of m2 is not corrected.

    >>> ademamix(2.0, 0.0, 0.0, 0.0, 0, lr=0.5, beta1=0.5, beta2=0.75, beta3=0.5, alpha=1.0, eps=0.0)
    (-0.75, 1.0, 1.0, 1.0, 1)
    """
    t = t + 1
    part = minimum(t / maximum(warmup_steps, 1.0), 1.0)
    fast = log(maximum(beta1, 1e-12))
    slow = log(beta3)
    beta3_t = minimum(exp(fast * slow / ((1 - part) * slow + part * fast)), beta3)
    m1 = beta1 * m1 + (1 - beta1) * g
    m2 = beta3_t * m2 + (1 - beta3_t) * g
    v = beta2 * v + (1 - beta2) * g * g
    m1_hat = m1 / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return -lr * (m1_hat + alpha * part * m2) / (sqrt(v_hat) + eps), m1, m2, v, t
