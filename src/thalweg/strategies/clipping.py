"""Gradient clipping (sections 8.2.4 and 10.11.1)."""

import torch

from thalweg.core.rule import combinator, maximum, minimum


@combinator(per="vector")
def clipped(inner, g, *, clip_norm=1.0):
    """Clipping by global norm (Pascanu et al. 2013): a gradient longer than clip_norm keeps its direction only.

    The norm is that of the whole vector. A gradient with NaN or infinity in it has no direction: it stays NaN, so that
    the run stops instead of going on from a wrong place.

    >>> from thalweg import sgd
    >>> rule = clipped(sgd, clip_norm=1.0)
    >>> rule.step({"g": torch.tensor([3.0, 4.0])}, {}, {"lr": 1.0, "clip_norm": 1.0})[0]
    tensor([-0.6000, -0.8000])
    """
    # In double precision, because squares of a finite float32 gradient overflow, and a norm of infinity clips to 0.
    norm = torch.linalg.vector_norm(g, dtype=torch.float64)
    return inner(g=g * minimum(clip_norm / norm, 1.0).to(g.dtype))


@combinator
def clipped_by_value(inner, g, *, clip_value=1.0):
    """Clipping by value (Mikolov 2012): each component of the gradient goes no further than ± clip_value.

    The direction changes. An infinite component becomes ± clip_value; NaN stays NaN.

    >>> from thalweg import sgd
    >>> rule = clipped_by_value(sgd)
    >>> rule.step({"g": torch.tensor([3.0, -0.5])}, {}, {"lr": 1.0, "clip_value": 1.0})[0]
    tensor([-1.0000,  0.5000])
    """
    return inner(g=minimum(maximum(g, -clip_value), clip_value))
