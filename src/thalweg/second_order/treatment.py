"""What K-FAC makes of each parameter: blocks of layers, and what is done with the rest (after section 8.6).

    linear, convolution            rows ⊗ columns; for each of its groups; for queries, keys and values each
    embedding                      diagonal (how often each row is used) ⊗ columns
    scale, shift after normalising the exact Fisher matrix of each, whole; so that of a bias which is not one weight's
    a side longer than max_dim     its diagonal
    anything else                  what `others` says: `refuse`, `diagonal`, `scalar`

A weight has one block for all its uses. A bias that belongs to one weight is its last column.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from thalweg.core.errors import CurvatureError
from thalweg.second_order.blocks import DIAGONAL, FULL, SCALAR, Block, pieces
from thalweg.second_order.calls import EMBEDDING, VECTORS, Use, shift_of
from thalweg.second_order.layers import Seen, seen

Others = Callable[[str, str], int]


def refuse(name: str, how: str) -> int:
    """Raises CurvatureError."""
    raise CurvatureError(
        f"there are no Kronecker factors for the parameter {name}, used by {how}: linear and convolutional layers, "
        "attention's projections, embeddings and normalisations have them; make the rule with others=diagonal or "
        "others=scalar, or freeze the parameter"
    )


def diagonal(name: str, how: str) -> int:
    """Its diagonal, from the whole batch's sampled gradient: right in the mean, but noisy."""
    return DIAGONAL


def scalar(name: str, how: str) -> int:
    """The mean of that diagonal, one number: gradient descent, its length by the parameter's mean curvature."""
    return SCALAR


class Layer(NamedTuple):
    """A block, and the uses that it is made of; none, but a parameter's number, for one without factors."""

    block: Block
    uses: list[Use]
    parameter: int = -1


def layers(seen: Seen, others: Others = refuse, max_dim: int = 2048) -> list[Layer]:
    """The blocks for what was seen, in the order of theta; none for parameters that the outputs do not depend on."""
    unknown = dict(seen.others)
    while True:
        found = _known(seen, unknown, max_dim)
        places = sorted(piece for layer in found for piece in pieces(layer.block))
        clashes = {_number(seen, b[0]) for a, b in pairwise(places) if b[0] < a[1]}
        if not clashes:
            break
        unknown |= dict.fromkeys(clashes, "several layers, by each another part of it")
    for k, how in sorted(unknown.items()):
        name, at, tensor = seen.parameters[k]
        found.append(Layer(Block(at, -1, 1, tensor.numel(), 1, others(name, how), DIAGONAL), [], k))
    return sorted(found, key=lambda layer: layer.block.at)


def _known(seen: Seen, unknown: Collection[int], max_dim: int) -> list[Layer]:
    uses = []
    for use in seen.uses:
        if use.bias is not None and _number(seen, use.bias) in unknown:
            use = use._replace(bias=None)
        if _number(seen, use.at) not in unknown:
            uses.append(use)
        elif use.bias is not None:
            uses.append(shift_of(use))
    together: dict[tuple[int, ...], list[Use]] = {}
    for use in _biases_apart(uses):
        together.setdefault(_key(use), []).append(use)
    found = []
    for of_one in together.values():
        use = of_one[0]
        columns = use.columns + (use.bias is not None)
        left = DIAGONAL if use.rows > max_dim or any(u.kind == EMBEDDING for u in of_one) else FULL
        right = DIAGONAL if columns > max_dim or use.kind in VECTORS else FULL
        bias = -1 if use.bias is None else use.bias
        found.append(Layer(Block(use.at, bias, use.groups, use.rows, columns, left, right), of_one))
    return found


def _number(seen: Seen, at: int) -> int:
    """Of the parameter to which a component of theta belongs."""
    return bisect.bisect_right([p.at for p in seen.parameters], at) - 1


def _key(use: Use) -> tuple[int, ...]:
    return use.at, use.groups, use.rows, use.columns, use.kind in VECTORS


def _biases_apart(uses: list[Use]) -> Iterator[Use]:
    """A bias stays with its weight where neither is ever used without the other, else it is a shift."""
    of_weight, of_bias = defaultdict(set), defaultdict(set)
    for use in uses:
        of_weight[_key(use)].add(use.bias)
        of_bias[use.at if use.kind in VECTORS else use.bias].add(_key(use))
    for use in uses:
        if use.bias is None or (of_weight[_key(use)] == {use.bias} and of_bias[use.bias] == {_key(use)}):
            yield use
        else:
            yield use._replace(bias=None)
            yield shift_of(use)


def treatment(f: Any, theta: Tensor, others: Others = diagonal, max_dim: int = 2048) -> dict[str, str]:
    """What K-FAC makes of each parameter of f's module, in words, by name.

    >>> from thalweg.core.network import Batch, Network
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    >>> network = Network(model, torch.nn.functional.mse_loss)
    >>> f = network.on(Batch(torch.ones(5, 3), torch.zeros(5, 2)))
    >>> for name, words in treatment(f, network.theta).items():
    ...     print(name, "-", words)
    0.weight - linear: 2 x 2 ⊗ 4 x 4
    0.bias - linear: 2 x 2 ⊗ 4 x 4
    1.weight - scale: 2 x 2
    1.bias - shift: 2 x 2
    """
    found = seen(f, theta)
    names = [p.name for p in found.parameters]
    words = {name: "not trained" for name, _ in f.module.named_parameters()} | dict.fromkeys(names, "not reached")
    told: dict[str, list[str]] = {}
    for layer in layers(found, others, max_dim):
        for start, _ in pieces(layer.block):
            told.setdefault(names[_number(found, start)], []).append(_in_words(layer))
    return words | {name: "; ".join(parts) for name, parts in told.items()}


def _in_words(layer: Layer) -> str:
    block = layer.block
    left, right = (
        {FULL: f"{n} x {n}", DIAGONAL: f"diagonal of {n}", SCALAR: f"one number for {n}"}[form]
        for form, n in ((block.left, block.rows), (block.right, block.columns))
    )
    kinds = " and ".join(sorted({use.kind for use in layer.uses})) or "no factors"
    each = f", {block.groups} times" if block.groups > 1 else ""
    return f"{kinds}: {left}{each}" if block.columns == 1 else f"{kinds}: {left} ⊗ {right}{each}"
