"""Units that compute the same and learn the same: symmetry that the initialisation did not break (section 8.4)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.challenges.finding import Finding, Severity
from thalweg.challenges.passes import layers
from thalweg.core.derivatives import value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly
from thalweg.core.network import Batch, Network, OnBatch
from thalweg.core.noise import uniform
from thalweg.core.undisturbed import looked_into

CLOSE = 1e-5  # of the largest entry in the layer: rounding in float32
TINY = 1e-35  # instead of 0 as a divisor
STEPS, LENGTH = 2, 0.01  # steps down the gradient that twins must stay twins for, relative to the length of theta
SOME, HALF = 0.1, 0.5  # of a layer's units: a warning, critical

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_KINDS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.MultiheadAttention, *_RECURRENT)


class Twins(NamedTuple):
    """One layer: its units, how many different ones there are among them, and the part that has a twin."""

    name: str
    units: int
    different: int
    alike: Measured


class Symmetry(NamedTuple):
    """Every layer of which the units were compared, in the order of the module."""

    layers: tuple[Twins, ...]


def symmetry(network: Network, batch: Batch) -> Symmetry:
    """Compares the units of each layer: twins have the same weights and biases, and the same gradients.

    Equal weights alone are no symmetry: those of a last layer of zeros differ after a step. Twins are therefore
    followed for two steps down the gradient, of a copy of theta. Compared are linear, convolutional, recurrent and
    attention layers; not embeddings, whose rows are no units, and not the outputs, whose targets tell them apart.
    A gradient, and two more where there are twins. Raises DiagnosisError for no examples, or a gradient that is not
    finite.

    >>> module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> _ = nn.init.constant_(module[0].weight, 0.1), nn.init.zeros_(module[0].bias), nn.init.ones_(module[2].weight)
    >>> network = Network(module, nn.functional.mse_loss)
    >>> symmetry(network, Batch(torch.randn(9, 4), torch.randn(9, 1))).layers[0]
    Twins(name='0', units=8, different=1, alike=Measured(value=1.0, low=1.0, high=1.0, n=1))
    """
    if not len(batch):
        raise DiagnosisError("a batch without examples was given: units are told apart by gradients, give at least one")
    module = looked_into(network.module)
    inside = network if module is network.module else Network(module, network.loss, own=False)
    theta, parts = inside.theta, _hidden(module, _on(inside, batch), inside.theta)
    g = _gradient(inside, batch, theta)
    rows = {name: _rows(inside, name, part, theta, g) for name, part in parts.items()}
    kinds = {name: _kinds(found) for name, found in rows.items() if found.numel()}
    for _ in range(STEPS if any(_twins(kind) for kind in kinds.values()) else 0):
        theta = theta - LENGTH * max(float(theta.norm()), 1.0) / max(float(g.norm()), TINY) * g
        g = _gradient(inside, batch, theta)
        for name, before in kinds.items():
            now = _kinds(_rows(inside, name, parts[name], theta, g))
            kinds[name] = torch.unique(before * len(now) + now, return_inverse=True)[1]
    return Symmetry(tuple(_counted(name, kind) for name, kind in kinds.items()))


def _counted(name: str, kinds: Tensor) -> Twins:
    n, different = len(kinds), len(kinds.bincount().nonzero())
    return Twins(name, n, different, exactly(_twins(kinds) / n))


def _on(network: Network, batch: Batch) -> OnBatch:
    return network.on(Batch(batch.inputs.clone(), batch.targets))  # a module may write to its inputs


def _gradient(network: Network, batch: Batch, theta: Tensor) -> Tensor:
    g = value_and_gradient(_on(network, batch), theta)[1].clone()
    if not g.isfinite().all():
        raise DiagnosisError("the gradient is not finite on this batch: units cannot be told apart by it")
    return g


@torch.no_grad()
def _hidden(module: nn.Module, f: OnBatch, theta: Tensor) -> dict[str, nn.Module]:
    """The layers that are compared, without the last that has as many units as the network has outputs."""
    parts = {name: part for name, part in layers(module).items() if isinstance(part, _KINDS)}
    z = f.outputs(theta)
    widths = {*z.shape[1:], z[0].numel()} if z.dim() else set()
    outputs = [name for name, part in parts.items() if _units(part) in widths][-1:]
    return {name: part for name, part in parts.items() if name not in outputs}


def _units(part: nn.Module) -> int:
    return int(getattr(part, "out_features", getattr(part, "out_channels", 0)))


def _rows(network: Network, name: str, part: nn.Module, theta: Tensor, g: Tensor) -> Tensor:
    """What tells the units of a layer apart (units, entries): weights and gradients, each over their largest entry.

    Without entries where all of it is frozen, tied to another layer, or shared out among groups the other way round.
    """
    found = []
    for views in (network.views(theta), network.views(g)):
        own = {rest: p for full, p in views.items() if (rest := _own(name, full)) is not None}
        if isinstance(part, nn.modules.conv._ConvTransposeNd):
            own = {rest: p.transpose(0, 1) if p.dim() > 1 and part.groups == 1 else p for rest, p in own.items()}
        n = max((len(p) for p in own.values() if p.dim() > 1), default=0)
        pieces = [p.reshape(n, -1) for p in own.values() if n > 1 and p.dim() and len(p) == n]
        found += [piece / max(float(piece.abs().max()), TINY) for piece in pieces]
    return torch.cat(found, 1).double() if found else theta.new_empty(0, 0)


def _own(name: str, full: str) -> str | None:
    """What a parameter of a layer is called there; None for another layer's."""
    rest = full.removeprefix(f"{name}." if name else "")
    mine = (rest != full or not name) and ("." not in rest or rest.startswith("parametrizations."))
    return rest if mine else None


def _kinds(rows: Tensor) -> Tensor:
    """A number for each row (n,), the same for rows that are the same but for rounding."""
    at = rows @ uniform(rows[0], 0)  # what is the same comes side by side
    order = at.argsort()
    near = (rows[order][1:] - rows[order][:-1]).abs().amax(1) <= CLOSE
    kinds = torch.empty_like(order)
    kinds[order] = torch.cat([near.new_zeros(1), ~near]).cumsum(0)
    return kinds


def _twins(kinds: Tensor) -> int:
    """How many have the same number as another."""
    counts = kinds.bincount()
    return int(counts[counts > 1].sum())


def findings(measured: Symmetry) -> list[Finding]:
    """Layers whose units are twins; a few of them are a note."""
    return [_finding(layer) for layer in measured.layers if layer.alike.value]


def _finding(layer: Twins) -> Finding:
    part = layer.alike.value
    severity: Severity = "critical" if part > HALF else "warning" if part > SOME else "note"
    alarm = severity != "note"
    return Finding(
        "symmetric units",
        f"of {layer.units} units only {layer.different} are different: the others have their weights and gradients",
        severity,
        layer.alike,
        f"a tenth of a layer's units with a twin ({HALF:.0%}: critical)",
        "Goodfellow et al. 2016",
        "8.4",
        "draw the weights at random: twins never become different" if alarm else "nothing: a few cost little",
        layer.name,
        {"init": "he_normal"} if alarm else {},
    )
