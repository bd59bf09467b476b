"""A rule that looks at each parameter in its own shape, as a rule on the one vector theta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.core.rule import Rule, Start

Shape = Sequence[int]


def lifted(rule: Rule, shapes: Sequence[Shape]) -> Rule:
    """The rule on `theta: (n,)` that runs a rule per tensor on each parameter, cut out of theta in its shape.

    What the rule remembers of parameter k is called `name.k`; numbers (the clock) stay one for all. A combinator that
    needs the whole vector (a global norm) stays around the lifted rule. A rule without a part per tensor is returned as
    it is.

    >>> from thalweg.core.rule import rule, zeros
    >>> @rule(per="tensor")
    ... def normed(g, m=zeros, *, lr=0.1):
    ...     return -lr * g / g.norm(), m
    >>> flat = lifted(normed, [(2,), (1, 1)])
    >>> flat.step({"g": torch.tensor([3.0, 4.0, 5.0])}, flat.start(torch.zeros(3)), {"lr": 1.0})[0]
    tensor([-0.6000, -0.8000, -1.0000])
    """
    if rule.per == "vector" and rule.wraps is not None:
        inside = lifted(rule.wraps[1], shapes)
        return rule if inside is rule.wraps[1] else rule.around(inside)
    return _lifted(rule, shapes) if rule.per == "tensor" else rule


def _lifted(rule: Rule, shapes: Sequence[Shape]) -> Rule:
    sizes = [math.prod(shape) for shape in shapes]
    owned = [_owned(rule, shape) for shape in shapes]
    scalars = [name for name, start in rule.remembers.items() if start.scalar]
    remembers = {name: rule.remembers[name] for name in scalars}
    for k, names in enumerate(owned):
        remembers |= {f"{name}.{k}": _of_piece(rule.remembers[name], k, shapes, sizes) for name in names}

    def run(*args: Any, **knobs: Any) -> Any:
        seen = dict(zip(rule.sees, args, strict=False))
        memory = dict(zip(remembers, args[len(rule.sees) :], strict=True))
        pieces = {name: _cut(value, shapes, sizes) for name, value in seen.items()}
        deltas: list[Tensor] = []
        new: dict[str, Any] = {}
        for k, names in enumerate(owned):
            mine = dict.fromkeys(rule.remembers) | {name: memory[name] for name in scalars}
            mine |= {name: memory[f"{name}.{k}"] for name in names}
            delta, kept = rule.step({name: piece[k] for name, piece in pieces.items()}, mine, knobs)
            deltas.append(delta.reshape(-1))
            new |= {name: kept[name] for name in scalars} | {f"{name}.{k}": kept[name] for name in names}
        delta = torch.cat(deltas)
        return (delta, *(new[name] for name in remembers)) if remembers else delta

    def answers(theta: Tensor, memory: dict[str, Any], knobs: Any) -> Tensor:
        assert rule.answers is not None
        found = []
        for k, piece in enumerate(_cut(theta, shapes, sizes)):
            mine = {name: memory[name] for name in scalars} | {name: memory[f"{name}.{k}"] for name in owned[k]}
            found.append(rule.answers(piece, mine, knobs).reshape(-1))
        return torch.cat(found)

    return replace(
        rule,
        fn=run,
        remembers=remembers,
        per="vector",
        answers=answers if rule.answers is not None else None,
        wraps=None,
        source=None,
    )


def _cut(vector: Tensor, shapes: Sequence[Shape], sizes: Sequence[int]) -> list[Tensor]:
    return [piece.view(tuple(shape)) for piece, shape in zip(torch.split(vector, list(sizes)), shapes, strict=True)]


def _owned(rule: Rule, shape: Shape) -> list[str]:
    """What the rule remembers of a parameter of this shape: a rule for matrices may remember less of a bias."""
    first = rule.start(torch.zeros(tuple(shape)))
    return [name for name, start in rule.remembers.items() if not start.scalar and first[name] is not None]


def _of_piece(start: Start, k: int, shapes: Sequence[Shape], sizes: Sequence[int]) -> Start:
    return Start(start.name, lambda theta, knobs: start.make(_cut(theta, shapes, sizes)[k], knobs))
