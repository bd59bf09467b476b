"""Random numbers that are pure functions of a seed, the step and the position: no generator has a state to lose.

They are the same on every device, in every batch and after every resumption.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BITS = 0xFFFFFFFF  # the hash below is one of 32 bits, kept in int64
ODD = (0x7FEB352D, 0x846CA68B - 2**32)  # its multipliers; signed, so that no product leaves the 64 bits


def signs(theta: Tensor, t: Any, seed: Any = 0) -> Tensor:
    """Signs like theta, -1 or 1 with equal chance. t and seed are whole numbers, or tensors of one.

    >>> signs(torch.zeros(6), t=3, seed=1)
    tensor([-1.,  1.,  1.,  1.,  1., -1.])
    """
    return (1 - 2 * (_bits(theta, t, seed) & 1)).to(theta.dtype)


def uniform(theta: Tensor, t: Any, seed: Any = 0) -> Tensor:
    """Numbers like theta, evenly spread over [0, 1) in steps of 2**-16.

    >>> u = uniform(torch.zeros(10_000), t=3, seed=1)
    >>> bool(((u >= 0) & (u < 1)).all()), round(float(u.mean()), 2)
    (True, 0.49)
    """
    return (_bits(theta, t, seed) >> 16).to(theta.dtype) / 2**16


def _bits(theta: Tensor, t: Any, seed: Any) -> Tensor:
    t, seed = (torch.as_tensor(x, dtype=torch.int64, device=theta.device) for x in (t, seed))
    position = torch.arange(theta.numel(), device=theta.device).reshape(theta.shape)
    return _hashed(_hashed(_hashed(seed) + t) ^ _hashed(position))


def _hashed(x: Tensor) -> Tensor:
    """Wellons' lowbias32 (2018): changes about half of the bits of the answer for each bit of x."""
    x = x & BITS
    x = ((x ^ (x >> 16)) * ODD[0]) & BITS
    x = ((x ^ (x >> 15)) * ODD[1]) & BITS
    return x ^ (x >> 16)
