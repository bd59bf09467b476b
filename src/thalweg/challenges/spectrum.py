"""The spectrum of the Hessian (sections 4.3.1 and 8.2.1): its ends, its density, its trace, each with its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.derivatives import Product, hessian_at
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly, mean
from thalweg.core.noise import signs, uniform
from thalweg.second_order.krylov import krylov

WHOLE = 64  # parameters up to which the whole matrix is found, a product a column
UNLUCKY = 0.0627  # of a normal number: one of twenty is nearer to zero
RESOLVED = 1e-4  # of the scale: a nearer eigenvalue is not told from zero by a quadrature
LEAST = 0.1  # of the positive eigenvalues, left aside where only the density is known


class Quadratic:
    """A problem whose spectrum is known: f(w) = ½ wᵀAw with A = QΛQᵀ, Q orthogonal and drawn with the seed.

    >>> f = Quadratic([5.0, -10.0, 1.0])
    >>> f.A.shape, round(float(f.A.trace()), 6)
    (torch.Size([3, 3]), -4.0)
    """

    def __init__(self, eigenvalues: Sequence[float], seed: int = 0) -> None:
        n, random = len(eigenvalues), torch.Generator().manual_seed(seed)
        Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=random))
        self.eigenvalues = torch.tensor(eigenvalues, dtype=torch.float64)
        self.A = Q @ torch.diag(self.eigenvalues) @ Q.T

    def __call__(self, w: Tensor) -> Tensor:
        """The value at `w: (n,)`."""
        value: Tensor = w @ (self.A.to(w) @ w) / 2
        return value


class Ends(NamedTuple):
    """Both ends of a spectrum, signed, and where they point.

    A Ritz value is never beyond its end: one side of each interval is certain. The other holds in 95 of 100, over the
    vector of chance from which Lanczos began (van Dorsselaer, Hochstenbach and van der Vorst 2000). The residual is no
    such bound: an eigenvalue is as near for certain, but where others crowd at the end it need not be the last.
    """

    largest: Measured
    smallest: Measured
    top: Tensor  # (n,), of length 1, along the largest
    bottom: Tensor  # (n,), along the smallest
    rung: str  # on which the products stand
    products: int

    @property
    def scale(self) -> float:
        """The largest eigenvalue in size."""
        return max(abs(self.largest.value), abs(self.smallest.value))


class Spectrum(NamedTuple):
    """A spectrum: its ends, and its density as eigenvalues with weights, of one or several probes.

    Where `whole`, the one probe has all eigenvalues, each with the weight 1/n. Else each probe is a quadrature of
    Gauss's for a random vector, by Lanczos (Ubaru, Chen and Saad 2017): the scatter over probes is the error.
    """

    ends: Ends
    values: Tensor  # (probes, k)
    weights: Tensor  # (probes, k), each row sums to 1
    n: int
    whole: bool

    @property
    def tolerance(self) -> float:
        """How near to zero an eigenvalue is not told from it."""
        eps = torch.finfo(self.ends.top.dtype).eps
        return self.ends.scale * max(10 * self.n * eps, 0.0 if self.whole else RESOLVED)

    @property
    def trace(self) -> Measured:
        """The sum of all eigenvalues (Hutchinson 1989)."""
        return self._mean(self.n * (self.values * self.weights).sum(1))

    @property
    def negative(self) -> Measured:
        """The saddle index as a fraction: how many of all eigenvalues are below zero beyond the tolerance."""
        value, low, high, n = self._mean(((self.values < -self.tolerance) * self.weights).sum(1))
        return Measured(value, max(low, 0.0), min(high, 1.0), n)

    @property
    def condition(self) -> Measured:
        """The largest eigenvalue over the least positive one beyond the tolerance, kappa; NaN where none is positive.

        Of a spectrum that is not whole, over the one with a tenth of the positive eigenvalues below it: kappa is that
        or more.
        """
        largest = max(self.ends.largest.value, 0.0)
        least = [_quantile(v, w, self.tolerance, 0.0 if self.whole else LEAST) for v, w in self._probes()]
        found = [largest / x for x in least if x]
        if not found:
            return Measured(math.nan, 0.0, math.inf, len(self.values))
        if self.whole:
            return exactly(found[0])
        return Measured(sum(found) / len(found), min(found), math.inf, len(found))

    def curve(self, points: int = 200, width: float = 0.02) -> tuple[Tensor, Tensor]:
        """The density for a picture: places (points,) and its height (points,), smoothed by `width` of the range."""
        low, high = self.ends.smallest.value, self.ends.largest.value
        sigma = width * (high - low or abs(high) or 1.0)
        at = torch.linspace(low - 4 * sigma, high + 4 * sigma, points, dtype=torch.float64)
        z = (at[:, None, None] - self.values) / sigma
        bell = torch.exp(-z * z / 2) / (sigma * math.sqrt(2 * math.pi))
        return at, (bell * self.weights).sum(2).mean(1)

    def _mean(self, draws: Tensor) -> Measured:
        return exactly(float(draws[0])) if self.whole else mean(draws)

    def _probes(self) -> zip[tuple[Tensor, Tensor]]:
        return zip(self.values, self.weights, strict=True)


def ends(product: Product, like: Tensor, most: int = 64, rtol: float = 0.01, seed: int = 0) -> Ends:
    """Both ends of the spectrum of a symmetric matrix (n, n), by Lanczos from a vector of chance like `like: (n,)`.

    It stops where the interval at the end that is larger in size is rtol of it, at the other rtol of that or 0.1 rtol
    of the larger, or after `most` products. Raises DiagnosisError where a product is not finite.

    >>> found = ends(Product(torch.tensor([5.0, -10.0, 1.0]).mul), torch.zeros(3))
    >>> round(found.largest.value, 4), round(found.smallest.value, 4)
    (5.0, -10.0)
    """

    n, left = len(like), 0.0

    def enough(T: Tensor, c: Tensor, beyond: float) -> bool:
        nonlocal left
        left = beyond
        w = torch.linalg.eigvalsh(T)
        outer = w[[0, -1]].abs()
        allowed = rtol * torch.maximum(outer, 0.1 * outer.max())
        return len(T) > 2 and all(x <= float(most) for x, most in zip(_room(T, w, left, n), allowed, strict=True))

    found = krylov(product.apply, uniform(like, 0, seed) - 0.5, most, enough, rtol)
    if found is None:
        raise DiagnosisError("a product with the Hessian is not finite: the loss or its derivatives overflow here")
    w, V = torch.linalg.eigh(found.T)
    below, above = _room(found.T, w, left, n)
    smallest = Measured(float(w[0]), float(w[0]) - below, float(w[0]), len(w))
    largest = Measured(float(w[-1]), float(w[-1]), float(w[-1]) + above, len(w))
    bottom, top = (found.Q.T @ V[:, i].to(found.Q) for i in (0, -1))
    return Ends(largest, smallest, top / top.norm(), bottom / bottom.norm(), product.rung, len(w))


def _room(T: Tensor, w: Tensor, left: float, n: int) -> tuple[float, float]:
    """How far below the least and above the largest of the eigenvalues w of T: (k, k) there may be others.

    The first vector has a part of UNLUCKY / sqrt(n) or more along an eigenvector, in 95 of 100. The polynomial whose
    roots are w is then at its eigenvalue no larger than sqrt(n) / UNLUCKY times the product of all below T's diagonal.
    """
    beside = torch.cat([T.diagonal(-1), torch.tensor([left], dtype=T.dtype)])
    if len(w) == n or not bool((beside > 0).all()):
        return 0.0, 0.0
    most = float(beside.log().sum()) + math.log(math.sqrt(n) / UNLUCKY)
    return _beyond(-w.flip(0), most), _beyond(w, most)


def _beyond(w: Tensor, most: float) -> float:
    """How far beyond the last of w (k,) the logarithms of the distances to all of w sum up to `most`."""
    gaps = w[-1] - w
    low, high = -745.0, math.log(float(gaps[0])) + max(most / len(w) - math.log(float(gaps[0])), 0.0) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if float((gaps + math.exp(middle)).log().sum()) > most else (middle, high)
    return math.exp(high)


def trace(product: Product, like: Tensor, probes: int = 12, seed: int = 0) -> Measured:
    """The trace of a matrix (n, n) from its products with vectors of signs like `like: (n,)` (Hutchinson 1989).

    >>> trace(Product(torch.tensor([5.0, -10.0, 1.0]).mul), torch.zeros(3)).value
    -4.0
    """
    probed = (signs(like, k, seed + 1) for k in range(probes))
    return mean(torch.stack([v @ product(v) for v in probed]))


def spectrum(f: Any, theta: Tensor, probes: int = 6, steps: int = 32, seed: int = 0) -> Spectrum:
    """The spectrum of the Hessian of f at `theta: (n,)`; whole where n is small, else by `probes` quadratures.

    It takes at most 66 + probes x steps products, each of two to three gradients. Raises CurvatureError where f has no
    second derivatives, DiagnosisError where they are not finite.

    >>> found = spectrum(Quadratic([5.0, -10.0, 1.0]), torch.zeros(3, dtype=torch.float64))
    >>> print(found.trace, found.negative, found.condition)
    -4 0.333 5
    """
    product, n = hessian_at(f, theta), len(theta)
    if n <= WHOLE:
        return _whole(product, theta)
    found = ends(product, theta, seed=seed)
    rows = [_quadrature(product, signs(theta, k, seed + 1), steps) for k in range(probes)]
    longest = max(len(values) for values, _ in rows)
    values, weights = (
        torch.stack([torch.nn.functional.pad(row[i], (0, longest - len(row[i]))) for row in rows]) for i in (0, 1)
    )
    return Spectrum(found, values, weights, n, whole=False)


def _whole(product: Product, theta: Tensor) -> Spectrum:
    n = len(theta)
    H = torch.stack([product(e) for e in torch.eye(n, dtype=theta.dtype, device=theta.device)]).double().cpu()
    if not bool(H.isfinite().all()):
        raise DiagnosisError("the Hessian is not finite: the loss or its derivatives overflow here")
    w, V = torch.linalg.eigh((H + H.T) / 2)
    smallest, largest = (Measured(float(w[i]), float(w[i]), float(w[i]), n) for i in (0, -1))
    found = Ends(largest, smallest, V[:, -1].to(theta), V[:, 0].to(theta), product.rung, n)
    return Spectrum(found, w[None], torch.full((1, n), 1 / n, dtype=torch.float64), n, whole=True)


def _quadrature(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss's quadrature for a start; what Lanczos does beyond an invariant space weighs 0."""
    found = krylov(product.apply, start, steps, rtol=math.inf)
    if found is None:
        raise DiagnosisError("a product with the Hessian is not finite: the loss or its derivatives overflow here")
    w, V = torch.linalg.eigh(found.T)
    return w, V[0].square()


def _quantile(values: Tensor, weights: Tensor, tolerance: float, part: float) -> float:
    """The value below which a part of the weight of those above the tolerance lies; 0 where none does."""
    inside = values > tolerance
    if not bool(inside.any()):
        return 0.0
    values, order = values[inside].sort()
    below = weights[inside][order].cumsum(0)
    return float(values[torch.searchsorted(below, part * float(below[-1])).clamp_max(len(values) - 1)])
