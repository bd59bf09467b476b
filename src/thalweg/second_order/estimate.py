"""Kronecker factors over the batches: a mean that fades, of one process or of several (after section 8.6)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError
from thalweg.core.rule import Start
from thalweg.second_order.blocks import Block, blocks_of, cut, joined, laid_out, pieces
from thalweg.second_order.fisher import Outputs, outputs_at
from thalweg.second_order.kronecker import Evaluated, Sharing, evaluated, expand, factors
from thalweg.second_order.processes import Average, alone
from thalweg.second_order.quadratic import Length, by_model
from thalweg.second_order.treatment import Others, refuse

nothing = Start("nothing", lambda theta, knobs: None)


class Choices(NamedTuple):
    """What is chosen where a rule is made, the functions by which variants differ."""

    step: Length = by_model
    sharing: Sharing = expand
    others: Others = refuse
    average: Average = alone


class Estimate(NamedTuple):
    """The outputs at theta, and the factors over all batches so far."""

    outputs: Outputs
    blocks: list[Block]
    layout: Tensor  # the blocks as a tensor
    statistics: Tensor  # their factors end to end
    changed: bool  # whether other blocks than before
    batch: Evaluated | None  # where the batch was looked at


def estimate(
    f: Any, theta: Tensor, held: tuple[Tensor | None, Tensor | None], choices: Choices, *,
    due: bool, fading: float, samples: float, max_dim: float, t: int, seed: float,
) -> Estimate | None:  # fmt: skip
    """`held`, layout and statistics, with the batch's factors at `theta: (n,)` where that is due; else as they were.

    `fading` is what remains of the old ones. A layer that this batch does not reach keeps its own. It is None where the
    factors are not finite.
    """
    layout, statistics = held
    if layout is not None and statistics is not None and not due:
        return Estimate(outputs_at(f, theta), blocks_of(layout), layout, statistics, False, None)
    found = evaluated(f, theta, choices.others, int(max_dim), int(samples), t, int(seed))
    blocks = [layer.block for layer in found.layers]
    with torch.no_grad():
        new = joined(factors(found, choices.sharing), theta)
        _agreed(choices.average, blocks, new)
        new = choices.average(new)
        if not bool(new.isfinite().all()):
            return None
        if layout is None or statistics is None:
            return Estimate(found.seen.outputs, blocks, laid_out(blocks), new, True, found)
        old = blocks_of(layout)
        if old == blocks:
            faded = fading * statistics + (1 - fading) * new
            return Estimate(found.seen.outputs, blocks, layout, faded, False, found)
        union, faded = _united(old, statistics, blocks, new, fading)
        return Estimate(found.seen.outputs, union, laid_out(union), faded, union != old, found)


def _united(
    old: list[Block], statistics: Tensor, blocks: list[Block], new: Tensor, fading: float
) -> tuple[list[Block], Tensor]:
    """Of blocks that are not all the same: those of before that are not in the way of a new one are kept."""
    before, now = dict(zip(old, cut(statistics, old), strict=True)), dict(zip(blocks, cut(new, blocks), strict=True))
    taken = sorted(piece for block in blocks for piece in pieces(block))
    stay = [block for block in old if block not in now and not _overlaps(block, taken)]
    union = sorted([*blocks, *stay])
    parts = []
    for block in union:
        if block in before and block in now:
            (a, b), (c, d) = before[block], now[block]
            parts.append((fading * a + (1 - fading) * c, fading * b + (1 - fading) * d))
        else:
            parts.append(now[block] if block in now else before[block])
    return union, joined(parts, statistics)


def _overlaps(block: Block, taken: list[tuple[int, int]]) -> bool:
    mine = list(pieces(block))
    return any(b[0] < a[1] and (a in mine or b in mine) for a, b in pairwise(sorted([*taken, *mine])))


def _agreed(average: Average, blocks: list[Block], new: Tensor) -> None:
    """Raises AlgorithmError where the processes saw other layers: their factors cannot be averaged."""
    if average is alone:
        return
    mark = torch.tensor([hash(tuple(blocks)) % 2**20, len(new)], dtype=torch.float64, device=new.device)
    mean, square = average(torch.stack([mark, mark * mark]))
    if bool((square - mean * mean > 1e-6 * square).any()):
        raise AlgorithmError("the processes' batches reach different layers: K-FAC's factors cannot be averaged")
