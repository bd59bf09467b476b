"""DoG (after section 8.5)."""

import torch

from thalweg.core.rule import Start, current, maximum, rule, sqrt

_first = Start(
    "reps_rel * (1 + |theta|)", lambda theta, knobs: knobs["reps_rel"] * (1 + torch.linalg.vector_norm(theta))
)
_eps = Start("number(eps)", lambda theta, knobs: theta.new_zeros(()) + knobs["eps"])


@rule(per="vector")
def dog(g, theta, theta0=current, distance=_first, squares=_eps, *, lr=1.0, reps_rel=1e-6, eps=1e-8):
    """DoG (Ivgi et al. 2023): SGD with the farthest distance from the start so far, over the gradients, for its lr.

    The lr is distance / √squares, the sum of the squared lengths of all gradients; the first distance is reps_rel times
    1 + |theta| (1e-4 for a network with batch norm). Leave lr at 1. The paper evaluates a mean of the iterates, which
    grows more precise as nothing shrinks lr: `averaged(dog)`, all alike, where the official code counts later ones
    more (its polynomial averager), or `averaged_exponentially(dog)`. Its version for each layer apart, L-DoG, is the
    same rule per tensor. Its weight decay adds to the gradient.

    >>> theta, g = torch.tensor([3.0, 4.0]), torch.tensor([0.6, 0.8])
    >>> dog.step({"g": g, "theta": theta}, dog.start(theta, reps_rel=0.5), {"lr": 1.0})[0]
    tensor([-1.8000, -2.4000])
    """
    distance = maximum(distance, torch.linalg.vector_norm(theta - theta0))
    squares = squares + g @ g
    return -lr * distance / sqrt(squares) * g, theta0, distance, squares
