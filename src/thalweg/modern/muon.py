"""Muon (after section 8.5)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.core.rule import combinator, maximum, rule, zeros

# torch and Jordan iterate in bfloat16, for the speed of it on a GPU; its rounding is part of their trajectory.
DTYPE = torch.bfloat16


@rule(per="tensor", batched=False)  # bfloat16 rounds otherwise in a batch: torch's trajectory would be lost
def muon(g, buffer=zeros, *, lr=1e-3, momentum=0.95, eps=1e-7, a=3.4445, b=-4.775, c=2.0315, steps=5):
    """Muon (Jordan 2024): a step along Nesterov's momentum with its singular values made about equal, 0.7 to 1.2.

    As torch has it: the momentum is a mean, the orthogonalisation is in bfloat16, and lr counts √max(1, rows / columns)
    times; `match_rms_adamw(muon)` is torch's other adjustment, `muon_heavy_ball` its momentum without Nesterov's look
    ahead. torch takes matrices only. Here a kernel with more dimensions is one of (out, the rest) as in Jordan's code,
    and a vector one column: its step has one length whatever its gradient, and `muon_adamw` gives it to AdamW instead.
    torch's weight decay is `decayed(muon, weight_decay=0.1)`. Jordan's lr is 0.02. `a`, `b`, `c` and `steps` are
    numbers, never tensors.

    >>> g = torch.diag(torch.tensor([100.0, 1.0]))
    >>> delta, buffer = muon(g, torch.zeros(2, 2), lr=1.0)
    >>> delta.diagonal().abs().min() > 0.6
    tensor(True)
    """
    buffer = torch.lerp(buffer, g, 1 - momentum)
    update = orthogonalised(torch.lerp(g, buffer, momentum), eps, (a, b, c), int(steps))
    return -lr * original(g.shape) * update, buffer


@rule(per="tensor", batched=False)  # bfloat16 rounds otherwise in a batch: torch's trajectory would be lost
def muon_heavy_ball(g, buffer=zeros, *, lr=1e-3, momentum=0.95, eps=1e-7, a=3.4445, b=-4.775, c=2.0315, steps=5):
    """Muon with heavy-ball momentum (Jordan 2024): the step is the orthogonalised momentum itself, no gradient added.

    torch's `nesterov=False`; all else is said of `muon`.

    >>> delta, buffer = muon_heavy_ball(torch.eye(2), torch.zeros(2, 2), momentum=0.5)
    >>> buffer
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    buffer = torch.lerp(buffer, g, 1 - momentum)
    update = orthogonalised(buffer, eps, (a, b, c), int(steps))
    return -lr * original(g.shape) * update, buffer


@combinator(per="tensor")
def match_rms_adamw(inner, g):
    """Muon's steps in AdamW's size (Liu et al. 2025): 0.2 √max(rows, columns) times lr, so AdamW's lr and decay fit.

    torch's `adjust_lr_fn="match_rms_adamw"`.

    >>> match_rms_adamw(muon).name
    'match_rms_adamw(muon)'
    """
    return inner() * (matching_adamw(g.shape) / original(g.shape))


def original(shape: Sequence[int]) -> float:
    """Jordan's factor of lr: √max(1, rows / columns)."""
    rows, columns = _sides(shape)
    return math.sqrt(max(1, rows / columns))


def matching_adamw(shape: Sequence[int]) -> float:
    """The factor of lr that gives the step the root mean square of a usual step of AdamW's, 0.2."""
    return 0.2 * math.sqrt(max(_sides(shape)))


def orthogonalised(g: Tensor, eps: float, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """UV' of the singular value decomposition of g, roughly, by a quintic Newton-Schulz iteration."""
    a, b, c = coefficients
    rows, columns = _sides(g.shape)
    x = g.reshape(rows, columns).to(DTYPE)
    x = x.mT if rows > columns else x
    x = x / maximum(x.norm(), eps)  # no singular value is above 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if rows > columns else x
    return x.to(g.dtype).reshape(g.shape)


def _sides(shape: Sequence[int]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)
