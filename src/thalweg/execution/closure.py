"""The objective behind a closure of torch.optim: a function of theta, for rules that see f."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import AlgorithmError
from thalweg.execution.memory import split


class Objective:
    """The loss that a closure computes, as a function of `theta: (n,)`, all of `params` end to end.

    To evaluate it elsewhere the parameters are set to theta, the closure is run, and parameters and gradients are put
    back. The closure returns the loss; it calls backward, as torch's do, or leaves that to the optimizer. A product
    with the Hessian needs the graph: there the closure must not free it.
    """

    def __init__(self, closure: Callable[[], Any], params: Sequence[Tensor]) -> None:
        self.closure, self.params = closure, list(params)

    def __call__(self, theta: Tensor) -> Tensor:
        """The loss at theta, a number without a graph."""
        loss, _ = self._at(theta, create_graph=False)
        return loss

    def gradient(self, theta: Tensor) -> Tensor:
        """The gradient `(n,)` at theta."""
        return self._at(theta, create_graph=False)[1]

    def hessian_vector(self, theta: Tensor, u: Tensor) -> Tensor:
        """The product of the Hessian at theta with `u: (n,)`."""
        return self._at(theta, create_graph=True, u=u)[1]

    def _at(self, theta: Tensor, create_graph: bool, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        before = [p.detach().clone() for p in self.params]
        grads = [p.grad for p in self.params]
        try:
            with torch.no_grad():
                for p, piece in zip(self.params, split(theta, self.params), strict=True):
                    p.copy_(piece.view(p.shape))
                    p.grad = None
            with torch.enable_grad():
                loss = self.closure()
                found = self._gradients(loss, create_graph)
                if u is not None:
                    along = (torch.cat([g.reshape(-1) for g in found]) * u).sum()
                    products = torch.autograd.grad(along, self.params, allow_unused=True, materialize_grads=True)
                    found = list(products)
            return loss.detach(), torch.cat([g.reshape(-1) for g in found])
        finally:
            with torch.no_grad():
                for p, value, grad in zip(self.params, before, grads, strict=True):
                    p.copy_(value)
                    p.grad = grad

    def _gradients(self, loss: Tensor, create_graph: bool) -> list[Tensor]:
        called_backward = any(p.grad is not None for p in self.params)
        if (
            called_backward
            and create_graph
            and not any(p.grad is not None and p.grad.requires_grad for p in self.params)
        ):
            raise AlgorithmError(
                "this algorithm needs second derivatives: let the closure return the loss without calling backward()"
            )
        if called_backward:
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        return list(
            torch.autograd.grad(loss, self.params, create_graph=create_graph, allow_unused=True, materialize_grads=True)
        )
