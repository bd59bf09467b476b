"""What a loss says about the outputs: the Fisher matrix of the likelihood that it is (after section 8.6).

For the losses known here, negative log-likelihoods in the natural parameters of their distribution, the Fisher matrix is
the Gauss-Newton matrix JᵀHJ, J the Jacobian of the outputs z and H the Hessian of the loss in them (Martens 2020). With
a root S of H = SSᵀ, the vectors JᵀSv for signs v drawn at random have F as their covariance, as the gradients have for
labels that the model itself draws; those for the columns of S have it exactly. Neither looks at the data's labels: that
would be the empirical Fisher matrix, which is another one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.core.derivatives import Product, gauss_newton_at
from thalweg.core.errors import CurvatureError
from thalweg.core.noise import signs

F = nn.functional

CATEGORICAL = (F.cross_entropy, nn.CrossEntropyLoss)
ELEMENTWISE = (F.mse_loss, nn.MSELoss, F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss)


class Root(NamedTuple):
    """A root S of the Hessian SSᵀ of the loss in its outputs z, by its products; it mixes no two examples."""

    z: Tensor  # (examples, ...), with its graph
    examples: int
    apply: Callable[[Tensor], Tensor]

    def __call__(self, v: Tensor) -> Tensor:
        """S times `v: (..., *z.shape)`."""
        return self.apply(v)


def fisher_at(f: Any, theta: Tensor) -> Product:
    """Products with the Fisher matrix of f at `theta: (n,)`.

    Raises CurvatureError for an f whose loss is not known to be a negative log-likelihood.

    >>> from thalweg import Batch, Network
    >>> network = Network(nn.Linear(2, 1, bias=False), F.mse_loss)
    >>> f = network.on(Batch(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)))
    >>> fisher_at(f, network.theta)(torch.ones(2))
    tensor([1., 9.])
    """
    is_categorical(f)
    return gauss_newton_at(f, theta)


def is_categorical(f: Any) -> bool:
    """Whether the likelihood of f is one of classes, else one of each output by itself; a CurvatureError for others."""
    if hasattr(f, "residuals"):  # half the sum of their squares
        return False
    loss = getattr(f, "loss", None)
    while isinstance(loss, functools.partial):
        loss = loss.func
    kind = loss if loss in CATEGORICAL + ELEMENTWISE else type(loss)
    if kind not in CATEGORICAL + ELEMENTWISE:
        name = "nothing" if loss is None else getattr(loss, "__name__", type(loss).__name__)
        raise CurvatureError(
            f"the Fisher matrix needs a loss that is known to be a negative log-likelihood, and f says {name}: "
            "cross_entropy, mse_loss and binary_cross_entropy_with_logits are known, as functions and as modules"
        )
    return kind in CATEGORICAL


def root_of(f: Any, z: Tensor, loss: Tensor) -> Root:
    """A root of the Hessian of `loss` in the outputs `z`, whose graph it keeps; scaled as the loss is (a mean).

    The form of the Hessian is known from f's loss, its scale is asked of autograd: so class weights, smoothed labels,
    ignored targets, weights of positives and sums are right too. A one-dimensional z is that of one example for classes.

    >>> f, z = type("", (), {"loss": staticmethod(F.cross_entropy)}), torch.zeros(1, 2, requires_grad=True)
    >>> s = root_of(f, z, F.cross_entropy(z, torch.tensor([0])))(torch.eye(2)[:, None]).squeeze()
    >>> s.T @ s
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    with torch.enable_grad():
        (dz,) = torch.autograd.grad(loss, z, create_graph=True)

    def product(v: Tensor) -> Tensor:
        return torch.autograd.grad(dz, z, v, retain_graph=True)[0].detach() if dz.requires_grad else torch.zeros_like(v)

    values = z.detach()
    if not is_categorical(f):
        spread = product(torch.ones_like(values)).clamp(min=0).sqrt()
        return Root(z, len(values) if values.dim() else 1, lambda v: spread * v)
    # The scale of diag(p) - pp' is found at the second most likely class, where no digits cancel.
    classes = 1 if values.dim() > 1 else 0
    p = values.softmax(classes)
    first = torch.zeros_like(p).scatter(classes, p.argmax(classes, keepdim=True), 1.0)
    second = (p - 2 * first).argmax(classes, keepdim=True)
    variance = p.gather(classes, second)
    variance = variance * (1 - variance)
    found = product(torch.zeros_like(p).scatter(classes, second, 1.0)).gather(classes, second)
    scale = torch.where(variance > 0, found / variance, 0.0).clamp(min=0).sqrt()
    root, axis = p.sqrt(), classes - values.dim()
    examples = len(values) if classes else 1
    return Root(z, examples, lambda v: scale * (root * v - p * (root * v).sum(axis, keepdim=True)))


def vectors(root: Root, samples: int, t: int, seed: int, most: int) -> Iterator[Tensor]:
    """Vectors on the outputs, up to `most` at a time: (k, *z.shape). Within an example their outer products sum to SSᵀ.

    With samples = 0 they are the columns of S, as many as an example has outputs; else `samples` products of S with
    random signs, right in the mean. An example's columns have a random sign in common: it changes nothing where examples
    do not know of each other; where they do (BatchNorm in training), what is between two of them vanishes in the mean,
    as it does for labels drawn.

    >>> root = Root(torch.zeros(3, 2), 3, lambda v: 2 * v)
    >>> [block.shape for block in vectors(root, samples=0, t=0, seed=0, most=10)]
    [torch.Size([2, 3, 2])]
    >>> sum(v[0].outer(v[0]) for v in next(vectors(root, samples=0, t=0, seed=0, most=10)))
    tensor([[4., 0.],
            [0., 4.]])
    """
    z = root.z.detach()
    count = samples or z.numel() // root.examples
    for first in range(0, count, most):
        which = range(first, min(first + most, count))
        if samples:
            drawn = torch.stack([signs(z, t * samples + j, seed) for j in which])
            yield root(drawn) / samples**0.5
        else:
            columns = z.new_zeros(len(which), root.examples, count)
            of_example = signs(columns[0, :, 0], t, seed)
            for row, j in enumerate(which):
                columns[row, :, j] = of_example
            yield root(columns.reshape(len(which), *z.shape))
