"""Overfitting (section 8.1.2; chapter 7): a validation error that rises, and labels that are wrong."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding, Severity
from thalweg.challenges.inexact import microbatch_gradients
from thalweg.core.derivatives import hessian
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, difference, mean, ratio
from thalweg.core.network import Batch, Network

MATERIAL, GRAVE = 0.05, 0.5  # of what had been gained on the validation part, lost again
LARGEST = 2000  # parameters of which a whole Hessian is made
SOURCE = "Prechelt 1998"


class LeastSquares:
    """n examples of d inputs, their targets a linear function with noise sigma, fitted by least squares.

    To first order new data has an error that is 2 sigma² d/n above that of the examples (Mallows 1973).

    >>> problem = LeastSquares(n=200, d=20, sigma=1.0)
    >>> problem.gap, problem.takeuchi
    (0.2, 18.0)
    """

    def __init__(self, n: int, d: int, sigma: float) -> None:
        self.n, self.d, self.sigma = n, d, sigma
        self.gap = 2 * sigma**2 * d / n
        self.takeuchi = sigma**2 * d * (1 - d / n)  # of half squares

    def drawn(self, n: int, seed: int) -> Batch:
        """n examples: the weights are all 1."""
        generator = torch.Generator().manual_seed(seed)
        x, noise = (torch.randn(n, k, dtype=torch.float64, generator=generator) for k in (self.d, 1))
        return Batch(x, x.sum(1, keepdim=True) + self.sigma * noise)

    def fitted(self, data: Batch, network: Network) -> Network:
        """A linear module without bias, at the solution."""
        network.theta.copy_(torch.linalg.lstsq(data.inputs, data.targets).solution[:, 0])
        return network


class Rise(NamedTuple):
    """By how much the loss is above its best at last, and which share that is of what had been gained till then."""

    rise: Measured
    share: Measured
    best: int  # the evaluation at which it was lowest


def rise(losses: Tensor) -> Rise:
    """Whether a loss rises again, from the losses `(evaluations, examples)` of the same examples along a run.

    The figure is paired: an example is held against itself. Which evaluation was best is chosen on one half of the
    examples and judged on the other, both ways; a minimum of noisy figures would be too low. At last is the mean of
    the last tenth of the evaluations.

    >>> down, up = torch.linspace(2, 1, 20), torch.linspace(1, 1.5, 20)
    >>> noise = torch.randn(40, 100, generator=torch.Generator().manual_seed(0)) / 10
    >>> print(rise(torch.cat([down, up])[:, None] + noise).share)
    0.459 (0.441 to 0.477)
    """
    if len(losses) < 2:
        return Rise(Measured(0.0, -torch.inf, torch.inf, 0), Measured(0.0, 0.0, torch.inf, 0), 0)
    losses = losses.double().cpu()
    last = losses[-max(1, len(losses) // 10) :].mean(0)
    up, gained = torch.empty_like(last), torch.empty_like(last)
    for half, other in ((0, 1), (1, 0)):
        best = _lowest(losses[:, other::2].mean(1))
        up[half::2] = last[half::2] - losses[best, half::2]
        gained[half::2] = losses[0, half::2] - losses[best, half::2]
    return Rise(mean(up), ratio(up, gained), _lowest(losses.mean(1)))


def rise_of_curve(values: Tensor) -> Rise:
    """The same from a curve `(evaluations,)` of losses or errors alone: its own roughness is the error.

    The best window is chosen by every other evaluation and judged by the rest. Under 12 evaluations nothing is told.

    >>> up = torch.cat([torch.linspace(2, 1, 30), torch.linspace(1, 1.5, 30)])
    >>> rise_of_curve(up).rise.low > 0, rise_of_curve(up[:30]).rise.low > 0
    (True, False)
    """
    values = values.double().cpu()
    n, w = len(values), max(6, len(values) // 6)
    if n < 2 * w:
        return Rise(Measured(0.0, -torch.inf, torch.inf, n), Measured(0.0, 0.0, torch.inf, n), 0)
    starts = range(0, n - w + 1, 2)
    best = starts[_lowest(torch.stack([values[start : start + w : 2].mean() for start in starts]))]
    low = values[best + 1 : best + w : 2]
    up, gained = difference(values[n - w :], low), float(values[0] - low.mean())
    share = up.through(lambda x: max(x, 0.0) / gained if gained > 0 else torch.inf if x > 0 else 0.0)
    return Rise(up, share, best + _lowest(values[best : best + w]))


def _lowest(curve: Tensor) -> int:
    return int(curve.nan_to_num(nan=torch.inf).argmin())


def takeuchi(network: Network, batch: Batch) -> Measured:
    """Takeuchi's tr(H⁻¹C): how many parameters the examples pay for, where the loss is a negative log-likelihood.

    At a minimum, the mean of gᵀH⁻¹g over the gradients of examples; over n, it is the gap to be expected between the
    loss on new data and on these (Takeuchi 1976; Thomas et al. 2020). Directions without curvature count for nothing.
    Raises DiagnosisError for more than 2000 parameters.

    >>> problem = LeastSquares(n=200, d=20, sigma=1.0)
    >>> linear = torch.nn.Linear(20, 1, bias=False).double()
    >>> data = problem.drawn(200, seed=0)
    >>> fitted = problem.fitted(data, Network(linear, lambda z, y: (z - y).square().mean() / 2))
    >>> print(takeuchi(fitted, data))  # of 18
    20.0 (16.0 to 23.9)
    """
    n = len(network.theta)
    if n > LARGEST:
        raise DiagnosisError(f"the network has {n} parameters: a whole Hessian is made of at most {LARGEST}")
    h = hessian(network.on(batch), network.theta.detach()).double()
    g = microbatch_gradients(network, [batch], parts=len(batch)).g.double()  # (examples, n)
    values, vectors = torch.linalg.eigh(h)
    kept = values > 1e-6 * values.max()
    return mean(((g @ vectors[:, kept]) ** 2 / values[kept]).sum(1))


def findings(valid: Rise, train: Rise | None = None) -> list[Finding]:
    """Whether the validation loss rises while that of training (`train`) does not; a gap between them is none.

    >>> share = Measured(0.25, 0.2, 0.3, 400)
    >>> print(findings(Rise(Measured(0.3, 0.24, 0.36, 400), share, 4))[0].what)
    the validation loss is 0.3 above its best: 25 % of what had been gained is lost again
    """
    both = train is not None and train.rise.low > 0 and train.share.low > MATERIAL
    known = valid.rise.low > 0
    if both or not (known or (valid.share.value > MATERIAL and valid.rise.value > 0 and valid.share.n)):
        return []
    severity: Severity = "note" if known else "unclear"
    if valid.share.low > MATERIAL and known:
        severity = "critical" if valid.share.low > GRAVE else "warning"
    advice = "stop where it was lowest (early stopping), or take more data or more weight decay"
    lost = f"{100 * valid.share.value:.2g} % of what had been gained is lost again"
    lost = lost if valid.share.value < torch.inf else "it was never better than at first"
    return [
        Finding(
            "overfitting", f"the validation loss is {valid.rise.value:.3g} above its best: {lost}",
            severity, valid.share, f"a rise of more than {MATERIAL:.0%} of what had been gained", SOURCE, "8.1.2",
            advice if severity != "unclear" else "validate on four times as many examples to tell",
        )
    ]  # fmt: skip
