"""The objective behind a closure of torch.optim: a function of theta, for rules that see f."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.derivatives import Graph, Product, flat, gauss_newton_at, hessian_at
from thalweg.core.errors import AlgorithmError
from thalweg.core.jacobian import rows


class Objective:
    """The loss that a closure computes, as a function of `theta: (n,)`, all of `params` end to end.

    To evaluate it elsewhere the parameters are set to theta, the closure is run, and parameters and gradients are put
    back. The closure returns the loss, or (loss, outputs) for algorithms that ask for a Gauss-Newton matrix; it calls
    backward, as torch's do, or leaves that to the optimizer, as it must where second derivatives are asked for. What
    the model draws at random is drawn anew by each call of the closure.

    The parameters may be complex (theta has their parts as pairs), of several dtypes and on several devices: theta has
    the widest dtype of them, on the device of the first. `module` and `loss` (the function of outputs and targets) are
    for algorithms that look at layers or at likelihoods.
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
        self.like = _like(self.params)
        if module is not None:
            self.module = module
        if loss is not None:
            self.loss = loss

    @property
    def theta(self) -> Tensor:
        """Where the parameters are: (n,), a copy."""
        return flat([p.detach() for p in self.params], self.like).clone()

    @torch.no_grad()
    def put(self, theta: Tensor) -> None:
        """Sets the parameters to `theta: (n,)`."""
        for p, piece in zip(self.params, self.pieces(theta), strict=True):
            p.copy_(piece)

    def pieces(self, theta: Tensor) -> list[Tensor]:
        """`theta: (n,)` cut into the shapes of the parameters."""
        cut = torch.split(theta, [p.numel() * (2 if p.is_complex() else 1) for p in self.params])
        return [
            torch.view_as_complex(piece.view(*p.shape, 2)) if p.is_complex() else piece.view(p.shape)
            for p, piece in zip(self.params, cut, strict=True)
        ]

    def __call__(self, theta: Tensor) -> Tensor:
        """The loss at theta, a number without a graph."""
        with self._at(theta):
            loss, _ = self._closed()
        return loss.detach().to(self.like)

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the gradient `(n,)` at theta."""
        with self._at(theta), torch.enable_grad():
            loss, _ = self._closed()
            if any(p.grad is not None for p in self.params):
                found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
            else:
                found = list(torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True))
            found = [g.to_dense() if g.layout != torch.strided else g for g in found]
            return loss.detach().to(self.like), flat(found, self.like).detach().clone()

    def graph(self, theta: Tensor) -> Graph:
        """The evaluation at theta, which must be where the parameters are: they are its leaves."""
        if not torch.equal(theta, self.theta):
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
        before = self.theta
        moved = not torch.equal(theta, before)
        copies = [p.detach().clone() for p in self.params] if moved else []
        try:
            for p in self.params:
                p.grad = None
            if moved:
                for p, piece in zip(self.params, self.pieces(theta), strict=True):
                    p.data.copy_(piece)  # through `data`, unnoticed: a graph kept is right once they are put back
            yield
        finally:
            for p, copy in zip(self.params, copies, strict=False):
                p.data.copy_(copy)
            for p, grad in zip(self.params, grads, strict=True):
                p.grad = grad


class Squares(Objective):
    """Half the sum of the squares of the residuals that a closure returns, a tensor of any shape."""

    def __init__(self, closure: Callable[[], Tensor], params: Sequence[Tensor], *settings: Any) -> None:
        super().__init__(closure, params, *settings)
        self.closure = self._squared
        self._residuals = closure

    def _squared(self) -> tuple[Tensor, Tensor]:
        r = self._found()
        return r @ r / 2, r

    def _found(self) -> Tensor:
        r = self._residuals()
        if not isinstance(r, Tensor) or r.dim() == 0 or r.is_complex():
            raise AlgorithmError("a sum of squares is minimised: let the closure return its residuals, a real tensor")
        return r.reshape(-1)

    def residuals(self, theta: Tensor) -> Tensor:
        """The residuals (m,) at theta."""
        with self._at(theta):
            return self._found().detach().to(self.like)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Their Jacobian (m, n) at theta."""
        with self._at(theta), torch.enable_grad():
            return rows(self._found(), self.params, self.like)


class Rescaled:
    """An objective in other units: f is `sign` times the objective at `scale * theta`, `scale: (n,)`."""

    def __init__(self, f: Objective, scale: Tensor | float, sign: float) -> None:
        self.f, self.scale, self.sign, self.rungs = f, scale, sign, f.rungs
        if isinstance(f, Squares):
            self.residuals = lambda theta: f.residuals(scale * theta)
            self.jacobian = lambda theta: f.jacobian(scale * theta) * scale

    def __call__(self, theta: Tensor) -> Tensor:
        """The value at theta."""
        return self.sign * self.f(self.scale * theta)

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the gradient (n,) at theta."""
        value, g = self.f.value_and_gradient(self.scale * theta)
        return self.sign * value, self.sign * self.scale * g

    def hessian_at(self, theta: Tensor) -> Product:
        """Products with the Hessian at theta."""
        return self._rescaled(hessian_at(self.f, self.scale * theta))

    def gauss_newton_at(self, theta: Tensor) -> Product:
        """Products with the Gauss-Newton matrix at theta."""
        return self._rescaled(gauss_newton_at(self.f, self.scale * theta))

    def _rescaled(self, product: Product) -> Product:
        return product._replace(apply=lambda u: self.sign * self.scale * product(self.scale * u))


def _like(params: Sequence[Tensor]) -> Tensor:
    """An empty tensor on theta's device, in its dtype: no narrower than float32."""
    dtype = torch.float32
    for p in params:
        dtype = torch.promote_types(dtype, p.dtype.to_real())
    return torch.empty(0, dtype=dtype, device=params[0].device)
