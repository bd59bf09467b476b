"""How much of the last direction the next one keeps (section 8.6.2): d = -g + beta d, by several formulas.

Each sees the gradient g: (n,), the one before, and the direction d that was taken from there to here. On a quadratic with
exact line searches they are all the same number.
"""

from __future__ import annotations

from torch import Tensor

ETA = 0.4  # Hager and Zhang's bound, in the form of 2013, which does not change with the scale of f


def fletcher_reeves(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Fletcher and Reeves's (equation 8.30).

    >>> float(fletcher_reeves(*_example()))
    4.25
    """
    return (g @ g) / (before @ before)


def polak_ribiere(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Polak and Ribière's, not below zero (equation 8.31; Gilbert and Nocedal 1992).

    >>> float(polak_ribiere(*_example()))
    3.25
    """
    return ((g @ (g - before)) / (before @ before)).clamp(min=0)


def hestenes_stiefel(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Hestenes and Stiefel's, not below zero (after section 8.6.2).

    >>> float(hestenes_stiefel(*_example()))
    2.1666667461395264
    """
    y = g - before
    return ((g @ y) / (d @ y)).clamp(min=0)


def dai_yuan(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Dai and Yuan's hybrid: Hestenes and Stiefel's between zero and theirs (2001).

    Theirs alone, as Fletcher and Reeves's, hardly leaves a direction that was bad.

    >>> float(dai_yuan(*_example()))
    2.1666667461395264
    """
    theirs = (g @ g) / (d @ (g - before))
    return hestenes_stiefel(g, before, d).minimum(theirs)


def hager_zhang_cg(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Hager and Zhang's CG_DESCENT (2005): it descends whatever the line search.

    >>> float(hager_zhang_cg(*_example()))
    0.1666666716337204
    """
    y = g - before
    along = d @ y
    beta = (y @ g - 2 * (y @ y) * (d @ g) / along) / along
    return beta.maximum(ETA * (d @ before) / (d @ d))
