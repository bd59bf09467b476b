"""Weight decay as a penalty on the loss (section 7.1.1)."""

from thalweg.core.rule import combinator


@combinator
def penalised(inner, g, theta, *, weight_decay=0.0):
    """L2 regularisation (section 7.1.1): the gradient of weight_decay / 2 times the squared norm of theta is added.

    That is weight_decay in PyTorch's classes other than AdamW; on an adaptive rule it is not the decay of `decayed`.

    >>> from thalweg import sgd
    >>> import torch
    >>> seen = {"g": torch.tensor([1.0]), "theta": torch.tensor([2.0])}
    >>> penalised(sgd).step(seen, {}, {"lr": 0.5, "weight_decay": 0.25})[0]
    tensor([-0.7500])
    """
    return inner(g=g + weight_decay * theta)
