"""What a rule that sees f asks of it: values, gradients, and products with its curvature.

Products with a curvature go down the ladder of `core/ladder.py`, and say on which rung they stand: differentiating
twice, else differences of gradients at 1 % of the length of theta, or of outputs, else a CurvatureError says why not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.core.errors import CurvatureError
from thalweg.core.ladder import Apply, contradicted, laddered
from thalweg.core.noise import signs

RELATIVE = 0.01  # of the length of theta: nearer, the kinks of ReLUs decide; in float32 rounding does


class Product(NamedTuple):
    """A matrix (n, n) known by its products, and the rung of the ladder on which they are found."""

    apply: Apply
    rung: str = "its own"

    def __call__(self, u: Tensor) -> Tensor:
        """The matrix times `u: (n,)`."""
        return self.apply(u)


class Graph(NamedTuple):
    """An evaluation that can be differentiated: the leaves that are theta end to end, the outputs, the loss of them."""

    leaves: Sequence[Tensor]
    outputs: Tensor | None
    loss: Tensor


def graph(f: Any, theta: Tensor) -> Graph:
    """An evaluation of f at `theta: (n,)` with its graph; the outputs are None where f does not say what they are."""
    if hasattr(f, "graph"):
        found: Graph = f.graph(theta)
        return found
    leaf = theta.detach().clone().requires_grad_()
    if not hasattr(f, "outputs"):
        return Graph([leaf], None, f(leaf))
    z = f.outputs(leaf)
    return Graph([leaf], z, f.loss_of(z))


def value_and_gradient(f: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The value of f at `theta: (n,)`, and its gradient (n,).

    They are values: nothing is differentiated through them, and they are found under `torch.no_grad()` too.

    >>> value_and_gradient(lambda x: (x * x).sum(), torch.tensor([1.0, -2.0]))
    (tensor(5.), tensor([ 2., -4.]))
    """
    if hasattr(f, "value_and_gradient"):
        value, g = f.value_and_gradient(theta)
        return value, g
    with torch.enable_grad():
        leaf = theta.detach().requires_grad_()
        value = f(leaf)
        if not value.requires_grad:
            return value.detach(), torch.zeros_like(theta)
        return value.detach(), torch.autograd.grad(value, leaf, materialize_grads=True)[0]


def gradient(f: Any, theta: Tensor) -> Tensor:
    """The gradient of f at `theta: (n,)`.

    >>> gradient(lambda x: (x * x).sum(), torch.tensor([1.0, -2.0]))
    tensor([ 2., -4.])
    """
    if hasattr(f, "gradient"):
        g: Tensor = f.gradient(theta)
        return g
    return value_and_gradient(f, theta)[1]


def hessian_at(f: Any, theta: Tensor) -> Product:
    """Products with the Hessian of f at `theta: (n,)` (Pearlmutter 1994); the graph of the gradient is kept for them.

    Raises CurvatureError where no rung of the ladder holds.

    >>> h = hessian_at(lambda x: (x**3).sum(), torch.tensor([1.0, -2.0]))
    >>> h(torch.tensor([1.0, 1.0])), h.rung
    (tensor([  6., -12.]), 'double backward')
    """
    if hasattr(f, "hessian_at"):
        product: Product = f.hessian_at(theta)
        return product
    wrong = lambda: contradicted(f, theta, _double_backward, _gradient)  # noqa: E731
    return Product(*laddered(f, theta, "hessian", _double_backward, differences, wrong))


def hessian_vector(f: Any, theta: Tensor, u: Tensor) -> Tensor:
    """The Hessian of f at `theta: (n,)` times `u: (n,)`.

    >>> hessian_vector(lambda x: (x**3).sum(), torch.tensor([1.0, -2.0]), torch.tensor([1.0, 1.0]))
    tensor([  6., -12.])
    """
    return hessian_at(f, theta)(u)


def hessian(f: Any, theta: Tensor) -> Tensor:
    """The Hessian of f at `theta: (n,)`, whole: (n, n), and symmetric.

    >>> hessian(lambda x: x[0] * x[1] ** 2, torch.tensor([1.0, 2.0]))
    tensor([[0., 4.],
            [4., 2.]])
    """
    if hasattr(f, "hessian"):
        whole: Tensor = f.hessian(theta)
    else:
        product = hessian_at(f, theta)
        whole = torch.stack([product(e) for e in torch.eye(len(theta), dtype=theta.dtype, device=theta.device)])
    return (whole + whole.T) / 2


def gauss_newton_at(f: Any, theta: Tensor) -> Product:
    """Products with the Gauss-Newton matrix JᵀLJ of f = loss_of(outputs(theta)) (Schraudolph 2002).

    J is the Jacobian of the outputs, L the Hessian of the loss in them. Raises CurvatureError for an f that does not
    say what its outputs are, or where no rung of the ladder holds.

    >>> from thalweg.core.objective import LeastSquares
    >>> gauss_newton_at(LeastSquares(lambda x: x**2), torch.tensor([1.0, 3.0]))(torch.ones(2))
    tensor([ 4., 36.])
    """
    if hasattr(f, "gauss_newton_at"):
        product: Product = f.gauss_newton_at(theta)
        return product
    wrong = lambda: _wrong_ways(f, theta)  # noqa: E731
    return Product(*laddered(f, theta, "gauss_newton", _gauss_newton, _gauss_newton_by_differences, wrong))


# The rungs of the ladder


def differences(f: Any, theta: Tensor, relative: float = RELATIVE) -> Apply:
    """Products with the Hessian by central differences of gradients, `relative` to the length of theta apart."""
    return lambda u: _central(lambda at: _gradient(f, at), theta, u, relative)


def _gradient(f: Any, theta: Tensor) -> Tensor:
    """The gradient by the same operations that are differentiated twice, its random numbers drawn anew."""
    with twice_differentiable(theta, f):
        return gradient(f, theta).clone()


def _central(function: Callable[[Tensor], Tensor], at: Tensor, u: Tensor, relative: float) -> Tensor:
    """The derivative of a function along u by a central difference, `relative` to the length of `at` apart."""
    size = float(u.norm())
    h = relative * (float(at.norm()) or 1.0) / size if size else 1.0
    return (function(at + h * u) - function(at - h * u)) / (2 * h)


def _double_backward(f: Any, theta: Tensor) -> Apply:
    with twice_differentiable(theta, f):
        leaves, _, loss = graph(f, theta)
        if not loss.requires_grad:
            return torch.zeros_like
        g = flat(torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True), theta)

    def apply(u: Tensor) -> Tensor:
        if not g.requires_grad:  # the loss is linear in every component
            return torch.zeros_like(u)
        return flat(torch.autograd.grad(g, leaves, u, retain_graph=True, materialize_grads=True), theta).detach()

    return apply


class _Ways(NamedTuple):
    """Of outputs z: the loss's gradient in them, with its graph; products with their Jacobian, and its transpose."""

    z: Tensor
    dz: Tensor
    there: Apply
    back: Apply


def _ways(f: Any, theta: Tensor) -> _Ways:
    with twice_differentiable(theta, f):
        leaves, z, loss = graph(f, theta)
        if z is None:
            raise CurvatureError(
                "a Gauss-Newton matrix needs the outputs and the loss of them apart: give Composed(outputs, loss_of), "
                "or let the closure return (loss, outputs)"
            )
        dz = torch.autograd.grad(loss, z, create_graph=True)[0]
        v = torch.zeros_like(z, requires_grad=True)
        backs = flat(torch.autograd.grad(z, leaves, v, create_graph=True, materialize_grads=True), theta)  # linear in v

    def there(u: Tensor) -> Tensor:
        return torch.autograd.grad(backs, v, u, retain_graph=True)[0]

    def back(v: Tensor) -> Tensor:
        return flat(torch.autograd.grad(z, leaves, v, retain_graph=True, materialize_grads=True), theta).detach()

    return _Ways(z, dz, there, back)


def _gauss_newton(f: Any, theta: Tensor) -> Apply:
    z, dz, there, back = _ways(f, theta)

    def apply(u: Tensor) -> Tensor:
        if not dz.requires_grad:  # the loss is linear in the outputs
            return torch.zeros_like(u)
        return back(torch.autograd.grad(dz, z, there(u), retain_graph=True)[0])

    return apply


def _wrong_ways(f: Any, theta: Tensor) -> str:
    """Whether vᵀJu is uᵀJᵀv, and the loss is differentiated twice as it should be."""
    z, _, there, back = _ways(f, theta)
    u, v = signs(theta, 0), signs(z, 1)
    ju, jtv = there(u), back(v)
    error = float(((v * ju).sum() - u @ jtv).abs() / (v.norm() * ju.norm()).maximum(u.norm() * jtv.norm()))
    if error > torch.finfo(theta.dtype).eps ** 0.5:
        return f"its Jacobian on the way there and on the way back are {error:.1g} apart"
    if not hasattr(f, "loss_of"):
        return ""
    return contradicted(lambda y: f.loss_of(y.view_as(z)), z.detach().reshape(-1), _double_backward, _gradient)


def _gauss_newton_by_differences(f: Any, theta: Tensor) -> Apply:
    """J by differences of outputs, L by differences of the loss's gradients, Jᵀ on the ordinary way back.

    Outputs have no jumps as gradients have at kinks: here rounding says how short a step may be.
    """
    relative = torch.finfo(theta.dtype).eps ** (1 / 3)
    if not hasattr(f, "outputs"):
        raise RuntimeError("its outputs cannot be had at other parameters")

    def outputs(at: Tensor) -> Tensor:
        with twice_differentiable(theta, f), torch.no_grad():
            found: Tensor = f.outputs(at)
        return found

    def apply(u: Tensor) -> Tensor:
        with twice_differentiable(theta, f):  # a new graph for each: one of torch.compile is there once
            leaves, z, _ = graph(f, theta)
            assert z is not None  # it has outputs
        ju = _central(outputs, theta, u, relative)
        lju = _central(lambda at: gradient(f.loss_of, at), z.detach(), ju, relative)
        return flat(torch.autograd.grad(z, leaves, lju, materialize_grads=True), theta).detach()

    return apply


@contextlib.contextmanager
def twice_differentiable(theta: Tensor, f: Any = None) -> Iterator[None]:
    """Gradients are on, attention and recurrent layers take forms with second derivatives; generators are put back."""
    fast = torch.backends.mha.get_fastpath_enabled()
    module = getattr(f, "module", None)
    recurrent = module is None or any(isinstance(part, nn.RNNBase) for part in module.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            _without_cudnn() if theta.is_cuda and recurrent else contextlib.nullcontext(),
            torch.random.fork_rng(devices=[theta.device] if theta.is_cuda else []),
            sdpa_kernel(SDPBackend.MATH),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _without_cudnn() -> contextlib.AbstractContextManager[None]:
    """Its recurrent layers, and nothing else of it, can be differentiated only once."""
    cudnn = torch.backends.cudnn
    as_they_are = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic, "allow_tf32": cudnn.allow_tf32}
    return cudnn.flags(enabled=False, **as_they_are)


def flat(pieces: Sequence[Tensor], like: Tensor | None = None) -> Tensor:
    """Tensors as one vector, end to end, complex ones as pairs; on the device and in the dtype of `like`."""
    parts = [(torch.view_as_real(piece) if piece.is_complex() else piece).reshape(-1) for piece in pieces]
    if like is not None:
        parts = [part.to(like.device, like.dtype) for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
