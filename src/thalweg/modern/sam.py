"""Sharpness-aware minimisation (after section 8.5)."""

from dataclasses import replace

import torch

from thalweg.basic.momentum import momentum
from thalweg.core.derivatives import gradient
from thalweg.core.rule import combinator


@combinator(per="vector")
def sharpness_aware(inner, f, theta, g, *, rho=0.05):
    """SAM (Foret et al. 2021): the inner rule with the gradient from where f is worst within rho, found to first order.

    Two gradients a step. The length of g is the whole vector's, as in the paper; ASAM's, weighed by theta, is another
    rule. Where g is zero it is its own gradient's place. What f draws at random (dropout) it draws again.

    >>> from thalweg import sgd
    >>> f, theta = (lambda x: (x * x).sum() / 2), torch.tensor([3.0, 4.0])
    >>> rule = sharpness_aware(sgd, rho=5.0)
    >>> rule.step({"g": theta, "theta": theta, "f": f}, {}, {"lr": 1.0, "rho": 5.0})[0]
    tensor([-6., -8.])
    """
    norm = torch.linalg.vector_norm(g)
    ascent = rho * g / torch.where(norm > 0, norm, 1.0)
    return inner(g=gradient(f, theta + ascent))


sam = replace(
    sharpness_aware(momentum),
    name="sam",
    doc="SAM on momentum (Foret et al. 2021): velocity gathers gradients from where f is worst within rho of theta.",
)
