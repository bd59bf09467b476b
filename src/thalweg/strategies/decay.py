"""Weight decay apart from the gradient (sections 7.1.1 and 8.5)."""

from thalweg.core.rule import combinator


@combinator
def decayed(inner, theta, *, lr, weight_decay=0.01):
    """Decoupled weight decay (Loshchilov and Hutter 2019): each step also shrinks theta by lr * weight_decay.

    On SGD this is L2 regularisation; on an adaptive rule it is not, because the penalty's gradient is not rescaled.

    >>> from thalweg import sgd
    >>> decayed(sgd, weight_decay=0.5).knobs
    {'lr': 0.01, 'weight_decay': 0.5}
    """
    return inner() - lr * weight_decay * theta
