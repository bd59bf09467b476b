"""The largest curvature of a sample (section 8.2.1), and whether it is that of the problem."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from thalweg.challenges.finding import Finding
from thalweg.challenges.spectrum import ends
from thalweg.core.derivatives import hessian_at
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured
from thalweg.core.network import Batch, Network
from thalweg.core.undisturbed import undisturbed

APART = 0.1  # of the sharpness at 2n examples: farther above it at n, it is that of the sample


class Sharpness(NamedTuple):
    """The largest eigenvalue of the Hessian on a sample and on its halves: what a sample of half the size would say."""

    whole: Measured
    half: Measured  # the mean of both halves, and the lesser and the larger of them
    examples: int
    top: Tensor  # (n,), the direction of it
    rung: str

    @property
    def resolved(self) -> bool:
        """Whether it is the curvature of the problem: that of a sample is too large, by the noise of its matrix.

        Of independent directions it is (1 + sqrt(d/n))² times the true one (Marchenko and Pastur 1967).
        """
        return self.half.value - self.whole.value <= APART * abs(self.whole.value)


def sharpness(network: Network, batch: Batch, most: int = 64, seed: int = 0) -> Sharpness:
    """The largest eigenvalue on a batch of examples in random order, and on its two halves.

    Raises DiagnosisError for a batch of fewer than two examples, CurvatureError where there are no second derivatives.

    >>> import torch
    >>> network = Network(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss)
    >>> found = sharpness(network, Batch(torch.randn(4096, 3), torch.zeros(4096, 1)))
    >>> found.resolved
    True
    """
    n = len(batch)
    if n < 2:
        raise DiagnosisError(f"a batch of {n} example was given: its halves are compared, give 2 or more")
    cuts = (slice(None), slice(0, n // 2), slice(n // 2, None))
    parts = [Batch(batch.inputs[cut], batch.targets[cut]) for cut in cuts]
    theta = network.theta
    with undisturbed(network.module):
        whole, *halves = (ends(hessian_at(network.on(part), theta), theta, most, seed=seed) for part in parts)
    values = [half.largest.value for half in halves]
    half = Measured(sum(values) / 2, min(values), max(values), 2)
    return Sharpness(whole.largest, half, n, whole.top, whole.rung)


def findings(measured: Sharpness) -> list[Finding]:
    """ "curvature not resolved" where a sample of half the size has another sharpness; nothing else is then advised.

    >>> import torch
    >>> from thalweg.core.measured import exactly
    >>> [f.severity for f in findings(Sharpness(exactly(2.0), exactly(2.6), 64, torch.ones(1), "double backward"))]
    ['unclear']
    """
    if measured.resolved:
        return []
    n, ratio = measured.examples, measured.half.value / measured.whole.value
    return [
        Finding(
            "curvature not resolved",
            f"the sharpness of {n // 2} examples is {ratio:.3g} times that of {n}: it is the sample's",
            "unclear",
            measured.whole,
            f"at most {1 + APART:g} times the sharpness at twice as many examples",
            "Marchenko and Pastur 1967",
            "8.2.1",
            f"measure on {4 * n} examples or more; until then there is no advice on lr from curvature",
        )
    ]
