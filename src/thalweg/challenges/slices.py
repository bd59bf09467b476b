"""Slices of the loss that are worth a picture (sections 8.2.1, 8.2.2 and 8.2.4): along a step, and across the valley.

What a slice shows depends on its directions: most of chance look alike and smooth. A plane may be that of the ends of
the spectrum (`spectrum.ends`), where f is sharpest and falls most, or of directions scaled to the filters of a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import DiagnosisError

PARTS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of a step
POINTS = 13  # along each side of a plane: odd, so that the parameters themselves are one


class Line(NamedTuple):
    """The loss along a step: at theta + parts[i] * step."""

    parts: Tensor  # (k,)
    losses: Tensor  # (k,)


class Plane(NamedTuple):
    """The loss over a plane: `losses[i, j]` at theta + alphas[i] * first + betas[j] * second, both of length 1."""

    alphas: Tensor  # (k,)
    betas: Tensor  # (k,)
    losses: Tensor  # (k, k)
    directions: tuple[str, str]  # what they are


def line(f: Any, theta: Tensor, step: Tensor, parts: tuple[float, ...] = PARTS) -> Line:
    """The loss f along a step from `theta: (n,)`, from nothing of it to far beyond: a value each, no gradient.

    Of gradient descent the step is -lr * g. What is no finite number stays so. Raises DiagnosisError where the loss is
    none at theta itself, or the step leads nowhere.

    >>> line(lambda w: 2 * w.square().sum(), torch.ones(1), -torch.ones(1), (0.0, 0.5, 1.0, 2.0)).losses
    tensor([2.0000, 0.5000, 0.0000, 2.0000], dtype=torch.float64)
    """
    _finite_at(f, theta)
    if not 0 < float(step.norm()) < math.inf:
        raise DiagnosisError(f"a step of length {float(step.norm()):.3g} was given: it must lead somewhere")
    places = torch.tensor(parts, dtype=torch.float64)
    return Line(places, _along(f, theta, step, places))


def plane(
    f: Any,
    theta: Tensor,
    first: Tensor,
    second: Tensor,
    reach: float,
    directions: tuple[str, str],
    points: int = POINTS,
) -> Plane:
    """The loss f over a plane through `theta: (n,)`, as far as `reach` in two directions; points² values.

    Of the second direction the part along the first is left out, so that what is round is so in the picture. Raises
    DiagnosisError where the loss is no finite number at theta, or the directions span no plane.

    >>> axes = torch.eye(2, dtype=torch.float64)
    >>> found = plane(lambda w: w[0] ** 2 + 9 * w[1] ** 2, torch.zeros(2).double(), *axes, 1.0, ("x", "y"), points=3)
    >>> found.losses
    tensor([[10.,  1., 10.],
            [ 9.,  0.,  9.],
            [10.,  1., 10.]], dtype=torch.float64)
    """
    _finite_at(f, theta)
    first = first / first.norm()
    across = second - (second @ first) * first
    if not float(across.norm()) > 1e-3 * float(second.norm()):
        raise DiagnosisError("the two directions are one: they span no plane")
    places = reach * torch.linspace(-1, 1, points, dtype=torch.float64)
    across = across / across.norm()
    rows = [_along(f, theta + place * first, across, places) for place in places.tolist()]
    return Plane(places, places, torch.stack(rows), directions)


def filter_normalised(theta: Tensor, shapes: Sequence[Sequence[int]], random: torch.Generator) -> Tensor:
    """A direction (n,) of chance whose every filter is as long as theta's (Li et al. 2018); none in vectors.

    A filter is a row of a weight: all that one unit weighs. Vectors (biases, scales of a normalisation) stay.

    >>> theta = torch.tensor([3.0, 4.0, 6.0, 8.0, 1.0, 1.0])
    >>> u = filter_normalised(theta, [(2, 2), (2,)], torch.Generator().manual_seed(0))
    >>> u[:2].norm(), u[2:4].norm(), u[4:].norm()
    (tensor(5.), tensor(10.), tensor(0.))
    """
    found = []
    for piece, shape in zip(torch.split(theta, [math.prod(s) for s in shapes]), shapes, strict=True):
        if len(shape) < 2:
            found.append(torch.zeros_like(piece))
            continue
        rows = piece.view(shape[0], -1)
        drawn = torch.randn(rows.shape, generator=random, dtype=theta.dtype).to(theta.device)
        found.append((drawn * rows.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)).reshape(-1))
    return torch.cat(found)


def doubling(loss: float, curvature: float) -> float:
    """How far it is, along a direction of that curvature, to where a quadratic bowl is higher by the loss itself.

    Raises DiagnosisError where the loss or the curvature is not positive.

    >>> doubling(2.0, 100.0)
    0.2
    """
    if not (0 < loss < math.inf and 0 < curvature < math.inf):
        raise DiagnosisError(
            f"a loss of {loss:.3g} and a curvature of {curvature:.3g} say no distance: both must be > 0"
        )
    return math.sqrt(2 * loss / curvature)


@torch.no_grad()
def _along(f: Any, theta: Tensor, step: Tensor, places: Tensor) -> Tensor:
    return torch.tensor([float(f(theta + place * step)) for place in places.tolist()], dtype=torch.float64)


def _finite_at(f: Any, theta: Tensor) -> None:
    with torch.no_grad():
        here = float(f(theta))
    if not math.isfinite(here):
        raise DiagnosisError(f"the loss is {here} at the parameters themselves: there is nothing to see around them")
