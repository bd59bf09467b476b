"""How far a step moves the weights, relative to their length (section 8.3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.challenges.finding import Finding, Severity
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, quantile
from thalweg.core.network import Network

FEWEST = 20  # steps
USUAL = 1e-3  # a step of a healthy run, relative to the weights: 1e-3 to 1e-2 on small nets
STILL, LITTLE = 1e-6, 1e-5  # even in the largest tenth of the steps: one weight stands still; all of them do
MUCH, ALL = 0.1, 1.0  # even in the smallest tenth of the steps: a warning, critical
LARGE = 1e-4  # an update that shows that lr is not what holds another weight back


class Updated(NamedTuple):
    """One weight: the median of |Δw| / |w| over the steps, and what all but a tenth of them are below, and above."""

    name: str
    ratio: Measured
    high: float
    low: float


class Updates(NamedTuple):
    """The weights of a run, in the order of the network, without those that began as zeros or have no gradient."""

    weights: tuple[Updated, ...]
    steps: int


def weights(network: Network) -> list[str]:
    """The parameters whose updates are looked at: matrices and larger, no embeddings, of which a step sees few rows.

    >>> module = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2), nn.LayerNorm(2))
    >>> weights(Network(module, nn.functional.mse_loss))
    ['1.weight']
    """
    parts = [part for part in network.module.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
    tables = {id(p) for part in parts for p in part.parameters()}
    pairs = zip(network.names, network.parameters, strict=True)
    return [name for name, p in pairs if p.dim() > 1 and id(p) not in tables]


def update_ratios(network: Network, before: Tensor, after: Tensor) -> Tensor:
    """|Δw| / |w| of each of the `weights` (weights,) in one step from theta `before: (n,)` to `after: (n,)`.

    It is infinite for a weight that was 0. Nothing waits for the device.

    >>> network = Network(nn.Linear(3, 2), nn.functional.mse_loss)
    >>> update_ratios(network, network.theta, 1.25 * network.theta)
    tensor([0.2500])
    """
    old, new = network.views(before), network.views(after)
    names = weights(network)
    if not names:
        return before.new_zeros(0)
    return torch.stack([(new[name] - old[name]).norm() / old[name].norm() for name in names]).detach()


def updates(network: Network, ratios: Sequence[Tensor]) -> Updates:
    """The `update_ratios` of the steps of a run, weight by weight, with 95 % intervals of their medians.

    Raises DiagnosisError for fewer than 20 steps, for the first are unlike the others.

    >>> network = Network(nn.Linear(3, 2), nn.functional.mse_loss)
    >>> print(updates(network, [torch.tensor([0.001])] * 20).weights[0].ratio)
    0.001
    """
    if len(ratios) < FEWEST:
        raise DiagnosisError(
            f"the updates of {len(ratios)} steps were given: give {FEWEST}, for the first are unlike others"
        )
    table = torch.stack(list(ratios)).double().cpu()  # (steps, weights)
    found = []
    for name, column in zip(weights(network), table.T, strict=True):
        ordered = column[column.isfinite()].sort().values
        still = len(ordered) < FEWEST or float(ordered.quantile(0.5)) == 0  # it has no gradient, whatever lr is
        if bool(column[0].isfinite()) and not still:
            low, high = ordered.quantile(torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
            found.append(Updated(name, quantile(ordered, 0.5), high, low))
    return Updates(tuple(found), len(ratios))


def findings(measured: Updates) -> list[Finding]:
    """Weights that jump at every step, and weights that stand still: all of them, which is lr's doing, or some."""
    moved = measured.weights
    if not moved:
        return []
    found = [_jumps(weight) for weight in moved if weight.low > MUCH]
    if max(weight.high for weight in moved) < LITTLE:
        return [*found, _all_still(measured)]
    if max(weight.ratio.value for weight in moved) > LARGE:
        found += [_still(weight) for weight in moved if weight.high < STILL]
    return found


_SOURCE = "Karpathy, CS231n: about 1e-3; torchmortem"


def _jumps(weight: Updated) -> Finding:
    severity: Severity = "critical" if weight.low > ALL else "warning"
    return Finding(
        "update ratio",
        f"nine of ten steps change {weight.name} by more than {weight.low:.0%} of its length",
        severity,
        weight.ratio,
        f"{MUCH:g} in nine of ten steps ({ALL:g}: critical)",
        _SOURCE,
        "8.3.1",
        "lower lr",
        weight.name,
        {"lr_factor": _power(10 * USUAL / weight.ratio.value)},
    )


def _all_still(measured: Updates) -> Finding:
    most = max(measured.weights, key=lambda weight: weight.high)
    return Finding(
        "lr far too low",
        f"no weight changes by more than {most.high:.2g} of its length in nine of ten steps; about {USUAL:g} is usual",
        "warning",
        most.ratio,
        f"{LITTLE:g} for every weight, in nine of ten steps",
        _SOURCE,
        "8.3.1",
        "raise lr by powers of ten, as long as the loss falls faster",
        "",
        {"lr_factor": _power(USUAL / most.ratio.value)},
    )


def _still(weight: Updated) -> Finding:
    return Finding(
        "update ratio",
        f"nine of ten steps change {weight.name} by less than {weight.high:.1g} of its length, and others by {LARGE:g}",
        "warning",
        weight.ratio,
        f"{STILL:g} in nine of ten steps",
        _SOURCE,
        "8.3.1",
        "look for what holds its gradient back: units that are dead or saturated, weights that are far too large",
        weight.name,
    )


def _power(factor: float) -> float:
    """A power of ten near a factor, toward 1, and no further than 1e4."""
    power = math.trunc(math.log10(factor) + math.copysign(1e-9, math.log10(factor)))
    return float(f"1e{max(min(power, 4), -4)}")
