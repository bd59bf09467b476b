"""A rule run by tensor operations on many tensors: needs nothing, takes every rule, dtype and device.

An elementwise rule runs on blocks: small tensors are gathered into one vector, large ones on a CPU are cut into pieces
that stay in its cache between the operations of a step. A rule per tensor gets each one in its own shape, a rule per
vector all of them end to end. Half precision is computed in float32, where what is remembered stays; only theta is
rounded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.lifted import lifted
from thalweg.core.rule import Memory, Rule
from thalweg.execution.memory import flat, is_dense, split

BLOCK = 2**17  # elements: a dozen vectors of them fit into a core's cache
WORTH = 4  # tensors of one form: fewer are stepped faster one by one
STACKED = 2**14  # elements: for tensors up to this size the operations cost more than the arithmetic
_HALF = (torch.float16, torch.bfloat16)

Tensors = Sequence[Tensor]
Piece = tuple[int, int, int]  # of tensor k, from element a to b


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which steps of parameters of a dtype are computed, and memory is kept."""
    return torch.float32 if dtype in _HALF else dtype


def advance(
    rule: Rule,
    params: Tensors,
    memory: Mapping[str, Sequence[Tensor | None]],
    grads: Tensors,
    scalars: Memory,
    knobs: Mapping[str, Any],
    f: Any = None,
) -> Memory:
    """Updates parameters and memory in place by one step of the rule; it returns the new scalar memory.

    `memory` has for each name a tensor a parameter; `f` is the objective, for a rule that sees it.
    """
    run = {"element": _elements, "tensor": _tensors, "vector": _vector}[rule.per]
    return run(Call(rule, scalars, knobs, f), params, grads, memory)


class Call(NamedTuple):
    """What is the same for all parameters in a step."""

    rule: Rule
    scalars: Memory
    knobs: Mapping[str, Any]
    f: Any

    def step(self, g: Tensor, theta: Tensor | None, held: Memory) -> tuple[Tensor, Memory]:
        """The step Δθ of some parameters, and the new memory."""
        return self.rule.step({"g": g, "theta": theta, "f": self.f}, {**held, **self.scalars}, self.knobs)


def _elements(call: Call, params: Tensors, grads: Tensors, memory: Mapping[str, Any]) -> Memory:
    thetas = [flat(p) for p in params]
    flat_g = [_flat_like(g, p) for g, p in zip(grads, params, strict=True)]
    flat_m = {name: [flat(m) for m in values] for name, values in memory.items()}
    new = call.scalars
    limit = BLOCK if params[0].device.type == "cpu" else None
    for block in _blocks([p.numel() for p in params], limit):
        theta = _gathered(thetas, block) if _sees_theta(call.rule, thetas[0]) else None
        held = {name: _gathered(values, block) for name, values in flat_m.items()}
        written = {name: _parts(values, block) for name, values in flat_m.items()}
        new = _step(call, _gathered(flat_g, block), theta, held, _parts(thetas, block), written)
    _put_back(params, thetas)
    return new


def _put_back(params: Tensors, thetas: Tensors) -> None:
    """Writes what was a copy: of parameters with gaps, which have no flat view."""
    for p, theta in zip(params, thetas, strict=True):
        if theta.data_ptr() != p.data_ptr():
            p.copy_(theta.view(p.shape))


def _tensors(call: Call, params: Tensors, grads: Tensors, memory: Mapping[str, Any]) -> Memory:
    new = call.scalars
    for alike in _alike(call.rule, params, grads, memory):
        if len(alike) > 1:
            new = _stacked(call, alike, params, grads, memory)
            continue
        k = alike[0]
        held = {name: values[k] for name, values in memory.items()}
        written = {name: [value] for name, value in held.items()}
        new = _step(call, grads[k], params[k], held, [params[k]], written)
    return new


def _alike(rule: Rule, params: Tensors, grads: Tensors, memory: Mapping[str, Any]) -> Iterable[list[int]]:
    """The parameters, several small ones of one form together: in a batch they cost as many operations as one."""
    sets: dict[Any, list[int]] = {}
    for k, (p, g) in enumerate(zip(params, grads, strict=True)):
        batched = rule.batched and p.numel() <= STACKED
        form = (p.shape, g.dtype, *(values[k] is None for values in memory.values())) if batched else k
        sets.setdefault(form, []).append(k)
    return itertools.chain.from_iterable(
        [alike] if len(alike) >= WORTH else [[k] for k in alike] for alike in sets.values()
    )


def _stacked(call: Call, alike: list[int], params: Tensors, grads: Tensors, memory: Mapping[str, Any]) -> Memory:
    """One step of several parameters of a shape, stacked: the rule is mapped over the stack."""
    dtype = computed_in(params[0].dtype)
    mine = [params[k] for k in alike]
    theta, g = (torch.stack(tensors).to(dtype) for tensors in (mine, [grads[k] for k in alike]))
    held = {n: torch.stack([values[k] for k in alike]) for n, values in memory.items() if values[alike[0]] is not None}
    numbers: Memory = {}

    def step(theta: Tensor, g: Tensor, held: Memory) -> tuple[Tensor, Memory]:
        delta, new = call.step(g, theta, {**dict.fromkeys(memory), **held})
        numbers.update({name: new[name] for name in call.scalars})
        return delta, {name: new[name] for name in held}

    delta, new = torch.vmap(step)(theta, g, held)
    if dtype == mine[0].dtype:
        torch._foreach_add_(mine, list(delta.unbind()))
    else:
        torch._foreach_copy_(mine, list((theta + delta).unbind()))
    for name, value in new.items():
        torch._foreach_copy_([memory[name][k] for k in alike], list(value.unbind()))
    return numbers


def _vector(call: Call, params: Tensors, grads: Tensors, memory: Mapping[str, Any]) -> Memory:
    thetas = [p.reshape(-1) for p in params]  # in the order of its shape, in which a rule per tensor inside sees it
    all_of_it = [(k, 0, p.numel()) for k, p in enumerate(params)]
    g, theta = _gathered([g.reshape(-1) for g in grads], all_of_it), _gathered(thetas, all_of_it)
    held, written = together(memory, params)
    call = call._replace(rule=lifted(call.rule, [p.shape for p in params]))
    new = _step(call, g, theta, held, _parts(thetas, all_of_it), written)
    _put_back(params, thetas)
    return new


def together(memory: Mapping[str, Any], params: Tensors) -> tuple[Memory, dict[str, list[Tensor]]]:
    """What a vector rule remembers, as it takes it, and the places where that lies.

    Vectors lie in pieces, one a parameter; a number of the whole is one tensor that all share; what a rule per tensor
    inside remembers (`name.k`) is its own.
    """
    held: Memory = {}
    written: dict[str, list[Tensor]] = {}
    for name, values in memory.items():
        shared = values[0].dim() == 0 and (params[0].dim() > 0 or len({v.data_ptr() for v in values}) < len(values))
        if "." in name or shared:
            held[name], written[name] = values[0], [values[0]]
        else:
            written[name] = [flat(v) for v in values]
            held[name] = _gathered(written[name], [(k, 0, p.numel()) for k, p in enumerate(params)])
    return held, written


def _step(
    call: Call,
    g: Tensor,
    theta: Tensor | None,
    held: Memory,
    thetas: Tensors,
    written: Mapping[str, Sequence[Tensor | None]],
) -> Memory:
    """One call of the rule, and its outcome written where it belongs."""
    dtype = computed_in(thetas[0].dtype)
    theta = None if theta is None else theta.to(dtype)
    delta, new = call.step(g.to(dtype), theta, held)
    if dtype == thetas[0].dtype:
        _add(thetas, delta)
    else:
        assert theta is not None  # half precision: it is always gathered
        _copy(thetas, theta + delta)
    for name, places in written.items():
        if new[name] is not held[name] and new[name] is not None:
            _copy([place for place in places if place is not None], new[name])
    return {name: new[name] for name in call.scalars}


def _add(places: Tensors, value: Tensor) -> None:
    if len(places) == 1:
        places[0].add_(value)
    else:
        torch._foreach_add_(list(places), split(value, places))


def _copy(places: Tensors, value: Tensor) -> None:
    if len(places) == 1:
        places[0].copy_(value)
    else:
        torch._foreach_copy_(list(places), split(value, places))


def _sees_theta(rule: Rule, theta: Tensor) -> bool:
    return "theta" in rule.sees or computed_in(theta.dtype) != theta.dtype


def _blocks(sizes: Sequence[int], limit: int | None) -> Iterator[list[Piece]]:
    """All elements in order, in blocks of at most `limit`: a large tensor is cut, small ones are gathered."""
    block: list[Piece] = []
    room = limit
    for k, size in enumerate(sizes):
        if limit is None or room is None:
            block.append((k, 0, size))
        elif size > limit:
            yield from ([(k, a, min(a + limit, size))] for a in range(0, size, limit))
        else:
            if size > room:
                yield block
                block, room = [], limit
            block.append((k, 0, size))
            room -= size
    if block:
        yield block


def _parts(tensors: Tensors, block: list[Piece]) -> list[Tensor]:
    return [tensors[k][a:b] for k, a, b in block]


def _gathered(tensors: Tensors, block: list[Piece]) -> Tensor:
    parts = _parts(tensors, block)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _flat_like(g: Tensor, p: Tensor) -> Tensor:
    """A gradient as a vector in the order of its parameter's."""
    if not is_dense(p):
        return g.reshape(-1)
    return flat(g if g.stride() == p.stride() else torch.empty_like(p, dtype=g.dtype).copy_(g))
