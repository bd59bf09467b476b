"""Block coordinate descent: any rule on one block of theta a step (section 8.7.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.core import derivatives
from thalweg.core.derivatives import Product
from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.noise import uniform
from thalweg.core.rule import SEEN, Memory, Rule, Start, clock
from thalweg.core.status import Status, going

Choose = Callable[[int, Tensor], int]  # of the steps taken, and the norms of the gradient's blocks, the block's number
Block = Sequence[int] | slice


def cyclic(turn: int, norms: Tensor) -> int:
    """One block after the other.

    >>> [cyclic(turn, torch.zeros(3)) for turn in range(5)]
    [0, 1, 2, 0, 1]
    """
    return turn % len(norms)


def gauss_southwell(turn: int, norms: Tensor) -> int:
    """The block whose gradient is the longest.

    >>> gauss_southwell(0, torch.tensor([1.0, 3.0, 2.0]))
    1
    """
    return int(norms.argmax())


def at_random(seed: int = 0) -> Choose:
    """Any block, with equal chances; a function of the seed and the number of steps taken.

    >>> choose = at_random(seed=1)
    >>> [choose(turn, torch.zeros(3)) for turn in range(8)]
    [0, 0, 1, 1, 0, 2, 2, 0]
    """

    def choose(turn: int, norms: Tensor) -> int:
        coarse, fine = uniform(torch.zeros(2, dtype=torch.float64), turn, seed).tolist()
        return int((coarse + fine / 2**16) * len(norms))

    return choose


def blockwise(rule: Rule, blocks: Iterable[Block], choose: Choose = cyclic) -> Rule:
    """The rule on one block of theta a step, the other parameters as they are (section 8.7.2).

    A block is a shape or a slice. Shapes follow each other, as the parameters in `network.shapes` do, and a rule that
    looks at a tensor sees each in its own; slices may overlap, and leave parameters out, which then stay as they are.
    `choose` is `cyclic`, `gauss_southwell`, `at_random(seed)`, or a function like them. Each block has a memory of its
    own, `name[k]` for block k, numbers too; `turn` counts the steps. A rule that sees f sees it as a function of the
    block. Where it remembers a status, the whole's is that of the blocks once all have stopped without a step between.

    Where one variable says what is best for another, it is slow: of (x1 - x2)² + a (x1² + x2²), exact steps along x1
    and then x2 leave (1 + a)⁻² of the distance to 0, most of it where a is small; Newton's method leaves nothing.

    Raises AlgorithmError for blocks that do not lie within theta, and for a rule that answers with an average: put the
    average around. `optim.Optimizer` holds no memory of blocks: there, take a rule without memory, or parameter groups.

    >>> from thalweg import sgd
    >>> rule = blockwise(sgd, [slice(0, 1), slice(1, 3)])
    >>> memory = rule.start(torch.zeros(3))
    >>> for _ in range(2):
    ...     delta, memory = rule.step({"g": torch.ones(3)}, memory, {"lr": 0.5})
    ...     print(delta)
    tensor([-0.5000,  0.0000,  0.0000])
    tensor([ 0.0000, -0.5000, -0.5000])
    """
    if rule.answers is not None:
        raise AlgorithmError(f"blockwise cannot run {rule.name}, which answers with an average: put that around it")
    pieces, shapes = _places(blocks)
    inner = [lifted(rule, [shape]) for shape in shapes]
    names = [[f"{name.removesuffix('.0')}[{k}]" for name in inside.remembers] for k, inside in enumerate(inner)]
    stops = "status" in rule.remembers
    remembers = {"turn": clock, **({"status": going} if stops else {})}
    for piece, inside, mine in zip(pieces, inner, names, strict=True):
        remembers |= {name: _on(piece, start) for name, start in zip(mine, inside.remembers.values(), strict=True)}
    needed = {"g", *rule.sees, *(("theta",) if "f" in rule.sees else ())}
    sees = tuple(name for name in SEEN if name in needed)

    def run(*args: Any, **knobs: Any) -> Any:
        seen = dict(zip(sees, args, strict=False))
        memory = dict(zip(remembers, args[len(sees) :], strict=True))
        g = seen["g"]
        if max(piece.stop for piece in pieces) > len(g):
            raise AlgorithmError(f"the blocks of {rule.name} lie in {pieces[-1].stop} parameters, there are {len(g)}")
        k = choose(memory["turn"], torch.stack([torch.linalg.vector_norm(g[piece]) for piece in pieces]))
        piece, inside, mine = pieces[k], inner[k], names[k]
        within = {name: value[piece] for name, value in seen.items() if name != "f"}
        if "f" in seen:
            within["f"] = OfBlock(seen["f"], seen["theta"], piece)
        held = {own: memory[name] for own, name in zip(inside.remembers, mine, strict=True)}
        if rule.per == "element" and any(isinstance(m, Tensor) and len(m) != len(within["g"]) for m in held.values()):
            raise AlgorithmError(f"the memory of {rule.name} is not that of block {k}: optim.Optimizer cannot hold it")
        delta, kept = inside.step(within, held, knobs)
        memory |= dict(zip(mine, kept.values(), strict=True))
        memory["turn"] += 1
        if stops:
            memory |= _statuses(memory, k, len(pieces), bool(delta.any()))
        return put(torch.zeros_like(g), piece, delta), *memory.values()

    return Rule(
        name=f"blockwise({rule.name})",
        fn=run,
        sees=sees,
        remembers=remembers,
        knobs=rule.knobs,
        doc=blockwise.__doc__ or "",
        per="vector",
        batched=False,
    )


class OfBlock:
    """f as a function of one block of theta, all else as it is.

    >>> f = OfBlock(lambda theta: theta.prod(), torch.tensor([2.0, 3.0, 5.0]), slice(0, 1))
    >>> derivatives.value_and_gradient(f, torch.tensor([7.0]))
    (tensor(105.), tensor([15.]))
    """

    def __init__(self, f: Any, theta: Tensor, piece: slice) -> None:
        self.f, self.theta, self.piece = f, theta, piece
        for name in ("residuals", "outputs"):
            if hasattr(f, name):
                setattr(self, name, self._of(getattr(f, name)))
        if hasattr(f, "loss_of"):
            self.loss_of = f.loss_of

    def whole(self, x: Tensor) -> Tensor:
        """All of theta, `x` in the place of the block."""
        return put(self.theta, self.piece, x)

    def __call__(self, x: Tensor) -> Tensor:
        """The value where the block is x."""
        value: Tensor = self.f(self.whole(x))
        return value

    def value_and_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and the block of the gradient."""
        value, g = derivatives.value_and_gradient(self.f, self.whole(x))
        return value, g[self.piece]

    def hessian_at(self, x: Tensor) -> Product:
        """Products with the block of the Hessian."""
        return self._cut(derivatives.hessian_at(self.f, self.whole(x)))

    def gauss_newton_at(self, x: Tensor) -> Product:
        """Products with the block of the Gauss-Newton matrix."""
        return self._cut(derivatives.gauss_newton_at(self.f, self.whole(x)))

    def _cut(self, product: Product) -> Product:
        nothing = torch.zeros_like(self.theta)
        return product._replace(apply=lambda u: product(put(nothing, self.piece, u))[self.piece])

    def _of(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: function(self.whole(x))


def put(theta: Tensor, piece: slice, x: Tensor) -> Tensor:
    """A copy of `theta: (n,)` with `x` in the place of a piece.

    >>> put(torch.zeros(3), slice(1, 2), torch.ones(1))
    tensor([0., 1., 0.])
    """
    start, stop, step = piece.indices(len(theta))
    return torch.slice_scatter(theta, x, 0, start, stop, step)


def _places(blocks: Iterable[Block]) -> tuple[list[slice], list[tuple[int, ...]]]:
    """Where each block lies, and its shape."""
    pieces: list[slice] = []
    shapes: list[tuple[int, ...]] = []
    at = 0
    for block in blocks:
        if isinstance(block, slice):
            if block.start is None or block.stop is None or min(block.start, block.stop) < 0:
                raise AlgorithmError(f"a block is {block}: say where it begins and ends, counted from 0")
            pieces.append(block)
            shapes.append((len(range(block.start, block.stop, block.step or 1)),))
        else:
            pieces.append(slice(at, at := at + math.prod(block)))
            shapes.append(tuple(block))
    if not pieces:
        raise AlgorithmError("blockwise was given no blocks: give network.shapes, or slices of theta")
    return pieces, shapes


def _on(piece: slice, start: Start) -> Start:
    return Start(start.name, lambda theta, knobs: start.make(theta[piece], knobs), start.scalar)


def _statuses(memory: Memory, k: int, blocks: int, moved: bool) -> Memory:
    """Each block's status, those of the others in question once block k has moved, and the whole's."""
    each = {f"status[{j}]": memory[f"status[{j}]"] for j in range(blocks)}
    if moved:
        each |= {name: int(Status.GOING_ON) for name in each if name != f"status[{k}]"}
    return {**each, "status": max(each.values()) if min(each.values()) > Status.GOING_ON else int(Status.GOING_ON)}
