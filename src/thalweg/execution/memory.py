"""Tensors moved into one vector, of which they are views from then on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
    return in_memory_order(tensor) if is_dense(tensor) else tensor.reshape(-1)


def in_memory_order(tensor: Tensor) -> Tensor:
    """A dense tensor as a vector, a view."""
    return tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset())


def shaped(vector: Tensor, like: Tensor) -> Tensor:
    """The inverse of `flat`: a view of a vector in another tensor's shape, and order if that one is dense."""
    if not is_dense(like):
        return vector.view(like.shape)
    return vector.as_strided(like.shape, like.stride(), vector.storage_offset())


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
        for vector, _ in _spans(there):
            vector.zero_()
        return
    for vector, members in _vectors(params, zeros=True):
        for p, view in zip(members, _views(vector, members), strict=True):
            p.grad = view


def _vectors(tensors: Sequence[Tensor], zeros: bool = False) -> list[tuple[Tensor, list[Tensor]]]:
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    found = []
    for (dtype, device), members in kinds.items():
        if zeros:
            vector = torch.zeros(sum(t.numel() for t in members), dtype=dtype, device=device)
        else:
            vector = torch.cat([flat(t) for t in members])
        found.append((vector, members))
    return found


def _views(vector: Tensor, members: Sequence[Tensor]) -> list[Tensor]:
    return [shaped(piece, t) for t, piece in zip(members, split(vector, members), strict=True)]


def _alike(value: Any, p: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == p.shape and value.stride() == p.stride() and value.dim() > 0


def _spans(tensors: Sequence[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return [
        (m[0].detach().as_strided((sum(t.numel() for t in m),), (1,), m[0].storage_offset()), m) for m in kinds.values()
    ]


def _follow(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors, those of a dtype and device by themselves, follow each other in one storage."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for members in kinds.values():
        at, storage = members[0].storage_offset(), members[0].untyped_storage().data_ptr()
        for tensor in members:
            if tensor.storage_offset() != at or tensor.untyped_storage().data_ptr() != storage:
                return False
            at += tensor.numel()
    return True
