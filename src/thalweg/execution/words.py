"""Words of the vocabulary that a processor has no instruction for, as kernels have them: without branches or calls.

A call of the library's atan2 keeps a loop from working on several numbers at once: Adam-atan2 took twelve times what
its memory needs. The polynomials are those of the Cephes library (Moshier 1989), good to two units in the last place.
"""

from __future__ import annotations

from math import copysign, nan, pi
from typing import Any

import numba
from numpy import float32


@numba.njit
def float32_atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y) in float32, as torch.atan2 has it, infinities, NaN and signed zeros included."""
    ratio, swapped = _ratio(y, x, float32(0.0), float32(1.0))
    reduced = ratio > float32(0.4142135623730950)  # tan(π / 8)
    r = (ratio - float32(1.0)) / (ratio + float32(1.0)) if reduced else ratio
    z = r * r
    p = (float32(8.05374449538e-2) * z - float32(1.38776856032e-1)) * z + float32(1.99777106478e-1)
    angle = (p * z - float32(3.33329491539e-1)) * z * r + r + (float32(pi / 4) if reduced else float32(0.0))
    angle = float32(pi / 2) - angle if swapped else angle
    angle = float32(pi) - angle if copysign(float32(1.0), x) < float32(0.0) else angle
    return float32(nan) if (x != x) | (y != y) else copysign(angle, y)


@numba.njit
def float64_atan2(y: Any, x: Any) -> Any:
    """The same in float64."""
    ratio, swapped = _ratio(y, x, 0.0, 1.0)
    reduced = ratio > 0.66
    r = (ratio - 1.0) / (ratio + 1.0) if reduced else ratio
    z = r * r
    p = -8.750608600031904122785e-1 * z - 1.615753718733365076637e1
    p = ((p * z - 7.500855792314704667340e1) * z - 1.228866684490136173410e2) * z - 6.485021904942025371773e1
    q = ((z + 2.485846490142306297962e1) * z + 1.650270098316988542046e2) * z + 4.328810604912902668951e2
    q = (q * z + 4.853903996359136964868e2) * z + 1.945506571482613964425e2
    angle = r * (z * p / q) + r + (pi / 4 if reduced else 0.0)
    angle = pi / 2 - angle if swapped else angle
    angle = pi - angle if copysign(1.0, x) < 0.0 else angle
    return nan if (x != x) | (y != y) else copysign(angle, y)


@numba.njit
def _ratio(y: Any, x: Any, zero: Any, one: Any) -> Any:
    """The smaller of |x| and |y| over the larger, and whether |y| is the larger."""
    a, b = abs(x), abs(y)
    swapped = b > a
    small, large = (a, b) if swapped else (b, a)
    return (zero if large == zero else (one if small == large else small / large)), swapped
