"""How much of the last direction the next one keeps (section 8.6.2): d = -g + beta d, by several formulas.

Each sees the gradient g: (n,), the one before, and the direction d that was taken from there to here. On a quadratic
with exact line searches they are all the same number.
"""

from __future__ import annotations

from torch import Tensor

ETA = 0.4  # Hager and Zhang's bound, in their form of 2013, which does not change with the scale of f


def fletcher_reeves(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Fletcher and Reeves's (equation 8.30).

    >>> import torch
    >>> g, before = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> fletcher_reeves(g, before, -before)
    tensor(2.)
    """
    return (g @ g) / (before @ before)


def polak_ribiere(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Polak and Ribière's, not below zero (equation 8.31; Gilbert and Nocedal 1992).

    >>> import torch
    >>> g, before = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> polak_ribiere(g, before, -before)
    tensor(1.)
    """
    return ((g @ (g - before)) / (before @ before)).clamp(min=0)


def hestenes_stiefel(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Hestenes and Stiefel's, not below zero (after section 8.6.2).

    >>> import torch
    >>> g, before = torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0])
    >>> hestenes_stiefel(g, before, -before)
    tensor(1.5000)
    """
    y = g - before
    return ((g @ y) / (d @ y)).clamp(min=0)


def dai_yuan(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Dai and Yuan's hybrid: Hestenes and Stiefel's, between zero and their own (2001).

    Their own alone, like Fletcher and Reeves's, is slow to leave a bad direction.

    >>> import torch
    >>> g, before = torch.tensor([-0.5, 1.0]), torch.tensor([1.0, 0.0])
    >>> dai_yuan(g, before, -before), hestenes_stiefel(g, before, -before)
    (tensor(0.8333), tensor(1.1667))
    """
    own = (g @ g) / (d @ (g - before))
    return hestenes_stiefel(g, before, d).minimum(own)


def hager_zhang_cg(g: Tensor, before: Tensor, d: Tensor) -> Tensor:
    """Nonlinear conjugate gradients, Hager and Zhang's CG_DESCENT (2005), which descends whatever the line search.

    >>> import torch
    >>> g, before = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    >>> hager_zhang_cg(g, before, -before)
    tensor(1.)
    """
    y = g - before
    along = d @ y
    beta = (y @ g - 2 * (y @ y) * (d @ g) / along) / along
    return beta.maximum(ETA * (d @ before) / (d @ d))
