"""A matrix (n, n) as blocks, each a Kronecker product, kept end to end in one vector (after section 8.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DIAGONAL, FULL, SCALAR = range(3)  # what is kept of a factor: its diagonal, all of it, one number for its diagonal


class Block(NamedTuple):
    """Where a block stands: the components of theta that are a matrix (rows, columns) in each of `groups`.

    They start `at`, and its last column is elsewhere, at `bias`, unless that is -1. The block is left ⊗ right, factors
    of the rows and of the columns, of which the forms `left` and `right` are kept. All of it is whole numbers: a
    layout, a list of blocks, is a tensor (blocks, 7).
    """

    at: int
    bias: int
    groups: int
    rows: int
    columns: int
    left: int
    right: int

    def matrix(self, vector: Tensor) -> Tensor:
        """The block's part of a vector (n,), as (groups, rows, columns).

        >>> Block(1, 0, 1, 1, 3, FULL, FULL).matrix(torch.arange(3.0))
        tensor([[[1., 2., 0.]]])
        """
        shape, own = (self.groups, self.rows), self.columns - (self.bias >= 0)
        weight = vector[self.at : self.at + self.groups * self.rows * own].view(*shape, own)
        if self.bias < 0:
            return weight
        return torch.cat([weight, vector[self.bias : self.bias + self.groups * self.rows].view(*shape, 1)], dim=2)

    def put(self, matrix: Tensor, vector: Tensor) -> None:
        """Writes (groups, rows, columns) into the block's part of a vector (n,)."""
        own = self.columns - (self.bias >= 0)
        vector[self.at : self.at + self.groups * self.rows * own] = matrix[:, :, :own].reshape(-1)
        if self.bias >= 0:
            vector[self.bias : self.bias + self.groups * self.rows] = matrix[:, :, own].reshape(-1)

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of what is kept of the two factors."""
        left, right = (
            {FULL: (self.groups, size, size), DIAGONAL: (self.groups, size), SCALAR: (self.groups, 1)}[form]
            for form, size in ((self.left, self.rows), (self.right, self.columns))
        )
        return left, right


Factors = list[tuple[Tensor, Tensor]]  # a pair a block, in the shapes that it says


def laid_out(blocks: Sequence[Block]) -> Tensor:
    """The blocks as a tensor (blocks, 7)."""
    return torch.tensor(blocks, dtype=torch.int64).reshape(-1, 7)


def blocks_of(layout: Tensor) -> list[Block]:
    """The blocks that a layout is."""
    return [Block(*row) for row in layout.tolist()]


def cut(flat: Tensor, blocks: Sequence[Block]) -> Factors:
    """The factors in one vector, taken apart."""
    shapes = [shape for block in blocks for shape in block.shapes()]
    cuts = torch.split(flat, [torch.Size(s).numel() for s in shapes])
    pieces = iter([piece.view(s) for piece, s in zip(cuts, shapes, strict=True)])
    return list(zip(pieces, pieces, strict=True))


def joined(factors: Factors, like: Tensor) -> Tensor:
    """Factors as one vector, in the dtype of theta."""
    return torch.cat([like.new_empty(0), *(x.reshape(-1).to(like.dtype) for pair in factors for x in pair)])


def times(left: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    """(left ⊗ right) times a matrix (groups, rows, columns): left matrix right', of factors full or diagonal.

    >>> times(torch.tensor([[2.0, 3.0]]), torch.ones(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 1.0]]]))
    tensor([[[4., 2.],
             [6., 3.]]])
    """
    matrix = left @ matrix if left.dim() == 3 else left.unsqueeze(2) * matrix
    return matrix @ right.mT if right.dim() == 3 else matrix * right.unsqueeze(1)


def dense(block: Block, left: Tensor, right: Tensor) -> Tensor:
    """A block whole: (groups, rows * columns, rows * columns), row after row of the matrix that it multiplies."""
    left, right = (
        x if x.dim() == 3 else torch.diag_embed(x.expand(block.groups, size))
        for x, size in ((left, block.rows), (right, block.columns))
    )
    return torch.stack([torch.kron(a.contiguous(), b.contiguous()) for a, b in zip(left, right, strict=True)])


def pieces(block: Block) -> Iterator[tuple[int, int]]:
    """Where in theta the block's components start and end."""
    own = block.columns - (block.bias >= 0)
    yield block.at, block.at + block.groups * block.rows * own
    if block.bias >= 0:
        yield block.bias, block.bias + block.groups * block.rows
