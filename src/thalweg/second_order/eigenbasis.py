"""The eigenbasis of Kronecker factors, and second moments of gradients in it (after section 8.6).

Of all diagonals in that basis, the second moments are nearest to the Fisher matrix; the products of the factors'
eigenvalues, which K-FAC has there, are another one (George et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.second_order.blocks import FULL, SCALAR, Block, Factors
from thalweg.second_order.calls import EMBEDDING, VECTORS, Use
from thalweg.second_order.kronecker import AT_ONCE, Evaluated, inputs_of, outgoing, sides, summed
from thalweg.second_order.layers import Seen
from thalweg.second_order.treatment import Layer

Bases = list[tuple[Tensor | None, Tensor | None]]  # a pair a block: (groups, size, size), or the coordinates' own


def bases_of(factors: Factors) -> Bases:
    """Orthogonal matrices whose columns are the eigenvectors of each factor, in double precision first."""
    return [(_eigenvectors(left), _eigenvectors(right)) for left, right in factors]


def _eigenvectors(x: Tensor) -> Tensor | None:
    return torch.linalg.eigh(x.double())[1].to(x.dtype) if x.dim() == 3 else None


def cut_bases(flat: Tensor, blocks: Sequence[Block]) -> Bases:
    """The bases in one vector, taken apart: only factors that are kept whole have one."""
    sizes = [
        (block.groups, size, size) if form == FULL else None
        for block in blocks
        for form, size in ((block.left, block.rows), (block.right, block.columns))
    ]
    rest = iter(torch.split(flat, [torch.Size(size).numel() for size in sizes if size is not None]))
    pieces = iter([None if size is None else next(rest).view(size) for size in sizes])
    return list(zip(pieces, pieces, strict=True))


def joined_bases(bases: Bases, like: Tensor) -> Tensor:
    """Bases as one vector."""
    return torch.cat([like.new_empty(0), *(x.reshape(-1) for pair in bases for x in pair if x is not None)])


def cut_moments(flat: Tensor, blocks: Sequence[Block]) -> list[Tensor]:
    """The second moments in one vector, taken apart: (groups, rows, columns) a block."""
    shapes = [_shape(block) for block in blocks]
    pieces = torch.split(flat, [shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def size_of_moments(blocks: Sequence[Block]) -> int:
    """How many second moments there are."""
    return sum(_shape(block).numel() for block in blocks)


def _shape(block: Block) -> torch.Size:
    return torch.Size((block.groups, 1 if block.left == SCALAR else block.rows, block.columns))


def turned(basis: tuple[Tensor | None, Tensor | None], matrix: Tensor, back: bool = False) -> Tensor:
    """A matrix (groups, rows, columns) in the eigenbasis, or from there back."""
    left, right = basis
    if left is not None:
        matrix = (left if back else left.mT) @ matrix
    return matrix if right is None else matrix @ (right.mT if back else right)


def solved(blocks: Sequence[Block], bases: Bases, moments: Sequence[Tensor], g: Tensor, damping: float) -> Tensor:
    """g: (n,) over the second moments + damping in the eigenbases; where there is no block, over the damping."""
    x = g / damping if damping else torch.zeros_like(g)
    for block, basis, moment in zip(blocks, bases, moments, strict=True):
        coordinates = turned(basis, block.matrix(g))
        total = moment + damping
        block.put(turned(basis, torch.where(total > 0, coordinates / total, 0.0), back=True), x)
    return x


def eigenvalues(factors: Factors, bases: Bases) -> list[Tensor]:
    """The diagonal that K-FAC has in the bases: products of the factors' eigenvalues, (groups, rows, columns)."""
    found = []
    for pair, basis in zip(factors, bases, strict=True):
        left, right = (x if u is None else ((x @ u) * u).sum(1).clamp(min=0) for x, u in zip(pair, basis, strict=True))
        found.append(left.unsqueeze(2) * right.unsqueeze(1))
    return found


def carried(
    moments: Tensor, old: tuple[Tensor | None, Tensor | None], new: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """The diagonal, in a new basis, of the matrix that has moments: (groups, rows, columns) for a diagonal in an old.

    >>> turn = torch.tensor([[[0.6, -0.8], [0.8, 0.6]]])
    >>> carried(torch.tensor([[[1.0], [0.0]]]), (turn, None), (torch.eye(2)[None], None))
    tensor([[[0.3600],
             [0.6400]]])
    """
    (a, b), (c, d) = old, new
    if a is not None and c is not None:
        moments = (c.mT @ a).square() @ moments
    return moments if b is None or d is None else moments @ (b.mT @ d).square()


def second_moments(found: Evaluated, bases: Bases) -> list[Tensor]:
    """The diagonal of the batch's Fisher matrix in the bases: sums of squares over its examples, per block.

    An example's gradient is the sum over its positions and over the uses of a weight; those of an embedding that is an
    output layer too are not added to the latter's.
    """
    totals: list[Tensor] = []
    for part in found.gradients():
        squares = [
            torch.stack(
                [_squares(found.seen, layer, which, [gradients[u] for u in which], basis) for which in sides(layer)]
            ).sum(0)
            for layer, gradients, basis in zip(found.layers, part, bases, strict=True)
        ]
        totals = [a + b for a, b in zip(totals, squares, strict=True)] if totals else squares
    return totals


def _squares(
    seen: Seen, layer: Layer, which: list[int], gradients: list[Tensor], basis: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    left, right = basis
    if not layer.uses:
        return outgoing(layer, which, gradients).unsqueeze(2)
    uses = [layer.uses[u] for u in which]
    if uses[0].kind in VECTORS:
        return _in(torch.cat(summed(gradients)), left).square().sum(0).unsqueeze(2)
    if uses[0].kind == EMBEDDING:
        return _of_rows(layer.block, uses, [_in(g, right) for g in gradients])
    rows = [_in(g, left) for g in gradients]
    columns = [_in(inputs_of(seen, layer, use), right)[0] for use in uses]
    if len({g.shape[1] for g in rows}) == 1:
        return _of_examples(rows, columns)
    return torch.stack([_of_examples([r], [c]) for r, c in zip(rows, columns, strict=True)]).sum(0)


def _in(x: Tensor, basis: Tensor | None) -> Tensor:
    """(..., groups, size) in a basis."""
    if basis is None:
        return x
    return x @ basis[0] if len(basis) == 1 else torch.einsum("...gi,gij->...gj", x, basis)


def _of_examples(rows: list[Tensor], columns: list[Tensor]) -> Tensor:
    """The squares of examples' gradients: rows (k, n, s, groups, r) and columns (n, s, groups, c), a pair a use."""
    k, n, s, groups, r = rows[0].shape
    c = columns[0].shape[-1]
    if len(rows) == 1 and s == 1:
        a, b = rows[0].square().sum(0)[:, 0], columns[0].square()[:, 0]  # (n, groups, r), (n, groups, c)
        return a.permute(1, 2, 0) @ b.transpose(0, 1)
    total = rows[0].new_zeros(groups, r, c)
    most = max(1, AT_ONCE // (k * groups * r * c))
    for first in range(0, n, most):
        some = slice(first, first + most)
        each = [torch.einsum("knsgr,nsgc->kngrc", a[:, some], b[some]) for a, b in zip(rows, columns, strict=True)]
        total = total + torch.stack(each).sum(0).square().sum((0, 1))
    return total


def _of_rows(block: Block, uses: list[Use], gradients: list[Tensor]) -> Tensor:
    """Of an embedding: what an example's positions with the same token, (k, n, s, 1, columns) a use, sum to."""
    total = gradients[0].new_zeros(block.rows, block.columns)
    for use, g in zip(uses, gradients, strict=True):
        assert use.inputs is not None
        tokens = use.inputs().reshape(g.shape[1], -1)  # (n, s)
        keys = tokens + block.rows * torch.arange(len(tokens), device=tokens.device)[:, None]
        there = tokens >= 0
        different, which = torch.unique(keys[there], return_inverse=True)
        sums = g.new_zeros(len(g), len(different), block.columns).index_add_(1, which, g[:, there, 0])
        total.index_add_(0, different % block.rows, sums.square().sum(0))
    return total[None]
