"""Schedule-free AdamW (after section 8.7.3)."""

from thalweg.core.rule import clock, current, maximum, minimum, rule, sqrt, zeros
from thalweg.modern.schedule_free_sgd import nothing


@rule(answers=lambda theta, memory, knobs: theta + (1 - 1 / knobs["beta1"]) * (memory["z"] - theta))
def schedule_free_adamw(
    g, theta, z=current, v=zeros, weight_sum=nothing, lr_max=nothing, t=clock,
    *, lr=2.5e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, warmup_steps=0,
):  # fmt: skip
    """Schedule-free AdamW (Defazio et al. 2024): averaging in the place of a decaying lr, around Adam's scaled steps.

    theta, z, the answer and the weights are those of `schedule_free_sgd`, beta1 (above 0) in the place of momentum.
    Weight decay is taken at theta, the paper's y, and moves z with the gradient: the knob here, not `decayed`. As in
    the authors' code v is corrected for its bias; the version of the paper's experiments multiplies lr, and so the
    weights, by sqrt(1 - beta2**t) instead, which no knob gives.

    >>> schedule_free_adamw(2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0, lr=0.5, beta2=0.75, eps=0.0)
    (-0.5, 0.5, 1.0, 0.25, 0.5, 1)
    """
    t = t + 1
    lr = lr * minimum(t / maximum(warmup_steps, 1.0), 1.0)
    lr_max = maximum(lr_max, lr)
    weight_sum = weight_sum + lr_max * lr_max
    c = lr_max * lr_max / maximum(weight_sum, 1e-30)  # 0 while lr has been 0
    v = beta2 * v + (1 - beta2) * g * g
    g = g / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * theta
    delta = c * (z - theta) - lr * (1 - beta1 * (1 - c)) * g
    return delta, z - lr * g, v, weight_sum, lr_max, t
