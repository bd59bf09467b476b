"""A rule on sparse gradients: only the rows that have one are looked at, and change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.core.rule import Memory, Rule
from thalweg.execution.eager import computed_in


def advance(
    rule: Rule,
    params: Sequence[Tensor],
    memory: Mapping[str, Sequence[Tensor]],
    grads: Sequence[Tensor],
    scalars: Memory,
    knobs: Mapping[str, Any],
) -> Memory:
    """Updates in place, at the indices of each sparse gradient, the parameter and what is remembered of it.

    That is the algorithm itself where a zero gradient changes nothing (SGD, AdaGrad), and lazy elsewhere (SparseAdam).
    """
    new = scalars
    for k, (p, sparse) in enumerate(zip(params, grads, strict=True)):
        g = sparse.coalesce()
        at = tuple(g.indices())
        dtype = computed_in(p.dtype)
        seen = {"g": g.values().to(dtype), "theta": p[at].to(dtype)}
        held = {name: values[k] for name, values in memory.items()}
        delta, new = rule.step(seen, {**{name: value[at] for name, value in held.items()}, **scalars}, knobs)
        p.index_put_(at, (seen["theta"] + delta).to(p.dtype))
        for name, value in held.items():
            value.index_put_(at, new[name])
    return {name: new[name] for name in scalars}
