"""The functions that a user gives to `minimize`, on tensors of x0's shape, as an objective of the flat theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import Product, differences
from thalweg.core.errors import AlgorithmError
from thalweg.core.objective import LeastSquares

Function = Callable[..., Any]


class Given:
    """`fun(x, *args)`, one number, with what derivatives are given; the others are found by differentiating `fun`.

    >>> f = Given(lambda x: x.sum() ** 2, torch.Size([2, 1]), jac=lambda x: 2 * x.sum() * torch.ones_like(x))
    >>> f.value_and_gradient(torch.tensor([1.0, 2.0]))
    (tensor(9.), tensor([6., 6.]))
    """

    def __init__(
        self,
        fun: Function,
        shape: torch.Size,
        args: tuple[Any, ...] = (),
        jac: Function | bool | None = None,
        hess: Function | None = None,
        hessp: Function | None = None,
    ) -> None:
        self.fun, self.shape, self.args = fun, shape, args
        self.jac, self.hess, self.hessp = jac, hess, hessp
        self.rungs: dict[str, str] = {}
        if isinstance(jac, str) or not (jac is None or isinstance(jac, bool) or callable(jac)):
            raise AlgorithmError(
                f"jac is {jac!r}: give a function, True where fun returns both, or None to have it found"
            )
        if callable(jac):
            self.gradient = self._gradient
        if jac:
            self.value_and_gradient = self._value_and_gradient
        if hess is not None:
            self.hessian = self._hessian
        if jac or hess is not None or hessp is not None:
            self.hessian_at = self._hessian_at

    def __call__(self, theta: Tensor) -> Tensor:
        """The value at `theta: (n,)`."""
        found = self.fun(theta.view(self.shape), *self.args)
        value: Any = found[0] if self.jac is True else found
        return self._number(value, theta)

    def _number(self, value: Any, theta: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            if not self.jac:
                raise AlgorithmError(
                    f"fun returned a {type(value).__name__}, which cannot be differentiated: compute it with torch, or "
                    "give jac"
                )
            value = torch.as_tensor(value, dtype=theta.dtype)
        if value.numel() != 1:
            raise AlgorithmError(
                f"fun returned a tensor of shape {tuple(value.shape)}: one number is minimised; for a sum of squared "
                "residuals say method='lm'"
            )
        number: Tensor = value.reshape(())
        return number

    def _like(self, found: Any, theta: Tensor, *size: int) -> Tensor:
        tensor: Tensor = torch.as_tensor(found, dtype=theta.dtype, device=theta.device)
        return tensor.detach().reshape(size)

    def _gradient(self, theta: Tensor) -> Tensor:
        assert callable(self.jac)
        return self._like(self.jac(theta.view(self.shape), *self.args), theta, len(theta))

    def _value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        if callable(self.jac):
            return self(theta).detach(), self._gradient(theta)
        value, g = self.fun(theta.view(self.shape), *self.args)
        return self._number(value, theta).detach(), self._like(g, theta, len(theta))

    def _hessian(self, theta: Tensor) -> Tensor:
        assert self.hess is not None
        return self._like(self.hess(theta.view(self.shape), *self.args), theta, len(theta), len(theta))

    def _hessian_at(self, theta: Tensor) -> Product:
        if self.hess is not None:
            return Product(self._hessian(theta).mv)
        if self.hessp is not None:
            hessp, x = self.hessp, theta.view(self.shape)
            return Product(lambda u: self._like(hessp(x, u.view(self.shape), *self.args), theta, len(theta)))
        return Product(differences(self, theta, torch.finfo(theta.dtype).eps ** (1 / 3)), "finite differences")


class GivenResiduals(LeastSquares):
    """`fun(x, *args)`, a tensor of residuals, half the sum of whose squares is the objective; `jac` gives (m, n)."""

    def __init__(
        self, fun: Function, shape: torch.Size, args: tuple[Any, ...] = (), jac: Function | None = None
    ) -> None:
        self.fun, self.shape, self.args, self.jac = fun, shape, args, jac
        super().__init__(self._residuals)
        if jac is not None:
            self.jacobian = self._jacobian
            self.value_and_gradient = self._value_and_gradient

    def _residuals(self, theta: Tensor) -> Tensor:
        r = self.fun(theta.view(self.shape), *self.args)
        if not isinstance(r, Tensor):
            if self.jac is None:
                raise AlgorithmError(f"fun returned a {type(r).__name__}: give residuals computed with torch, or jac")
            r = torch.as_tensor(r, dtype=theta.dtype, device=theta.device)
        return r

    def _jacobian(self, theta: Tensor) -> Tensor:
        assert self.jac is not None
        whole = self.jac(theta.view(self.shape), *self.args)
        return torch.as_tensor(whole, dtype=theta.dtype, device=theta.device).detach().reshape(-1, len(theta))

    def _value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        r = self.residuals(theta)
        return r.dot(r) / 2, r @ self._jacobian(theta)
