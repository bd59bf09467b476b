"""Vanishing and exploding gradients, and how a signal goes through the layers (sections 8.2.5, 8.4 and 10.7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.challenges.finding import Finding, Severity
from thalweg.challenges.propagation import Recurrent, Signal
from thalweg.core.measured import Measured, over

FADED = 1e-4  # of the last layer's gradient left at the first: eight ReLU layers as torch initialises them leave 1e-3
LOST = 1e-6
GROWN = 1e3  # times the last layer's gradient: an embedding of scale .02 under LayerNorm makes 50
BURST = 1e5
ROUNDING = 1e-12  # of the second moment: a smaller variance is that of rounding
SPREAD = 1e6  # times the variance of a layer's outputs over examples, from the first to the last, or below its inverse


def chain(
    depth: int, width: int, gain: float, activation: Callable[[], nn.Module] = nn.Identity, seed: int = 0
) -> nn.Sequential:
    """A problem whose signal is known: linear layers of orthogonal weights times a gain, each before an activation.

    Without activations the gradient at the inputs is exactly gain ** depth of that at the outputs; with them the
    squared ratio is chi ** depth in wide layers, as `mean_field` has it.

    >>> module = chain(2, 3, gain=0.5)
    >>> torch.linalg.svdvals(module[0].weight)
    tensor([0.5000, 0.5000, 0.5000], grad_fn=<LinalgSvdBackward0>)
    """
    random = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for _ in range(depth):
        Q, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=random))
        layer = nn.Linear(width, width, bias=False)
        layer.weight.data = (gain * Q).to(layer.weight.dtype)
        parts += [layer, activation()]
    return nn.Sequential(*parts)


class MeanField(NamedTuple):
    """What a wide net comes to: q, the second moment of its pre-activations, and chi, by which squared gradients grow.

    They vanish with chi below 1, and explode above it.
    """

    q: float
    chi: float


def mean_field(activation: Callable[[Tensor], Tensor], sigma_w: float, sigma_b: float = 0.0) -> MeanField:
    """The fixed point q = σ_w² E[φ(√q z)²] + σ_b² and χ₁ = σ_w² E[φ'(√q z)²] (Schoenholz et al. 2017).

    sigma_w is the gain of orthogonal weights, or √n times the standard deviation of n independent ones.

    >>> print("q {:.2f}, chi {:.2f}".format(*mean_field(torch.tanh, 1.5)))
    q 0.79, chi 1.14
    """
    z = (torch.arange(-1000, 1000, dtype=torch.float64) + 0.5) / 100  # none at 0, where ReLU has no slope
    weights = torch.exp(-z.square() / 2)
    weights /= weights.sum()
    q = 1.0
    for _ in range(1000):
        q = sigma_w**2 * float(weights @ activation(q**0.5 * z).square()) + sigma_b**2
    units = (q**0.5 * z).requires_grad_()
    (slopes,) = torch.autograd.grad(activation(units).sum(), units)
    return MeanField(q, sigma_w**2 * float(weights @ slopes.square()))


def findings(signal: Signal) -> list[Finding]:
    """What a signal says: gradients that vanish or explode, forward or through time; else a note of how it goes."""
    found = [*_backward(signal), *_forward(signal)]
    for recurrent in signal.recurrent:
        found += _through_time(recurrent)
    return found


_RATIO = f"a gradient at the first layer between {FADED:g} and {GROWN:g} times the last one's"
_RATIO_SOURCE = "Pascanu et al. 2013; AUTOTRAINER, Zhang et al. 2021: 1e-3"
_ADVICE = {
    "vanishing gradients": "initialise so that no layer shrinks the signal (He, orthogonal), take ReLU for sigmoid "
    "units, or add residual connections or normalisation layers",
    "exploding gradients": "initialise with a gain of 1 a layer (He, orthogonal), or add normalisation layers; clip "
    "gradients where they still jump",
    "signal propagation": "initialise so that each layer keeps the variance (He, orthogonal, or by the data: LSUV)",
}


def _backward(signal: Signal) -> list[Finding]:
    """The gradient at the first layer that it reaches, against the last layer's."""
    layers = signal.weighted
    reached = [layer for layer in layers if layer.ratio.value > 0]
    if len(reached) < 2 or reached[0].ratio.value == math.inf:
        return []
    first, last, steps = reached[0], layers[-1], len(layers) - 1 - layers.index(reached[0])
    each = first.ratio.value ** (-1 / steps)
    said = (
        f"the gradient at {first.name} is {first.ratio.value:.2g} times that at {last.name}: "
        f"it {'shrinks' if each > 1 else 'grows'} by {max(each, 1 / each):.2g} a layer on the way"
    )
    if first is not layers[0]:
        said += f"; below {first.name} it is exactly 0: weights of zeros, dead units, or too small for a number"
    return [_finding(first.ratio, said, first.name, "8.2.5", {"init": "he_normal"})]


def _finding(ratio: Measured, said: str, where: str, section: str, remedy: dict[str, str]) -> Finding:
    """A ratio of gradients under the rule for it."""
    name, severity = _judged(ratio)
    if severity == "note":
        advice, remedy = "nothing: it goes through", {}
    else:
        advice = _ADVICE[name]
    if severity == "unclear":
        advice, remedy = f"measure it on more than {ratio.n} examples", {}
    return Finding(name, said, severity, ratio, _RATIO, _RATIO_SOURCE, section, advice, where, dict(remedy))


def _judged(ratio: Measured) -> tuple[str, Severity]:
    if ratio.value < FADED:
        worst: Severity = "critical" if ratio.high < LOST else "warning"
        return "vanishing gradients", worst if ratio.high < FADED else "unclear"
    if ratio.value > GROWN:
        worst = "critical" if ratio.low > BURST else "warning"
        return "exploding gradients", worst if ratio.low > GROWN else "unclear"
    return "signal propagation", "note"


def _forward(signal: Signal) -> list[Finding]:
    """What is left at the last layer of the differences between examples that the first one shows, or is added."""
    layers = [layer for layer in signal.weighted if layer.variance.value > ROUNDING * layer.moment.value]
    if len(layers) < 2:
        return []
    first, last = layers[0], layers[-1]
    a, b = last.variance, first.variance
    grown = over(a, b)
    if grown.low <= SPREAD and grown.high >= 1 / SPREAD:
        return []
    said = f"the variance over examples is {b.value:.2g} at {first.name} and {a.value:.2g} at {last.name}"
    rule = f"a variance between {1 / SPREAD:g} and {SPREAD:g} times the first layer's"
    source, advice = "Glorot and Bengio 2010; He et al. 2015", _ADVICE["signal propagation"]
    remedy = {"init": "he_normal"}
    return [Finding("signal propagation", said, "warning", grown, rule, source, "8.4", advice, last.name, remedy)]


def _through_time(recurrent: Recurrent) -> list[Finding]:
    """The gradient at the first step of a sequence, against the step that the loss feels most."""
    if _judged(recurrent.first)[1] == "note":
        return []
    said = (
        f"the gradient at the first of {recurrent.steps} steps is {recurrent.first.value:.2g} times that at the step "
        f"which counts most; the weights that are repeated have the spectral radius {recurrent.radius:.2g}"
    )
    found = _finding(recurrent.first, said, recurrent.name, "10.7", {})
    if found.severity == "unclear":
        return [found]
    advice = "initialise recurrent weights orthogonally, take an LSTM with a forget bias of 1, or shorter sequences"
    return [replace(found, advice=advice)]
