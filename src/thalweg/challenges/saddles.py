"""Problems with critical points that are known (section 8.2.3): saddles, strict and degenerate, and a plateau."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DeepLinear:
    """½ (w1 w2 ... wd - 1)²: at the origin a strict saddle for d = 2, eigenvalues 1 and -1, and H = 0 for d > 2.

    Where every w is 1 it has a minimum with the eigenvalues d, 0, ..., 0 (Saxe et al. 2014; Kawaguchi 2016).

    >>> float(DeepLinear()(torch.zeros(3)))
    0.5
    """

    def __call__(self, w: Tensor) -> Tensor:
        """The value at `w: (d,)`."""
        value: Tensor = (w.prod() - 1).square() / 2
        return value


class MatrixFactors:
    """½ |W2 W1 - M|² for M: (k, k): at 0 each singular value s of M gives the eigenvalues s and -s, k times each.

    >>> float(MatrixFactors(torch.eye(2))(torch.zeros(8)))
    1.0
    """

    def __init__(self, M: Tensor) -> None:
        self.M = M

    def __call__(self, w: Tensor) -> Tensor:
        """The value at `w: (2 k²,)`, W1 and then W2."""
        first, second = w.view(2, *self.M.shape)
        value: Tensor = (second @ first - self.M).square().sum() / 2
        return value


def ridge(w: Tensor) -> Tensor:
    """x² - y², a strict saddle of index 1 at 0.

    >>> ridge(torch.tensor([1.0, 2.0]))
    tensor(-3.)
    """
    return w[0] ** 2 - w[1] ** 2


def monkey_saddle(w: Tensor) -> Tensor:
    """x³ - 3xy²: H = 0 at 0, and f falls in three directions: a saddle that no second derivative shows.

    >>> monkey_saddle(torch.tensor([-1.0, 0.0]))
    tensor(-1.)
    """
    return w[0] ** 3 - 3 * w[0] * w[1] ** 2


class Saturated(nn.Module):
    """A sigmoid unit that should be off, and is driven far on by its bias z: f = sigmoid(z)² / 2, gradient ~ e^-z.

    >>> round(float(Saturated(10.0)(torch.zeros(1, 1)).detach()), 6)
    0.999955
    """

    def __init__(self, z: float) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.tensor([z], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output for inputs `x: (b, 1)`."""
        return torch.sigmoid(self.z + 0 * x)

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """Half of the mean square of the outputs."""
        return outputs.square().mean() / 2
