"""Tensors moved into one vector, of which they are views from then on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements fill its piece of memory, without gaps or overlaps, in whatever order."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def flat(tensor: Tensor) -> Tensor:
    """A tensor as a vector: a view in the order of its memory, or a copy where it has gaps."""
    tensor = tensor.detach()
    if tensor.is_contiguous():
        return tensor.view(-1)
    if not is_dense(tensor):
        return tensor.reshape(-1)
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A vector cut into pieces as long as these tensors."""
    return list(torch.split(vector, [t.numel() for t in like]))


def rehome(tensors: Sequence[Tensor]) -> None:
    """Makes dense tensors of one dtype and device views of one new vector, by their `data`."""
    for vector, members in _vectors(tensors):
        for tensor, view in zip(members, _views(vector, members), strict=True):
            tensor.data = view


def flatten(params: Sequence[Tensor], states: Sequence[dict[str, Any]]) -> None:
    """The same for what is remembered, name by name, where it is as large as the parameter."""
    for key in dict.fromkeys(itertools.chain.from_iterable(states)):
        held = [s[key] for p, s in zip(params, states, strict=True) if _alike(s.get(key), p)]
        if held and not _follow(held):
            rehome(held)


def flat_gradients(params: Sequence[Tensor]) -> None:
    """Makes the gradients views of one vector of zeros, or sets them to zero where they are that."""
    grads = [p.grad for p in params]
    there = [g for g in grads if g is not None]
    if len(there) == len(params) and _follow(there):
        for members in _kinds(there):
            members[0].detach().as_strided((_size(members),), (1,), members[0].storage_offset()).zero_()
        return
    for vector, members in _vectors(params, zeros=True):
        for p, view in zip(members, _views(vector, members), strict=True):
            p.grad = view


def _vectors(tensors: Sequence[Tensor], zeros: bool = False) -> list[tuple[Tensor, list[Tensor]]]:
    found = []
    for members in _kinds(tensors):
        vector = members[0].new_zeros(_size(members)) if zeros else torch.cat([flat(t) for t in members])
        found.append((vector, members))
    return found


def _kinds(tensors: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    """The tensors of each dtype and device."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return kinds.values()


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _views(vector: Tensor, members: Sequence[Tensor]) -> list[Tensor]:
    pieces = zip(members, split(vector, members), strict=True)
    return [
        v.as_strided(t.shape, t.stride(), v.storage_offset()) if is_dense(t) else v.view(t.shape) for t, v in pieces
    ]


def _alike(value: Any, p: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == p.shape and value.stride() == p.stride() and value.dim() > 0


def _follow(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors, those of a dtype and device by themselves, follow each other in one storage."""
    for members in _kinds(tensors):
        at, storage = members[0].storage_offset(), members[0].untyped_storage().data_ptr()
        for tensor in members:
            if tensor.storage_offset() != at or tensor.untyped_storage().data_ptr() != storage:
                return False
            at += tensor.numel()
    return True
