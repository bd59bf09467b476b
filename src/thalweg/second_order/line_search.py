"""Line searches (section 8.6): how far to go along a direction, as plain functions of one signature."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from thalweg.core.status import Status


class Found(NamedTuple):
    """Where a line search ended: the best point it has seen.

    `alpha` is 0.0, with `value` and `g` those of theta, where nothing lower was found.
    """

    alpha: float
    value: float  # of f at theta + alpha * d
    g: Tensor  # (n,), the gradient there
    status: Status  # GOING_ON where the search's conditions hold there, else why they do not
