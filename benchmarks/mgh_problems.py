"""The 35 problems of Moré, Garbow and Hillstrom (1981, "Testing unconstrained optimization software", TOMS 7:17-41).

Each is the residuals r(x): (m,) of x: (n,), float64, written from the paper's formulas with its numbering; the
objective is the paper's F(x), the sum of their squares (without a half). Every function is free of in-place operations
and of branches on values, so that it can be differentiated any number of times and run under `torch.func`.

Dimensions where the paper leaves them open: Gulf m = 99, Box m = 10, Biggs m = 13, Watson n = 12, Penalty I and II
and 25-31 n = 10 (so extended Rosenbrock), extended Powell n = 12, the linear ones n = 10 and m = 20, Chebyquad
n = m = 8. The runs are from x0 and from 10 x0: 69, for Watson starts at 0.

Where published translations disagree, the paper is followed: the helical valley's angle jumps at the negative half of
the second axis (not of the first, where the start is), Box starts at (0, 10, 20), Kowalik's u are as printed, Broyden
banded starts at -1. Gulf is |y - x2|: the paper's printed product is a known misprint (its solution does not solve it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp, pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor, cos, sin

Residuals = Callable[[Tensor], Tensor]


class Problem(NamedTuple):
    """A problem; `optimum` is the least value of F known, `local_minima` the others, at a point or at infinity."""

    number: int
    name: str
    residuals: Residuals
    m: int
    x0: Tensor  # (n,)
    optimum: float
    local_minima: tuple[float, ...] = ()

    def objective(self, x: Tensor) -> Tensor:
        """F, the sum of the squares of the residuals."""
        return self.residuals(x).square().sum()

    def solved(self, value: float) -> bool:
        """Whether a value of F is the optimum or a local minimum, to 1e-8 max(1, |F|) or to 1e-6 of it."""
        near = [max(1e-8 * max(1.0, best), 1e-6 * best) for best in (self.optimum, *self.local_minima)]
        below = value - self.optimum <= near[0]
        return below or any(abs(value - best) <= e for best, e in zip(self.local_minima, near[1:], strict=True))


def _vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _range(first: int, last: int) -> Tensor:
    return torch.arange(first, last + 1, dtype=torch.float64)


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def freudenstein_roth(x: Tensor) -> Tensor:
    a, b = x
    return torch.stack([-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b])


def powell_badly_scaled(x: Tensor) -> Tensor:
    return torch.stack([1e4 * x[0] * x[1] - 1, (-x[0]).exp() + (-x[1]).exp() - 1.0001])


def brown_badly_scaled(x: Tensor) -> Tensor:
    return torch.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x: Tensor) -> Tensor:
    return torch.stack([y - x[0] * (1 - x[1] ** i) for i, y in enumerate((1.5, 2.25, 2.625), 1)])


def jennrich_sampson(x: Tensor) -> Tensor:
    i = _range(1, 10)
    return 2 + 2 * i - ((i * x[0]).exp() + (i * x[1]).exp())


def helical_valley(x: Tensor) -> Tensor:
    angle = (pi / 2 - torch.atan2(x[0], x[1])) / (2 * pi)  # the paper's theta, from -1/4 to 3/4
    return torch.stack([10 * (x[2] - 10 * angle), 10 * ((x[0] ** 2 + x[1] ** 2).sqrt() - 1), x[2]])


BARD_Y = _vector(0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)


def bard(x: Tensor) -> Tensor:
    u = _range(1, 15)
    v = 16 - u
    return BARD_Y - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))


_HALF = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521)
GAUSSIAN_Y = _vector(*_HALF, 0.3989, *reversed(_HALF))


def gaussian(x: Tensor) -> Tensor:
    t = (8 - _range(1, 15)) / 2
    return x[0] * (-x[1] * (t - x[2]) ** 2 / 2).exp() - GAUSSIAN_Y


MEYER_Y = _vector(
    34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872
)  # fmt: skip


def meyer(x: Tensor) -> Tensor:
    t = 45 + 5 * _range(1, 16)
    return x[0] * (x[1] / (t + x[2])).exp() - MEYER_Y


def gulf(x: Tensor) -> Tensor:
    t = _range(1, 99) / 100
    y = 25 + (-50 * t.log()) ** (2 / 3)
    return (-((y - x[1]).abs() ** x[2]) / x[0]).exp() - t


def box(x: Tensor) -> Tensor:
    t = _range(1, 10) / 10
    return (-t * x[0]).exp() - (-t * x[1]).exp() - x[2] * ((-t).exp() - (-10 * t).exp())


def powell_singular(x: Tensor) -> Tensor:
    a, b, c, d = x.view(-1, 4).T
    rows = (a + 10 * b, sqrt(5) * (c - d), (b - 2 * c) ** 2, sqrt(10) * (a - d) ** 2)
    return torch.stack(rows, 1).reshape(-1)


def wood(x: Tensor) -> Tensor:
    a, b, c, d = x
    return torch.stack(
        [10 * (b - a**2), 1 - a, sqrt(90) * (d - c**2), 1 - c, sqrt(10) * (b + d - 2), (b - d) / sqrt(10)]
    )


KOWALIK_Y = _vector(0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)
KOWALIK_U = _vector(4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)


def kowalik_osborne(x: Tensor) -> Tensor:
    u = KOWALIK_U
    return KOWALIK_Y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x: Tensor) -> Tensor:
    t = _range(1, 20) / 5
    return (x[0] + t * x[1] - t.exp()) ** 2 + (x[2] + x[3] * sin(t) - cos(t)) ** 2


OSBORNE_1_Y = _vector(
    0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751,
    0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490,
    0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406,
)  # fmt: skip


def osborne_1(x: Tensor) -> Tensor:
    t = 10 * _range(0, 32)
    return OSBORNE_1_Y - (x[0] + x[1] * (-t * x[3]).exp() + x[2] * (-t * x[4]).exp())


def biggs(x: Tensor) -> Tensor:
    t = _range(1, 13) / 10
    y = (-t).exp() - 5 * (-10 * t).exp() + 3 * (-4 * t).exp()
    return x[2] * (-t * x[0]).exp() - x[3] * (-t * x[1]).exp() + x[5] * (-t * x[4]).exp() - y


OSBORNE_2_Y = _vector(
    1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608,
    0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661,
    0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428,
    0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559,
    0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098, 0.054,
)  # fmt: skip


def osborne_2(x: Tensor) -> Tensor:
    t = _range(0, 64) / 10
    bumps = sum(x[1 + k] * (-((t - x[8 + k]) ** 2) * x[5 + k]).exp() for k in range(3))
    return OSBORNE_2_Y - (x[0] * (-t * x[4]).exp() + bumps)


def watson(x: Tensor) -> Tensor:
    n = len(x)
    powers = (_range(1, 29) / 29)[:, None] ** _range(0, n - 1)  # (29, n)
    slope = powers[:, :-1] @ (_range(1, n - 1) * x[1:])
    return torch.cat([slope - (powers @ x) ** 2 - 1, torch.stack([x[0], x[1] - x[0] ** 2 - 1])])


def extended_rosenbrock(x: Tensor) -> Tensor:
    odd, even = x.view(-1, 2).T
    return torch.stack([10 * (even - odd**2), 1 - odd], 1).reshape(-1)


def penalty_1(x: Tensor) -> Tensor:
    return torch.cat([sqrt(1e-5) * (x - 1), (x.square().sum() - 0.25)[None]])


def penalty_2(x: Tensor) -> Tensor:
    n, e, i = len(x), (x / 10).exp(), _range(2, len(x))
    y = (i / 10).exp() + ((i - 1) / 10).exp()
    last = (_range(1, n).flip(0) * x.square()).sum() - 1
    middle = torch.cat([e[1:] + e[:-1] - y, e[1:] - exp(-0.1)])
    return torch.cat([(x[0] - 0.2)[None], sqrt(1e-5) * middle, last[None]])


def variably_dimensioned(x: Tensor) -> Tensor:
    weighted = (_range(1, len(x)) * (x - 1)).sum()
    return torch.cat([x - 1, torch.stack([weighted, weighted**2])])


def trigonometric(x: Tensor) -> Tensor:
    n = len(x)
    return n - cos(x).sum() + _range(1, n) * (1 - cos(x)) - sin(x)


def brown_almost_linear(x: Tensor) -> Tensor:
    return torch.cat([x[:-1] + x.sum() - (len(x) + 1), (x.prod() - 1)[None]])


def _inside(n: int) -> Tensor:
    """The n points inside (0, 1), equally spaced."""
    return _range(1, n) / (n + 1)


def _neighbours(x: Tensor) -> tuple[Tensor, Tensor]:
    """x one component before and one after, zero outside."""
    zero = x.new_zeros(1)
    return torch.cat([zero, x[:-1]]), torch.cat([x[1:], zero])


def discrete_boundary_value(x: Tensor) -> Tensor:
    n, (before, after) = len(x), _neighbours(x)
    return 2 * x - before - after + (x + _inside(n) + 1) ** 3 / (2 * (n + 1) ** 2)


def discrete_integral(x: Tensor) -> Tensor:
    n, t = len(x), _inside(len(x))
    cubes = (x + t + 1) ** 3
    kernel = torch.minimum(t[:, None], t) * (1 - torch.maximum(t[:, None], t))  # (n, n), Green's function
    return x + kernel @ cubes / (2 * (n + 1))


def broyden_tridiagonal(x: Tensor) -> Tensor:
    before, after = _neighbours(x)
    return (3 - 2 * x) * x - before - 2 * after + 1


def broyden_banded(x: Tensor) -> Tensor:
    i = _range(1, len(x))
    behind = i[:, None] - i  # (n, n): five before and one after
    band = ((behind != 0) & (behind <= 5) & (behind >= -1)).to(x.dtype)
    return x * (2 + 5 * x**2) + 1 - band @ (x * (1 + x))


def linear_full_rank(x: Tensor, m: int = 20) -> Tensor:
    padded = torch.cat([x, x.new_zeros(m - len(x))])
    return padded - 2 / m * x.sum() - 1


def linear_rank_1(x: Tensor, m: int = 20) -> Tensor:
    return _range(1, m) * (_range(1, len(x)) * x).sum() - 1


def linear_rank_1_zeros(x: Tensor, m: int = 20) -> Tensor:
    inner = (_range(2, len(x) - 1) * x[1:-1]).sum()
    rows = torch.cat([x.new_zeros(1), _range(1, m - 2), x.new_zeros(1)])  # the first and the last are -1
    return rows * inner - 1


def chebyquad(x: Tensor) -> Tensor:
    z = 2 * x - 1  # the polynomials are shifted to [0, 1]
    before, now, means = torch.ones_like(z), z, []
    for i in range(1, len(x) + 1):
        means.append(now.mean() + (1 / (i * i - 1) if i % 2 == 0 else 0.0))
        before, now = now, 2 * z * now - before
    return torch.stack(means)


def _each(n: int, value: float) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


PROBLEMS = (
    Problem(1, "Rosenbrock", rosenbrock, 2, _vector(-1.2, 1), 0.0),
    Problem(2, "Freudenstein-Roth", freudenstein_roth, 2, _vector(0.5, -2), 0.0, (48.984253679240013,)),
    Problem(3, "Powell badly scaled", powell_badly_scaled, 2, _vector(0, 1), 0.0),
    Problem(4, "Brown badly scaled", brown_badly_scaled, 3, _vector(1, 1), 0.0),
    Problem(5, "Beale", beale, 3, _vector(1, 1), 0.0),
    Problem(6, "Jennrich-Sampson", jennrich_sampson, 10, _vector(0.3, 0.4), 124.36218235561474),
    Problem(7, "Helical valley", helical_valley, 3, _vector(-1, 0, 0), 0.0),
    Problem(8, "Bard", bard, 15, _vector(1, 1, 1), 8.2148773065789725e-3, (17.428693333333333,)),
    Problem(9, "Gaussian", gaussian, 15, _vector(0.4, 1, 0), 1.1279327696189e-8),
    Problem(10, "Meyer", meyer, 16, _vector(0.02, 4000, 250), 87.945855170395713),
    Problem(11, "Gulf", gulf, 99, _vector(5, 2.5, 0.15), 0.0),
    Problem(12, "Box", box, 10, _vector(0, 10, 20), 0.0),
    Problem(13, "Powell singular", powell_singular, 4, _vector(3, -1, 0, 1), 0.0),
    Problem(14, "Wood", wood, 6, _vector(-3, -1, -3, -1), 0.0),
    Problem(15, "Kowalik-Osborne", kowalik_osborne, 11, _vector(0.25, 0.39, 0.415, 0.39), 3.0750560384924e-4,
            (1.02734304869546e-3,)),
    Problem(16, "Brown-Dennis", brown_dennis, 20, _vector(25, 5, -5, -1), 85822.201626356350),
    Problem(17, "Osborne 1", osborne_1, 33, _vector(0.5, 1.5, -1, 0.01, 0.02), 5.4648946974825e-5),
    Problem(18, "Biggs EXP6", biggs, 13, _vector(1, 2, 1, 1, 1, 1), 0.0, (5.6556499255e-3,)),
    Problem(19, "Osborne 2", osborne_2, 65, _vector(1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5),
            4.0137736293548e-2),
    Problem(20, "Watson", watson, 31, _each(12, 0), 4.72238110e-10),
    Problem(21, "Extended Rosenbrock", extended_rosenbrock, 10, _vector(-1.2, 1).repeat(5), 0.0),
    Problem(22, "Extended Powell", powell_singular, 12, _vector(3, -1, 0, 1).repeat(3), 0.0),
    Problem(23, "Penalty I", penalty_1, 11, _range(1, 10), 7.0876514670904e-5),
    Problem(24, "Penalty II", penalty_2, 20, _each(10, 0.5), 2.9366053745675e-4),
    Problem(25, "Variably dimensioned", variably_dimensioned, 12, 1 - _range(1, 10) / 10, 0.0),
    Problem(26, "Trigonometric", trigonometric, 10, _each(10, 0.1), 0.0, (2.7950561219e-5,)),
    Problem(27, "Brown almost-linear", brown_almost_linear, 10, _each(10, 0.5), 0.0, (1.0,)),
    Problem(28, "Discrete boundary value", discrete_boundary_value, 10, _inside(10) * (_inside(10) - 1), 0.0),
    Problem(29, "Discrete integral equation", discrete_integral, 10, _inside(10) * (_inside(10) - 1), 0.0),
    Problem(30, "Broyden tridiagonal", broyden_tridiagonal, 10, _each(10, -1), 0.0),
    Problem(31, "Broyden banded", broyden_banded, 10, _each(10, -1), 0.0),
    Problem(32, "Linear, full rank", linear_full_rank, 20, _each(10, 1), 10.0),
    Problem(33, "Linear, rank 1", linear_rank_1, 20, _each(10, 1), 20 * 19 / (2 * 41)),
    Problem(34, "Linear, rank 1, zeros", linear_rank_1_zeros, 20, _each(10, 1), (400 + 60 - 6) / (2 * 37)),
    Problem(35, "Chebyquad", chebyquad, 8, _inside(8), 3.5168737256779e-3),
)  # fmt: skip


def runs() -> Iterator[tuple[Problem, int, Tensor]]:
    """The 69 runs: a problem, 1 or 10, and the start, x0 times that."""
    for problem in PROBLEMS:
        for factor in (1, 10) if problem.x0.any() else (1,):
            yield problem, factor, factor * problem.x0
