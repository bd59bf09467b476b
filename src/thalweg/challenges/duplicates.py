"""Repeated rows (section 8.1.3: redundancy), and rows of the validation part that were trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.challenges.finding import Finding
from thalweg.core.measured import Measured, exactly, proportion
from thalweg.core.undisturbed import undisturbed
from thalweg.learning.batches import Examples

MANY = 0.1  # of the rows: more copies than that change what training minimises
LEAKED = 0.01  # of the validation rows
CHUNK = 4096  # rows looked at at once
SOURCE = "Goodfellow et al. 2016"
LOOKED_AT = 2000  # unlike rows that say how coarse columns are


class Duplicates(NamedTuple):
    """Which share of the rows are unlike each other, and which of the validation rows are training rows too."""

    unique: Measured
    leaked: Measured  # by the inputs alone
    rows: int
    by_chance: bool  # whether the columns are so coarse that rows are alike without being copies


def duplicates(train: Examples, valid: Examples | None = None) -> Duplicates:
    """Counts rows that are the same number for number, in 16 bytes a row.

    Rows of a table with few distinct values are alike by chance. Where columns were independent, N rows would meet by
    chance if they had less than 2 log2 N bits of collision entropy in all; columns go together, so twice that is asked.

    >>> from thalweg.learning.batches import Arrays
    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1)
    >>> found = duplicates(Arrays(x, torch.zeros(200)), Arrays(x[:20], torch.zeros(20)))
    >>> found.unique.value, found.leaked.value, found.by_chance
    (0.25, 1.0, False)
    """
    keys = _keys(train, with_targets=True)
    _, which, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    unique, common = len(counts), math.gcd(*counts.tolist())
    leaked = _shared(_keys(train), _keys(valid)) if valid is not None else proportion(0, 0)
    copied = common > 1 and unique > 1  # each row as often as any other: no chance does that
    first = torch.full((unique,), len(keys)).scatter_reduce(0, which, torch.arange(len(keys)), "amin")
    some = first[torch.randperm(unique, generator=torch.Generator().manual_seed(0))[:LOOKED_AT]]
    return Duplicates(
        exactly(unique / len(keys)), leaked, len(keys), not copied and _coarse(_rows(train, some), len(keys))
    )


def _shared(mine: Tensor, theirs: Tensor) -> Measured:
    """How many of their keys (m, 2) are among mine (n, 2)."""
    _, which = torch.unique(torch.cat([mine, theirs]), dim=0, return_inverse=True)
    return proportion(int(torch.isin(which[len(mine) :], which[: len(mine)]).sum()), len(theirs))


def _rows(data: Examples, indices: Tensor, with_targets: bool = False) -> Tensor:
    """The bits of some inputs, and targets, as whole numbers (b, m)."""
    with undisturbed(nn.Module()):  # no module, but the generators: a data set may draw at random
        batch = data.take(indices)
    parts = [_bits(part) for part in (batch.inputs, batch.targets)[: 1 + with_targets]]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def _bits(x: Tensor) -> Tensor:
    x = torch.view_as_real(x) if x.is_complex() else x
    if not x.is_floating_point():
        return x.long().cpu()
    return (x.double() + 0.0).cpu().view(torch.int64)  # 0 and -0 are the same number


def _keys(data: Examples, with_targets: bool = False) -> Tensor:
    """Two numbers a row (N, 2) that unlike rows do not share: random sums of its bits, modulo 2**64."""
    found = []
    for start in range(0, len(data), CHUNK):
        rows = _rows(data, torch.arange(start, min(start + CHUNK, len(data))), with_targets)
        generator = torch.Generator().manual_seed(rows.shape[1])
        factors = torch.randint(-(2**62), 2**62, (rows.shape[1], 2), generator=generator) * 2 + 1
        # The low bits of numbers such as 0.5 are all 0: the high ones are folded into them.
        found.append((rows ^ (rows >> 32)) @ factors)
    return torch.cat(found)


def _coarse(rows: Tensor, n: int) -> bool:
    """Whether n rows with columns like these unlike ones (u, m) would meet by chance."""
    enough, entropy, u = 4 * math.log2(max(n, 2)), 0.0, len(rows)
    for column in rows.T if u > 1 else ():
        counts = column.unique(return_counts=True)[1].double()
        met = float((counts * (counts - 1)).sum()) / (u * (u - 1))
        if met == 0 and rows.shape[1] > 1:
            return False  # this column alone tells all rows apart
        entropy -= math.log2(max(met, 1 / u**2))
        if entropy > enough:
            return False
    return True


def findings(found: Duplicates) -> list[Finding]:
    """Whether rows stand in the data more than once, and in both of its parts.

    >>> print(findings(Duplicates(exactly(0.25), proportion(0, 0), 200, False))[0].what)
    of 200 rows 50 are unlike each other: each stands there 4 times on average
    """
    return [*_within(found), *_across(found)]


def _within(found: Duplicates) -> list[Finding]:
    unlike = round(found.unique.value * found.rows)
    if unlike == found.rows:
        return []
    many = found.unique.value < 1 - MANY and not found.by_chance
    advice = "drop the copies before the data is split: batches repeat themselves, and epochs are longer than the data"
    why = "; with so few distinct values rows are alike by chance" if found.by_chance else ""
    times = f"each stands there {found.rows / unlike:.3g} times on average"
    return [
        Finding(
            "duplicated data", f"of {found.rows} rows {unlike} are unlike each other: {times}{why}",
            "warning" if many else "note", found.unique, f"more than {MANY:.0%} copies", SOURCE, "8.1.3",
            "nothing, where examples may be alike" if found.by_chance else advice,
        )
    ]  # fmt: skip


def _across(found: Duplicates) -> list[Finding]:
    leaked = found.leaked
    if not leaked.n or not leaked.value:
        return []
    grave = leaked.low > LEAKED and not found.by_chance
    return [
        Finding(
            "duplicated data", f"{round(leaked.value * leaked.n)} of {leaked.n} validation rows were trained on",
            "critical" if grave else "note", leaked, f"more than {LEAKED:.0%} of the validation rows",
            SOURCE, "7.8",
            "split the data anew, without copies: what the validation part says of new data is too good",
            where="train and valid",
        )
    ]  # fmt: skip
