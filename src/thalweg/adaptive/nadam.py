"""NAdam (after section 8.5.3)."""

from thalweg.core.rule import clock, one, rule, sqrt, zeros


@rule
def nadam(
    g, m=zeros, v=zeros, t=clock, mu_product=one, *, lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8, momentum_decay=4e-3
):
    """NAdam (Dozat 2016): Adam with Nesterov momentum, which mixes the gradient ahead of the first moment.

    As in the paper and PyTorch the momentum mu warms up from beta1 / 2 to beta1, the slower the smaller
    momentum_decay; mu_product is the product of all mu so far. Keras has momentum_decay=1. optax has no warm-up, which
    a huge momentum_decay (1e9, say) gives.

    >>> nadam(2.0, 0.0, 0.0, 0, 1.0, lr=0.5, beta1=0.0, beta2=0.75, eps=0.0)
    (-0.5, 2.0, 1.0, 1, 0.0)
    """
    t = t + 1
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    mu_product = mu_product * mu
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = mu_next / (1 - mu_product * mu_next) * m + (1 - mu) / (1 - mu_product) * g
    v_hat = v / (1 - beta2**t)
    return -lr * m_hat / (sqrt(v_hat) + eps), m, v, t, mu_product
