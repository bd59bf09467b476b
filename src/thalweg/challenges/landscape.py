"""Slices of the loss (section 8.2.2): its profile along a line, and its values on a plane through theta.

What a slice shows depends on its directions: most of chance look alike and smooth. Pieces of a direction are scaled to
the filters they belong to, or a plane is that of the ends of the spectrum, where f is sharpest and falls most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.spectrum import ends
from thalweg.core.derivatives import hessian_at, value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import undisturbed


class Profile(NamedTuple):
    """f at theta + a u, for `at: (k,)`; not a number where f is none. It cost k values."""

    at: Tensor
    values: Tensor  # (k,)
    direction: Tensor  # (n,)


class Plane(NamedTuple):
    """f at theta + a u + b v, for `at: (k,)` along both: values[i, j] is at a = at[i], b = at[j]. It cost k² values."""

    at: Tensor
    values: Tensor  # (k, k)
    directions: tuple[Tensor, Tensor]  # (n,) each


def profile(f: Any, theta: Tensor, direction: Tensor, at: Tensor) -> Profile:
    """The values of f along a line through `theta: (n,)`, len(at) evaluations without a gradient.

    Raises DiagnosisError for a direction that is zero or not finite.

    >>> profile(lambda x: (x * x).sum(), torch.zeros(2), torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])).values
    tensor([ 0., 25.], dtype=torch.float64)
    """
    if not bool(direction.isfinite().all()) or not bool(direction.any()):
        raise DiagnosisError("the direction is zero or not finite: there is no line along it")
    with torch.no_grad():
        values = [float(f(theta + a * direction)) for a in at.tolist()]
    return Profile(at, torch.tensor(values, dtype=torch.float64), direction)


def downhill(f: Any, theta: Tensor, lr: float, steps: float = 4.0, points: int = 21) -> Profile:
    """The values of f along -lr g, from a step back to `steps` steps ahead: position 1 is where one step of SGD leads.

    Costs a gradient and `points` values. Raises DiagnosisError where the gradient is zero.

    >>> found = downhill(lambda x: 50 * (x * x).sum(), torch.ones(1), lr=0.01, steps=2, points=4)
    >>> found.at.tolist(), [round(x, 4) for x in found.values.tolist()]
    ([-1.0, 0.0, 1.0, 2.0], [200.0, 50.0, 0.0, 50.0])
    """
    _, g = value_and_gradient(f, theta)
    return profile(f, theta, -lr * g, torch.linspace(-1, steps, points, dtype=torch.float64))


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


def plane(f: Any, theta: Tensor, u: Tensor, v: Tensor, at: Tensor) -> Plane:
    """The values of f on a plane through `theta: (n,)`, len(at)² evaluations without a gradient.

    >>> u, v = torch.eye(2)
    >>> plane(lambda x: (x * x).sum(), torch.zeros(2), u, v, torch.tensor([0.0, 2.0])).values
    tensor([[0., 4.],
            [4., 8.]], dtype=torch.float64)
    """
    rows = [profile(f, theta + a * u, v, at).values for a in at.tolist()]
    return Plane(at, torch.stack(rows), (u, v))


def random_plane(
    network: Network, batch: Batch, random: torch.Generator, reach: float = 1.0, points: int = 15
) -> Plane:
    """A plane of two filter-normalised directions, on a held batch: 1 is as far as theta is from 0. `points`² values.

    Raises DiagnosisError for a network of vectors only, which has no filters.

    >>> network = Network(torch.nn.Linear(3, 2), torch.nn.functional.mse_loss)
    >>> batch = Batch(torch.ones(4, 3), torch.zeros(4, 2))
    >>> random_plane(network, batch, torch.Generator().manual_seed(0), points=5).values.shape
    torch.Size([5, 5])
    """
    u, v = (filter_normalised(network.theta, network.shapes, random) for _ in range(2))
    at = torch.linspace(-reach, reach, points, dtype=torch.float64)
    with undisturbed(network.module):
        return plane(network.on(batch), network.theta, u, v, at)


def sharpest_plane(network: Network, batch: Batch, reach: float = 1.0, points: int = 15, seed: int = 0) -> Plane:
    """The plane of the largest and the least curvature, at most 64 products with the Hessian and `points`² values.

    Directions have the length of theta times 1 %: farther the curvature there is another. Raises CurvatureError where
    there are no second derivatives.

    >>> network = Network(torch.nn.Linear(3, 2), torch.nn.functional.mse_loss)
    >>> batch = Batch(torch.ones(4, 3), torch.zeros(4, 2))
    >>> sharpest_plane(network, batch, points=5).values.shape
    torch.Size([5, 5])
    """
    at = torch.linspace(-reach, reach, points, dtype=torch.float64)
    with undisturbed(network.module):
        f, theta = network.on(batch), network.theta
        found = ends(hessian_at(f, theta), theta, seed=seed)
        size = 0.01 * (float(theta.norm()) or 1.0)
        return plane(f, theta, size * found.top, size * found.bottom, at)
