"""One kernel over many tensors that lie anywhere: a table of their addresses, written anew only where one has moved."""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.core.rule import Memory, Rule
from thalweg.execution.generate import columns, scalar_memory
from thalweg.execution.kernels import tensors_kernel

GRAIN = 2**18  # elements that one thread takes at a time: 1 MB a vector, long enough to be worth the hand-over

_address = torch.Tensor.data_ptr
_bytes = operator.attrgetter("nbytes")


class Table:
    """Parameters, and what is remembered of them, that one kernel updates.

    All are real, of one dtype (float32 or float64) on the CPU, dense, and those of a parameter lie in the same order.
    Raises AlgorithmError where the rule has no kernel.
    """

    def __init__(self, rule: Rule, params: Sequence[Tensor], memory: Mapping[str, Sequence[Tensor]]) -> None:
        self.kernel = tensors_kernel(rule, params[0].dtype, onto_theta=True)
        self.scalars, self.knobs = scalar_memory(rule), list(rule.knobs)
        names = columns(rule, onto_theta=True)
        by_name = {"theta": params, **memory}
        self.params = list(params)
        self.dtype, self.itemsize = params[0].dtype, params[0].element_size()
        self.sizes = [p.numel() for p in params]
        self.bytes = [p.nbytes for p in params]
        self.contiguous = all(p.is_contiguous() for p in params)
        self.at_g = names.index("g")
        self.fixed_columns = [k for k in range(len(names)) if k != self.at_g]
        self.fixed = [t for k in self.fixed_columns for t in by_name[names[k]]]
        self.fixed_shapes = [(t.shape, t.stride()) for t in self.fixed]
        self.fixed_addresses: list[int] = []
        self.g_addresses: list[int] = []
        self.threads = 0
        self.whole = np.zeros((len(params), len(names)), np.int64)  # a row a parameter
        self.rows, self.row_sizes = self.whole, np.array(self.sizes, np.int64)
        self.ranges: list[tuple[int, int]] = []
        self.kept: Sequence[Tensor] = ()  # gradients, alive while their addresses are in the table

    def ready(self, grads: Sequence[Any]) -> bool:
        """Whether the next step can be one of these gradients: none is missing or sparse, nothing has another form now.

        Every address is looked at, since a tensor's memory may be another one's by now; a tenth of a microsecond each.
        """
        try:
            if self.contiguous:
                fits = all(map(torch.Tensor.is_contiguous, grads))
            else:
                fits = all(g.stride() == p.stride() for g, p in zip(grads, self.params, strict=True))
            if not fits or list(map(_bytes, grads)) != self.bytes:
                if any(g.layout != torch.strided for g in grads):
                    return False
                grads = [torch.empty_like(p).copy_(g.detach()) for p, g in zip(self.params, grads, strict=True)]
            g_addresses = list(map(_address, grads))
        except (TypeError, AttributeError, RuntimeError):  # None, or a layout without one address
            return False
        fixed = list(map(_address, self.fixed))
        self.kept = grads
        threads = torch.get_num_threads()
        if fixed != self.fixed_addresses or threads != self.threads:
            if any(
                t.dtype != self.dtype or (t.shape, t.stride()) != was
                for t, was in zip(self.fixed, self.fixed_shapes, strict=True)
            ):
                return False
            n = len(self.sizes)
            for column, k in enumerate(self.fixed_columns):
                self.whole[:, k] = fixed[column * n : (column + 1) * n]
            self.whole[:, self.at_g] = g_addresses
            self.threads = threads
            self._cut()
        elif g_addresses != self.g_addresses:
            self.whole[:, self.at_g] = g_addresses
            if self.rows is not self.whole:
                self._cut()
        self.fixed_addresses, self.g_addresses = fixed, g_addresses
        return True

    def advance(self, grads: Sequence[Tensor], scalars: Memory, knobs: Mapping[str, Any]) -> Memory:
        """One step of all, of the gradients that it was made ready for; it returns the new scalar memory."""
        self.kernel.give([*(float(scalars[n]) for n in self.scalars), *(float(knobs[n]) for n in self.knobs)])
        if len(self.ranges) == 1:
            self.kernel.run(0, len(self.row_sizes))
        else:
            self._by_threads()
        self.kept = ()
        return {
            name: int(value) if isinstance(scalars[name], int) and value.is_integer() else value
            for name, value in zip(self.scalars, self.kernel.new(), strict=True)
        }

    def _cut(self) -> None:
        """Rows that follow each other in memory become one; with several threads, large ones become several."""
        sizes = np.array(self.sizes, np.int64)
        ends = self.whole + (sizes * self.itemsize)[:, None]
        starts = np.flatnonzero(np.r_[True, (self.whole[1:] != ends[:-1]).any(axis=1)])
        rows, row_sizes = (
            (self.whole, sizes)
            if len(starts) == len(sizes)
            else (self.whole[starts].copy(), np.add.reduceat(sizes, starts))
        )
        if self.threads > 1 and sizes.sum() >= 2 * GRAIN:
            pieces = np.maximum(1, -(-row_sizes // GRAIN))
            of = np.repeat(np.arange(len(rows)), pieces)
            first = (np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * GRAIN
            rows = rows[of] + (first * self.itemsize)[:, None]
            row_sizes = np.minimum(GRAIN, row_sizes[of] - first)
            marks = np.searchsorted(np.cumsum(row_sizes), np.arange(GRAIN, row_sizes.sum(), GRAIN), side="left") + 1
            bounds = np.unique(np.r_[0, marks, len(rows)]).tolist()
        else:
            bounds = [0, len(rows)]
        self.rows, self.row_sizes = np.ascontiguousarray(rows), np.ascontiguousarray(row_sizes)
        self.kernel.put(self.rows, self.row_sizes)
        self.ranges = list(itertools.pairwise(bounds))

    def _by_threads(self) -> None:
        """Each thread takes the next range when it has done one, so that a thread on a busy core holds nobody up."""
        waiting = itertools.count()

        def work() -> None:
            while (k := next(waiting)) < len(self.ranges):
                self.kernel.run(*self.ranges[k])

        helpers = [_threads(self.threads - 1).submit(work) for _ in range(self.threads - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "thalweg-kernel")


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not survive a fork
