"""Kronecker factors of a network's Fisher matrix on a batch (after section 8.6).

Of each layer's weight (`treatment.py` has what counts as one): the covariance of what comes in, a mean over the batch,
and that of the gradients at what goes out, a sum, for vectors on the outputs whose covariance is the Hessian of the
loss in them (Martens and Grosse 2015). Where a weight is used at several positions, these are so many examples, or are
summed first: `expand` and `reduce` (Grosse and Martens 2016; Eschenhagen et al. 2023). The first axis of what comes in
and goes out, but in torch's attention, is taken for the examples, or several of each, one after another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core.errors import CurvatureError
from thalweg.second_order.blocks import FULL, SCALAR, Factors
from thalweg.second_order.calls import EMBEDDING, VECTORS, Use
from thalweg.second_order.fisher import vectors
from thalweg.second_order.layers import Seen, seen
from thalweg.second_order.treatment import Layer, Others, layers

AT_ONCE = 2**24  # numbers: what the gradients of several vectors on the outputs may take

# Where a weight is used at several positions: parts (k, examples, positions, groups, width), one a use

Sharing = Callable[[list[Tensor], bool], Tensor]


def expand(parts: list[Tensor], mean: bool) -> Tensor:
    """Every position is an example of its own: (all, groups, width)."""
    return torch.cat([part.flatten(0, 2) for part in parts])


def reduce(parts: list[Tensor], mean: bool) -> Tensor:
    """What an example's positions sum to, of gradients, or their mean, of inputs: (all, groups, width)."""
    if len({part.shape[1] for part in parts}) > 1:
        raise CurvatureError("a weight is used for different numbers of examples: use expand, not reduce")
    total = torch.stack([part.sum(2) for part in parts]).sum(0)
    return (total / sum(part.shape[2] for part in parts) if mean else total).flatten(0, 1)


class Evaluated(NamedTuple):
    """An evaluation of f on its batch, its layers, and the gradients at what goes out of each use of them."""

    seen: Seen
    layers: list[Layer]
    gradients: Callable[[], Iterator[list[list[Tensor]]]]  # (k, examples, positions, groups, width) a use, in parts


def evaluated(f: Any, theta: Tensor, others: Others, max_dim: int, samples: int, t: int, seed: int) -> Evaluated:
    """What K-FAC asks of f at `theta: (n,)`; the vectors on the outputs are `fisher.vectors`."""
    found = seen(f, theta)
    those = layers(found, others, max_dim)
    edges = list({use.edge[:2]: use.edge for layer in those for use in layer.uses}.items())
    place = {key: i for i, (key, _) in enumerate(edges)}
    ends = [edge for _, edge in edges] + [found.parameters[layer.parameter].tensor for layer in those if not layer.uses]
    kept: list[list[list[Tensor]]] = []

    def gradients() -> Iterator[list[list[Tensor]]]:
        if kept:
            yield from kept
            return
        for v in vectors(found.outputs, samples, t, seed, most=max(1, AT_ONCE // max(found.size, 1))):
            raw = [g.to(theta) for g in _backward(found.outputs.z, ends, v)]
            whole = iter(raw[len(edges) :])
            part = [
                [_by_example(found, use.gradients(raw[place[use.edge[:2]]])) for use in layer.uses]
                or [next(whole).reshape(len(v), 1, 1, 1, -1)]
                for layer in those
            ]
            if len(v) == (samples or found.outputs.z.numel() // found.outputs.examples):
                kept.append(part)  # these are all: whoever asks for them again need not go back again
            yield part

    return Evaluated(found, those, gradients)


def _backward(z: Tensor, ends: list[Any], v: Tensor) -> Sequence[Tensor]:
    """The gradients (k, ...) at the ends for each of the vectors v: (k, *z.shape)."""
    if len(v) > 1:
        with contextlib.suppress(RuntimeError):  # an operation that cannot be vectorised: one by one
            return torch.autograd.grad(z, ends, v, retain_graph=True, is_grads_batched=True)
    each = [torch.autograd.grad(z, ends, one, retain_graph=True) for one in v]
    return [torch.stack(of_end) for of_end in zip(*each, strict=True)]


def _by_example(seen: Seen, x: Tensor) -> Tensor:
    """(k, first, positions, ...) with the examples first, where the first axis has several of each in a row."""
    examples = seen.outputs.examples
    return x if x.shape[1] % examples else x.reshape(len(x), examples, -1, *x.shape[3:])


def inputs_of(seen: Seen, layer: Layer, use: Use) -> Tensor:
    """What comes in: (1, examples, positions, groups, columns), with a one for the bias."""
    assert use.inputs is not None
    x = _by_example(seen, use.inputs()[None]).to(seen.outputs.z.dtype)
    return x if layer.block.bias < 0 else torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1)


# Factors


def factors(found: Evaluated, sharing: Sharing = expand) -> Factors:
    """The factors of each block on the batch: left ⊗ right is its part of the Fisher matrix, approximately."""
    places = [(i, which) for i, layer in enumerate(found.layers) for which in sides(layer)]
    sums: list[Any] = [0.0] * len(places)
    for part in found.gradients():
        for j, (i, which) in enumerate(places):
            sums[j] = sums[j] + outgoing(found.layers[i], which, [part[i][u] for u in which], sharing)
    pairs: list[Factors] = [[] for _ in found.layers]
    for total, (i, which) in zip(sums, places, strict=True):
        layer = found.layers[i]
        incoming = _incoming(found.seen, layer, which, sharing).to(total)
        pairs[i].append((incoming, total) if _embeds(layer, which) else (total, incoming))
    return [of_one[0] if len(of_one) == 1 else _mixed(of_one) for of_one in pairs]


def sides(layer: Layer) -> list[list[int]]:
    """The numbers of the uses that see the rows as outputs, and of those that see them as inputs (embeddings)."""
    turned = [u for u, use in enumerate(layer.uses) if use.kind == EMBEDDING]
    straight = [u for u in range(max(len(layer.uses), 1)) if u not in turned]
    return [which for which in (straight, turned) if which]


def _embeds(layer: Layer, which: list[int]) -> bool:
    return bool(layer.uses) and layer.uses[which[0]].kind == EMBEDDING


def outgoing(layer: Layer, which: list[int], gradients: list[Tensor], sharing: Sharing = expand) -> Tensor:
    """The sum of the outer products of the gradients, in the form that the block keeps."""
    block = layer.block
    if not layer.uses:
        squares = gradients[0].square().sum((0, 1, 2))  # (1, numel): there is one gradient of the whole batch
        return squares.mean(1, keepdim=True) if block.left == SCALAR else squares
    if layer.uses[0].kind in VECTORS:
        return _moment(torch.cat(summed(gradients)), block.left)
    if _embeds(layer, which):  # its positions look at different rows: each stands for itself
        return _moment(expand(gradients, mean=False), block.right)
    return _moment(sharing(gradients, False), block.left)


def _incoming(seen: Seen, layer: Layer, which: list[int], sharing: Sharing) -> Tensor:
    """The mean of the outer products of what comes in; one where nothing does."""
    if not layer.uses or layer.uses[0].kind in VECTORS:
        return torch.ones(1, 1)
    uses = [layer.uses[u] for u in which]
    if _embeds(layer, which):
        tokens = torch.cat([use.inputs().reshape(-1) for use in uses if use.inputs is not None])
        tokens = tokens[tokens >= 0]
        counts = torch.bincount(tokens, minlength=layer.block.rows)[None].to(seen.outputs.z.dtype)
        return counts / max(len(tokens), 1)
    rows = sharing([inputs_of(seen, layer, use) for use in uses], True)
    return _moment(rows, layer.block.right) / len(rows)


def summed(gradients: list[Tensor]) -> list[Tensor]:
    """Gradients summed over an example's positions, and over the uses where these have the same examples."""
    sums = [g.sum(2) for g in gradients]
    same = len({s.shape for s in sums}) == 1
    return [(torch.stack(sums).sum(0) if same else s).flatten(0, 1) for s in (sums[:1] if same else sums)]


def _moment(rows: Tensor, form: int) -> Tensor:
    """The sum of the outer products of rows: (all, groups, width)."""
    if form != FULL:
        return rows.square().sum(0)
    rows = rows.transpose(0, 1)
    return rows.mT @ rows


def _mixed(pairs: Factors) -> tuple[Tensor, Tensor]:
    """One product for the sum of several, of the same trace; its factors are theirs, weighted by their traces."""
    traces = [(_trace(left), _trace(right)) for left, right in pairs]
    left = torch.stack([x * r for (x, _), (_, r) in zip(pairs, traces, strict=True)]).sum(0)
    total = torch.stack([a * b for a, b in traces]).sum()
    right = torch.stack([y * a for (_, y), (a, _) in zip(pairs, traces, strict=True)]).sum(0)
    return left, right / torch.where(total > 0, total, 1.0)


def _trace(x: Tensor) -> Tensor:
    return x.sum() if x.dim() == 2 else x.diagonal(dim1=1, dim2=2).sum()
