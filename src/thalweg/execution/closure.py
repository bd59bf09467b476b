"""The objective behind a closure of torch.optim: a function of theta, for rules that see f."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.derivatives import Graph, flat
from thalweg.core.errors import AlgorithmError
from thalweg.execution.memory import split


class Objective:
    """The loss that a closure computes, as a function of `theta: (n,)`, all of `params` end to end.

    To evaluate it elsewhere the parameters are set to theta, the closure is run, and parameters and gradients are put
    back. The closure returns the loss, or (loss, outputs) for algorithms that ask for a Gauss-Newton matrix; it calls
    backward, as torch's do, or leaves that to the optimizer, as it must where second derivatives are asked for. What
    the model draws at random is drawn anew by each call of the closure.

    `module` and `loss` (the function, of outputs and targets) are for algorithms that look at layers or at likelihoods.
    """

    def __init__(
        self,
        closure: Callable[[], Any],
        params: Sequence[Tensor],
        module: nn.Module | None = None,
        loss: Any = None,
        rungs: dict[str, str] | None = None,
    ) -> None:
        self.closure, self.params = closure, list(params)
        self.rungs = {} if rungs is None else rungs
        if module is not None:
            self.module = module
        if loss is not None:
            self.loss = loss

    def __call__(self, theta: Tensor) -> Tensor:
        """The loss at theta, a number without a graph."""
        with self._at(theta):
            loss, _ = self._closed()
        return loss.detach()

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the gradient `(n,)` at theta."""
        with self._at(theta), torch.enable_grad():
            loss, _ = self._closed()
            if any(p.grad is not None for p in self.params):
                found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
            else:
                found = list(torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True))
            return loss.detach(), flat(found).detach().clone()

    def graph(self, theta: Tensor) -> Graph:
        """The evaluation at theta, which must be where the parameters are: they are its leaves."""
        if not torch.equal(theta, flat([p.detach() for p in self.params])):
            raise AlgorithmError("a closure is differentiated twice only where its parameters are")
        with self._at(theta):
            loss, outputs = self._closed()
            if any(p.grad is not None for p in self.params):
                raise AlgorithmError(
                    "this algorithm needs second derivatives: let the closure return the loss without backward()"
                )
        return Graph(self.params, outputs, loss)

    def _closed(self) -> tuple[Tensor, Tensor | None]:
        with torch.enable_grad():  # it may call backward
            returned = self.closure()
        return returned if isinstance(returned, tuple) else (returned, None)

    @contextmanager
    def _at(self, theta: Tensor) -> Iterator[None]:
        grads = [p.grad for p in self.params]
        moved = not torch.equal(theta, flat([p.detach() for p in self.params]))
        before = [p.detach().clone() for p in self.params] if moved else []
        try:
            with torch.no_grad():
                for p in self.params:
                    p.grad = None
                if moved:
                    for p, piece in zip(self.params, split(theta, self.params), strict=True):
                        p.copy_(piece.view(p.shape))
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.params, before, strict=False):
                    p.copy_(value)
                for p, grad in zip(self.params, grads, strict=True):
                    p.grad = grad
