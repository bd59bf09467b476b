"""Ascent: an objective to maximise (section 4.3)."""

from thalweg.core.rule import combinator


@combinator
def maximised(inner, g):
    """Ascends instead of descending, as `maximize=True` does in PyTorch: the rule inside sees -g.

    >>> from thalweg import sgd
    >>> import torch
    >>> maximised(sgd).step({"g": torch.tensor([2.0])}, {}, {"lr": 0.5})[0]
    tensor([1.])
    """
    return inner(g=-g)
