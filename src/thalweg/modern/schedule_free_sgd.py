"""Schedule-free SGD (after section 8.7.3)."""

from thalweg.core.rule import Start, clock, current, maximum, minimum, rule

nothing = Start("nothing", lambda theta, knobs: 0.0, scalar=True)


@rule(answers=lambda theta, memory, knobs: theta + (1 - 1 / knobs["momentum"]) * (memory["z"] - theta))
def schedule_free_sgd(
    g, theta, z=current, weight_sum=nothing, lr_max=nothing, t=clock, *, lr=1.0, momentum=0.9, warmup_steps=0
):
    """Schedule-free SGD (Defazio et al. 2024): averaging in the place of a decaying lr, which stays constant.

    theta is the paper's y = (1 - momentum) * z + momentum * x, where gradients are taken; z takes SGD's steps; the
    answer is their mean x, computed from the other two (momentum is above 0). As in the authors' code a step counts
    lr_max**2 in the mean, lr_max being the largest lr so far: the paper's weights while lr does not fall. lr rises over
    warmup_steps. A penalty belongs in the gradient: `decayed` would move y alone.

    >>> schedule_free_sgd(2.0, 1.0, 1.0, 0.0, 0.0, 0, lr=0.5)
    (-1.0, 0.0, 0.25, 0.5, 1)
    """
    t = t + 1
    lr = lr * minimum(t / maximum(warmup_steps, 1.0), 1.0)
    lr_max = maximum(lr_max, lr)
    weight_sum = weight_sum + lr_max * lr_max
    c = lr_max * lr_max / maximum(weight_sum, 1e-30)  # 0 while lr has been 0
    delta = c * (z - theta) - lr * (1 - momentum * (1 - c)) * g
    return delta, z - lr * g, weight_sum, lr_max, t
