"""What a loss says about the outputs: the Fisher matrix of the likelihood that it is (after section 8.6).

For the losses known here, negative log-likelihoods in the natural parameters of their distribution, the Fisher matrix
is the Gauss-Newton matrix JᵀHJ, J the Jacobian of the outputs and H the Hessian of the loss in them (Martens 2020).
With a root S of H = SSᵀ, the vectors JᵀSv for signs v drawn at random have F as their covariance, as gradients have for
labels that the model itself draws, and stray less; those for the columns of S have it exactly. Neither looks at the
labels of the data: that would be the empirical Fisher matrix, which is another one.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.derivatives import Graph, Product, flat, gauss_newton_at, graph, twice_differentiable
from thalweg.core.errors import CurvatureError
from thalweg.core.noise import signs

F = nn.functional

CATEGORICAL = (F.cross_entropy, nn.CrossEntropyLoss)
ELEMENTWISE = (F.mse_loss, nn.MSELoss, F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss)

Apply = Callable[[Tensor], Tensor]


def fisher_at(f: Any, theta: Tensor) -> Product:
    """Products with the Fisher matrix of f at `theta: (n,)`.

    Raises CurvatureError for an f whose loss is not known to be a negative log-likelihood.

    >>> from thalweg.core.network import Batch, Network
    >>> network = Network(nn.Linear(2, 1, bias=False), F.mse_loss)
    >>> f = network.on(Batch(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)))
    >>> fisher_at(f, network.theta)(torch.ones(2))
    tensor([1., 9.])
    """
    is_categorical(f)
    return gauss_newton_at(f, theta)


def is_categorical(f: Any) -> bool:
    """Whether the likelihood of f is one of classes, else one of each output by itself; a CurvatureError for others.

    >>> from thalweg.core.objective import LeastSquares
    >>> is_categorical(LeastSquares(lambda theta: theta))
    False
    """
    loss = getattr(f, "loss", None)
    if loss is None and hasattr(f, "residuals"):  # half the sum of their squares
        return False
    while isinstance(loss, functools.partial):
        loss = loss.func
    for known, answer in ((CATEGORICAL, True), (ELEMENTWISE, False)):
        if any(loss is one or type(loss) is one for one in known):
            return answer
    name = "none" if loss is None else getattr(loss, "__name__", type(loss).__name__)
    raise CurvatureError(
        f"the Fisher matrix needs a loss that is known to be a negative log-likelihood, and f says {name}: "
        "cross_entropy, mse_loss and binary_cross_entropy_with_logits are known, as functions and as modules"
    )


class Outputs(NamedTuple):
    """Outputs of f with their graph, and a root S of the Hessian SSᵀ of the loss in them, which mixes no examples."""

    leaves: Sequence[Tensor]  # theta, end to end
    z: Tensor  # (examples, ...)
    examples: int
    root: Apply  # S times v: (..., *z.shape)
    back: Apply  # Sᵀ times such a v


def outputs_at(f: Any, theta: Tensor) -> Outputs:
    """The outputs of f at `theta: (n,)`; a CurvatureError where they cannot be told or the loss is not known.

    >>> from thalweg.core.network import Batch, Network
    >>> network = Network(nn.Linear(2, 1), F.mse_loss)
    >>> found = outputs_at(network.on(Batch(torch.ones(8, 2), torch.zeros(8, 1))), network.theta)
    >>> found.root(found.back(torch.ones(8, 1)))[0]  # the Hessian of a mean of eight squares
    tensor([0.2500])
    """
    with evaluable(theta, f):
        found = graph(f, theta)
    return outputs_of(f, found)


@contextlib.contextmanager
def evaluable(theta: Tensor, f: Any) -> Iterator[None]:
    """For evaluations whose graph is looked at: of the module as it is written, not compiled; what fails is named."""
    compiling = "torch._dynamo" in sys.modules  # importing it takes seconds
    as_written = torch.compiler.set_stance("force_eager") if compiling else contextlib.nullcontext()
    try:
        with twice_differentiable(theta, f), as_written:
            yield
    except RuntimeError as failed:
        raise CurvatureError(f"the module cannot be looked into: {str(failed).splitlines()[0]}") from failed


def outputs_of(f: Any, found: Graph) -> Outputs:
    """The outputs of an evaluation of f.

    The form of the Hessian is known from f's loss, its scale is asked of autograd: so means, sums, class weights,
    smoothed labels, ignored targets and weights of positives are right. A vector of logits is one example.
    """
    leaves, z, loss = found
    categorical = is_categorical(f)
    if z is None:
        raise CurvatureError("this algorithm needs the outputs: let the closure return (loss, outputs)")
    with torch.enable_grad():
        (dz,) = torch.autograd.grad(loss, z, create_graph=True)

    def hessian(v: Tensor) -> Tensor:
        return torch.autograd.grad(dz, z, v, retain_graph=True)[0] if dz.requires_grad else torch.zeros_like(v)

    values = z.detach()
    root, back = (_root_of_classes if categorical else _root_of_each)(values, hessian)
    one = values.dim() < (2 if categorical else 1)
    return Outputs(leaves, z, 1 if one else len(values), root, back)


def _root_of_each(z: Tensor, hessian: Apply) -> tuple[Apply, Apply]:
    """Of a diagonal."""
    spread = hessian(torch.ones_like(z)).clamp(min=0).sqrt()
    return (lambda v: spread * v), (lambda v: spread * v)


def _root_of_classes(z: Tensor, hessian: Apply) -> tuple[Apply, Apply]:
    """Of c (diag(p) - pp'): it is √c (diag(√p) - p√p')."""
    axis = 1 if z.dim() > 1 else 0
    p = z.softmax(axis)
    # c is read off at the second most likely class, where no digits cancel.
    first = torch.zeros_like(p).scatter(axis, p.argmax(axis, keepdim=True), 1.0)
    second = (p - 2 * first).argmax(axis, keepdim=True)
    variance = p.gather(axis, second)
    variance = variance * (1 - variance)
    found = hessian(torch.zeros_like(p).scatter(axis, second, 1.0)).gather(axis, second)
    scale = torch.where(variance > 0, found / variance, 0.0).clamp(min=0).sqrt()
    root, last = p.sqrt(), axis - z.dim()
    return (
        lambda v: scale * (root * v - p * (root * v).sum(last, keepdim=True)),
        lambda v: scale * root * (v - (p * v).sum(last, keepdim=True)),
    )


def pushed(outputs: Outputs, theta: Tensor) -> Apply:
    """Products Ju of the outputs' Jacobian: like z for `u: (n,)`. The way back, linear in v, is differentiated in v.

    >>> from thalweg.core.network import Batch, Network
    >>> network = Network(nn.Linear(2, 1, bias=False), F.mse_loss)
    >>> found = outputs_at(network.on(Batch(torch.tensor([[2.0, 3.0]]), torch.zeros(1, 1))), network.theta)
    >>> pushed(found, network.theta)(torch.tensor([1.0, 10.0]))
    tensor([[32.]])
    """
    leaves, z = outputs.leaves, outputs.z
    with twice_differentiable(theta):
        v = torch.zeros_like(z, requires_grad=True)
        back = flat(torch.autograd.grad(z, leaves, v, create_graph=True, materialize_grads=True), theta)
    return lambda u: torch.autograd.grad(back, v, u, retain_graph=True)[0]


def vectors(outputs: Outputs, samples: int, t: int, seed: int, most: int) -> Iterator[Tensor]:
    """Vectors on the outputs, `most` at a time: (k, *z.shape). Within an example their outer products sum to H.

    With samples = 0 they are the columns of S, as many as an example has outputs; else `samples` products of S with
    random signs, right in the mean. An example's columns have a random sign in common: it changes nothing where
    examples do not know of each other; where they do (BatchNorm in training), what is between two of them vanishes in
    the mean, as it does for labels drawn.

    >>> outputs = Outputs([], torch.zeros(3, 2), 3, lambda v: 2 * v, lambda v: 2 * v)
    >>> [block.shape for block in vectors(outputs, samples=0, t=0, seed=0, most=10)]
    [torch.Size([2, 3, 2])]
    >>> sum(v[0].outer(v[0]) for v in next(vectors(outputs, samples=0, t=0, seed=0, most=10)))
    tensor([[4., 0.],
            [0., 4.]])
    """
    z = outputs.z.detach()
    count = samples or z.numel() // outputs.examples
    for first in range(0, count, most):
        which = range(first, min(first + most, count))
        if samples:
            yield outputs.root(torch.stack([signs(z, t * samples + j, seed) for j in which])) / samples**0.5
        else:
            columns = z.new_zeros(len(which), outputs.examples, count)
            of_example = signs(columns[0, :, 0], t, seed)
            for row, j in enumerate(which):
                columns[row, :, j] = of_example
            yield outputs.root(columns.reshape(len(which), *z.shape))
