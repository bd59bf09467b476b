"""Biases of the output that say how frequent the answers are (section 8.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.core.errors import NetworkError, ProblemError
from thalweg.initialise.places import places

RARE = 0.5  # examples that a class counts for that has none: log 0 is no bias


def log_frequencies(targets: Tensor, classes: int) -> Tensor:
    """The bias (classes,) with which softmax gives the classes' frequencies among `targets: (n, ...)`.

    A model that knows no more starts with the entropy of the targets as its loss, not with log(classes), and does not
    spend its first steps on them. A class without an example counts as half a one. Raises ProblemError for targets that
    are not classes from 0 on.

    >>> log_frequencies(torch.tensor([0, 0, 0, 1]), 2).softmax(0)
    tensor([0.7500, 0.2500])
    """
    if targets.is_floating_point() or not len(targets) or targets.min() < 0 or targets.max() >= classes:
        raise ProblemError(f"the targets must be whole numbers from 0 to {classes - 1}, one at least: {_said(targets)}")
    counts = torch.bincount(targets.reshape(-1), minlength=classes).double().clamp_min(RARE)
    return (counts / counts.sum()).log().float()


def log_odds(targets: Tensor) -> Tensor:
    """The bias (k,) with which a sigmoid gives the mean of `targets: (n, k)`, of 0 and 1; of `(n,)` it is (1,).

    What never or always happens counts half an example. Raises ProblemError for targets outside of [0, 1].

    >>> log_odds(torch.tensor([0.0, 0.0, 0.0, 1.0])).sigmoid()
    tensor([0.2500])
    """
    if not len(targets) or targets.min() < 0 or targets.max() > 1:
        raise ProblemError(f"the targets must be from 0 to 1, one at least: {_said(targets)}")
    n = len(targets)
    p = targets.reshape(n, -1).double().mean(dim=0).clamp(RARE / n, 1 - RARE / n)
    return (p / (1 - p)).log().float()


@torch.no_grad()
def begin_output(model: nn.Module, bias: Tensor) -> str:
    """Sets the bias of the last layer that has one of that shape, in place, and gives its name.

    For squared errors it is the mean of the targets. Raises NetworkError where no layer has such a bias.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> begin_output(model, log_frequencies(torch.tensor([0, 0, 0, 1]), 2))
    '2.bias'
    """
    for place in reversed(places(model)):
        ours = place.attribute == "bias" and not isinstance(place.made, str)
        if ours and place.value().shape == bias.shape and place.put(bias.to(place.value().device)):
            return place.name
    raise NetworkError(f"no layer has a bias of shape {tuple(bias.shape)} that is trained: give the output layer one")


def _said(targets: Tensor) -> str:
    if not len(targets):
        return "there are none"
    return f"there are {targets.dtype} from {targets.min().item():g} to {targets.max().item():g}"
