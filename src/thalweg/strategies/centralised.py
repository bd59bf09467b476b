"""Centralised gradients (after section 8.7.1)."""

from thalweg.core.rule import combinator


@combinator(per="tensor")
def centralised(inner, g):
    """Gradient centralisation (Yong et al. 2020): the gradient of each output unit's weights has mean zero.

    The mean is over all dimensions but the first; vectors (biases, gains) keep their gradient.

    >>> import torch
    >>> from thalweg import sgd
    >>> centralised(sgd).step({"g": torch.tensor([[1.0, 3.0]])}, {}, {"lr": 1.0})[0]
    tensor([[ 1., -1.]])
    """
    if g.ndim < 2:
        return inner()
    return inner(g=g - g.mean(dim=tuple(range(1, g.ndim)), keepdim=True))
