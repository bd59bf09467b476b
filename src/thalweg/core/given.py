"""The functions that a user gives to `minimize`, on tensors of x0's shape, as an objective of the flat theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from thalweg.core.derivatives import Product, differences
from thalweg.core.errors import AlgorithmError
from thalweg.core.ladder import DIFFERENCES
from thalweg.core.objective import LeastSquares

Function = Callable[..., Any]


class Given:
    """`fun(x, *args)`, one number, with what derivatives are given; the others are found by differentiating `fun`.

    Each function is handed a tensor of its own, which it may write on.

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
        _check(fun=fun, hess=hess, hessp=hessp)
        if not (jac is None or isinstance(jac, bool) or callable(jac)):
            raise AlgorithmError(
                f"jac is {jac!r}: give a function, True where fun returns both, or None to have it found"
            )
        self.fun, self.shape, self.args = fun, shape, args
        self.jac, self.hess, self.hessp = jac, hess, hessp
        self.rungs: dict[str, str] = {}
        self.differenced = 0  # gradients that products with the Hessian took
        self._pair: tuple[Tensor, Tensor, Tensor] | None = None  # theta, value and gradient, of a fun that returns both

    def __getattr__(self, name: str) -> Any:
        """The methods of an objective that knows more, where it does."""
        jac, hess, hessp = (self.__dict__.get(given) for given in ("jac", "hess", "hessp"))
        if (
            (jac and name in ("gradient", "value_and_gradient"))
            or (hess and name == "hessian")
            or ((jac or hess or hessp) and name == "hessian_at")
        ):
            return getattr(self, f"_{name}")
        raise AttributeError(name)

    def __call__(self, theta: Tensor) -> Tensor:
        """The value at `theta: (n,)`."""
        if self.jac is True:
            return self._both(theta)[0]
        return self._number(self.fun(self._own(theta), *self.args), theta)

    def _own(self, theta: Tensor) -> Tensor:
        return theta.clone().view(self.shape)

    def _number(self, value: Any, theta: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            if not self.jac:
                raise AlgorithmError(
                    f"fun returned a {type(value).__name__}, which cannot be differentiated: compute it with torch, or "
                    "give jac"
                )
            value = torch.as_tensor(value, dtype=theta.dtype, device=theta.device)
        if value.numel() != 1:
            raise AlgorithmError(
                f"fun returned a tensor of shape {tuple(value.shape)}: one number is minimised; for a sum of squared "
                "residuals say method='lm'"
            )
        if value.is_complex():
            raise AlgorithmError("fun returned a complex number, which has no minimum: give its modulus, say")
        number: Tensor = value.reshape(())
        return number

    def _like(self, found: Any, theta: Tensor, *size: int) -> Tensor:
        tensor: Tensor = torch.as_tensor(found, dtype=theta.dtype, device=theta.device)
        return tensor.detach().reshape(size)

    def _both(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        if self._pair is None or not torch.equal(self._pair[0], theta):
            value, g = self.fun(self._own(theta), *self.args)
            self._pair = theta.clone(), self._number(value, theta).detach(), self._like(g, theta, len(theta))
        return self._pair[1:]

    def _gradient(self, theta: Tensor) -> Tensor:
        if callable(self.jac):
            return self._like(self.jac(self._own(theta), *self.args), theta, len(theta))
        return self._both(theta)[1]

    def _value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return self(theta).detach(), self._gradient(theta)

    def _hessian(self, theta: Tensor) -> Tensor:
        assert self.hess is not None
        return self._like(self.hess(self._own(theta), *self.args), theta, len(theta), len(theta))

    def _hessian_at(self, theta: Tensor) -> Product:
        if self.hess is not None:
            return Product(self._hessian(theta).mv)
        if self.hessp is not None:
            hessp = self.hessp
            return Product(lambda u: self._like(hessp(self._own(theta), self._own(u), *self.args), theta, len(theta)))
        apply = differences(self, theta, torch.finfo(theta.dtype).eps ** (1 / 3))

        def counted(u: Tensor) -> Tensor:
            self.differenced += 2
            return apply(u)

        return Product(counted, DIFFERENCES)


class GivenResiduals(LeastSquares):
    """`fun(x, *args)`, a tensor of residuals, half the sum of whose squares is the objective; `jac` gives (m, n).

    >>> f = GivenResiduals(lambda x: 2 * x, torch.Size([2, 1]))
    >>> f(torch.tensor([1.0, 3.0]))
    tensor(20.)
    """

    def __init__(
        self, fun: Function, shape: torch.Size, args: tuple[Any, ...] = (), jac: Function | None = None
    ) -> None:
        _check(fun=fun, jac=jac)

        def residuals(theta: Tensor) -> Tensor:
            r = fun(theta.clone().view(shape), *args)
            if not isinstance(r, Tensor):
                if jac is None:
                    raise AlgorithmError(
                        f"fun returned a {type(r).__name__}: give residuals computed with torch, or jac"
                    )
                r = torch.as_tensor(r, dtype=theta.dtype, device=theta.device)
            return r

        super().__init__(residuals)
        if jac is not None:

            def jacobian(theta: Tensor) -> Tensor:
                whole = jac(theta.clone().view(shape), *args)
                return torch.as_tensor(whole, dtype=theta.dtype, device=theta.device).detach().reshape(-1, len(theta))

            def value_and_gradient(theta: Tensor) -> tuple[Tensor, Tensor]:
                r = residuals(theta).reshape(-1)
                return r.dot(r) / 2, r @ jacobian(theta)

            self.jacobian, self.value_and_gradient = jacobian, value_and_gradient


def _check(**functions: Any) -> None:
    for name, function in functions.items():
        if not (callable(function) or (function is None and name != "fun")):
            raise AlgorithmError(f"{name} is {function!r}: it is a function of x that is wanted")
