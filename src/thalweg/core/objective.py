"""An objective: f as a function of theta, and the parts of it that curvature is made of.

Any function of `theta: (n,)` that gives one number is an objective. One that knows more has methods for it, which
`core/derivatives.py` asks first:

    value_and_gradient(theta)     the value and the gradient (n,), where f has a way of its own
    gradient(theta)               the gradient alone, where it does not come with the value
    hessian_at(theta)             a Product, u -> Hu
    hessian(theta)                (n, n)
    outputs(theta), loss_of(z)    f is loss_of(outputs(theta)): what Gauss-Newton and Fisher products are made of
    graph(theta)                  leaves, outputs and loss, where theta is not one leaf (the parameters of a closure)
    residuals(theta)              (m,), where f is half the sum of their squares
    loss, module                  the loss as a function, where it is known by name, and the network
    rungs                         a dictionary in which the ladder of derivatives notes what works on this f
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.core import derivatives
from thalweg.core.jacobian import jacobian


class Composed:
    """f = loss_of(outputs(theta)): an objective with the two halves that a Gauss-Newton product needs.

    >>> f = Composed(lambda theta: theta.exp(), lambda z: z.sum())
    >>> f(torch.zeros(2))
    tensor(2.)
    """

    def __init__(self, outputs: Callable[[Tensor], Tensor], loss_of: Callable[[Tensor], Tensor]) -> None:
        self.outputs, self.loss_of = outputs, loss_of
        self.rungs: dict[str, str] = {}

    def __call__(self, theta: Tensor) -> Tensor:
        """The value at theta."""
        return self.loss_of(self.outputs(theta))


class LeastSquares(Composed):
    """Half the sum of the squares of `residuals(theta): (m,)`.

    >>> f = LeastSquares(lambda theta: 2 * theta)
    >>> f(torch.tensor([1.0, 3.0]))
    tensor(20.)
    """

    def __init__(self, residuals: Callable[[Tensor], Tensor]) -> None:
        super().__init__(lambda theta: residuals(theta).reshape(-1), lambda r: r.dot(r) / 2)
        self.residuals = self.outputs


class _Point(NamedTuple):
    theta: Tensor
    value: Tensor  # 0-d, without a graph
    g: Tensor | None
    leaf: Tensor | None  # with the graph of the value at hand, where only the value was asked for
    live: Tensor | None


class Evaluations:
    """f, its evaluations counted, and what the last points gave remembered: what rules are handed as f.

    `nfev`, `njev` and `nhev` count values, gradients, and products with a curvature or whole Hessians; `passes` what
    all of it costs, in gradients: a value a third, a product two, a whole Hessian two a column, a Jacobian one a row.
    A value asked for keeps its graph, so that the gradient at the same point is only the way back. After `most`
    evaluations f is plus infinity everywhere new: a search then ends with the best point that it has.

    >>> f = Evaluations(lambda theta: (theta**2).sum())
    >>> theta = torch.tensor([3.0])
    >>> float(f(theta)), derivatives.gradient(f, theta), f.nfev, f.njev
    (9.0, tensor([6.]), 1, 1)
    """

    def __init__(self, f: Any, kept: int = 2, most: float = math.inf) -> None:
        self.f, self.kept, self.most = f, kept, most
        self.nfev = self.njev = self.nhev = 0
        self.passes = 0.0
        self.rungs: dict[str, str] = getattr(f, "rungs", {})
        self._points: list[_Point] = []

    def __getattr__(self, name: str) -> Any:
        if name in _WRAPPED:  # hasattr must tell the truth of f
            raise AttributeError(name)
        return getattr(self.f, name)

    @property
    def exhausted(self) -> bool:
        """Whether the evaluations allowed are used up."""
        return max(self.nfev, self.njev) >= self.most

    def know(self, theta: Tensor, value: Tensor, g: Tensor) -> None:
        """Notes a value and a gradient that were found elsewhere."""
        self._keep(_Point(theta.clone(), value.detach(), g.clone(), None, None))

    def __call__(self, theta: Tensor) -> Tensor:
        """The value at theta, without a graph."""
        known = self._known(theta)
        if known is not None:
            return known.value
        if self.exhausted:
            return theta.new_tensor(math.inf)
        self.nfev += 1
        self.passes += 1 / 3
        theta = theta.detach().clone()
        if hasattr(self.f, "value_and_gradient") or torch.is_inference_mode_enabled():
            with torch.no_grad():
                point = _Point(theta, self.f(theta).detach(), None, None, None)
        else:
            with torch.enable_grad():
                leaf = theta.clone().requires_grad_()
                live = self.f(leaf)
            point = _Point(theta, live.detach(), None, leaf, live)
        self._keep(point)
        return point.value

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Both at theta."""
        known = self._known(theta)
        if known is not None and known.g is not None:
            return known.value, known.g
        if self.exhausted:
            return theta.new_tensor(math.inf), torch.full_like(theta, math.nan)
        self.njev += 1
        self.passes += 1 if known is None else 2 / 3
        if known is not None and hasattr(self.f, "gradient"):
            point = known._replace(g=self.f.gradient(theta))
        elif known is not None and known.live is not None and known.leaf is not None and known.live.requires_grad:
            (g,) = torch.autograd.grad(known.live, known.leaf, materialize_grads=True)
            point = known._replace(g=g, leaf=None, live=None)
        else:
            self.nfev += known is None
            value, g = derivatives.value_and_gradient(self.f, theta)
            point = _Point(theta.detach().clone(), value, g.clone(), None, None)
        self._keep(point)
        assert point.g is not None
        return point.value, point.g

    def hessian_at(self, theta: Tensor) -> derivatives.Product:
        """Products with the Hessian at theta, counted."""
        return self._counted(derivatives.hessian_at(self.f, theta))

    def gauss_newton_at(self, theta: Tensor) -> derivatives.Product:
        """Products with the Gauss-Newton matrix at theta, counted."""
        return self._counted(derivatives.gauss_newton_at(self.f, theta))

    def hessian(self, theta: Tensor) -> Tensor:
        """The whole Hessian at theta, counted once."""
        self.nhev += 1
        self.passes += 2 * len(theta)
        return derivatives.hessian(self.f, theta)

    def jacobian(self, theta: Tensor) -> Tensor:
        """The Jacobian of the residuals at theta, counted as a gradient."""
        self.njev += 1
        whole = jacobian(self.f, theta)
        self.passes += len(whole)
        return whole

    def graph(self, theta: Tensor) -> derivatives.Graph:
        """An evaluation at theta with its graph."""
        self.passes += 1
        return derivatives.graph(self.f, theta)

    def _counted(self, product: derivatives.Product) -> derivatives.Product:
        def apply(u: Tensor) -> Tensor:
            self.nhev += 1
            self.passes += 2
            return product(u)

        return product._replace(apply=apply)

    def _known(self, theta: Tensor) -> _Point | None:
        return next((point for point in self._points if torch.equal(point.theta, theta)), None)

    def _keep(self, point: _Point) -> None:
        others = [p._replace(leaf=None, live=None) for p in self._points if not torch.equal(p.theta, point.theta)]
        self._points = [point, *others][: self.kept]


_WRAPPED = ("gradient", "value_and_gradient", "hessian_at", "gauss_newton_at", "hessian", "jacobian", "f", "_points")
