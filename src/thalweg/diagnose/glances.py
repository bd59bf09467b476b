"""What a monitor looks at (section 8.2): each measurement of `challenges/` on one batch of somebody's own loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from thalweg.challenges import conditioning, inexact, ordering, propagation, stability, symmetry, units, vanishing
from thalweg.challenges.finding import Finding
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly
from thalweg.core.network import Batch, Network
from thalweg.diagnose.examples import Called
from thalweg.diagnose.kept import MOST, PAIRS, Kept
from thalweg.diagnose.ruled import lr_of, ruled

SPLIT = 8  # parts of a batch, whose gradients say how noisy that of the whole is
STRETCH = 16  # looks at the noise that are put together
ALONE = 3  # looks: with fewer of them the last one speaks for itself
PRODUCTS, NEAR = 12, 0.05  # with the Hessian, at most, and how near they need to come
MANY = 128  # examples, to see dead units


class Glance(NamedTuple):
    """What a look gave: figures for the history, and findings."""

    figures: dict[str, Measured]
    findings: list[Finding]


@dataclass
class Loop:
    """A loop at one step: what there is to look at."""

    network: Network
    optimizer: torch.optim.Optimizer
    batch: Batch
    step: int
    size: int  # examples of one step of the optimizer
    fallen: Measured  # the share of the first losses that has gone
    looks: int  # of this kind so far
    kept: Kept = field(default_factory=Kept)
    pairs: list[tuple[float, float]] = field(default_factory=list)  # (tr Sigma, |G|²) of looks so far

    @property
    def lr(self) -> float:
        """That of the first group."""
        return lr_of(self.optimizer)


def noise(loop: Loop) -> Glance:
    """How noisy a gradient is; a few looks are put together by ratios of means."""
    draws = inexact.microbatch_gradients(loop.network, [loop.batch], min(SPLIT, len(loop.batch)), seed=loop.step)
    loop.pairs.append(inexact.without_bias(draws))
    del loop.pairs[:-STRETCH]
    alone = len(loop.pairs) < ALONE
    measured = (
        inexact.gradient_noise(draws, loop.size)
        if alone
        else inexact.over_training(torch.tensor(loop.pairs, dtype=torch.float64), loop.size)
    )
    figures = {"noise scale": measured.scale, "noise of a batch": measured.error()}
    return Glance(figures, inexact.findings(measured, loop.fallen))


def signal(loop: Loop) -> Glance:
    """How a signal goes through the layers, and the gradient back."""
    measured = propagation.signal(loop.network, loop.batch)
    return Glance({"gradient growth a layer": measured.growth}, vanishing.findings(measured))


def unit(loop: Loop) -> Glance:
    """Units that are dead, or saturated."""
    others = [batch for _, batch in loop.kept.pairs(MOST)][: MANY // len(loop.batch)]
    measured = units.units(loop.network, loop.batch, *others)
    figures = {}
    for name, kinds in (("dead units", {"relu"}), ("saturated units", {"tanh", "sigmoid"})):
        heard = [a for a in measured.activations if a.kind in kinds and a.role == "hidden"]
        if count := sum(a.units for a in heard):
            part = sum((a.dead if name == "dead units" else a.saturated).value * a.units for a in heard)
            figures[name] = exactly(part / count)
    return Glance(figures, units.findings(measured))


def twins(loop: Loop) -> Glance:
    """Units that are the same."""
    if isinstance(loop.network.module, Called):
        with torch.no_grad():
            z = loop.network.on(loop.batch).outputs(loop.network.theta)
        if z.dim() < 2:
            raise DiagnosisError("which units are outputs is not known from the loss alone: return (outputs, targets)")
    return Glance({}, symmetry.findings(symmetry.symmetry(loop.network, loop.batch)))


def curvature(loop: Loop) -> Glance:
    """Curvature along the gradient."""
    measured = conditioning.criterion(loop.network, [loop.batch], loop.lr)
    along = exactly(measured.along.value)
    return Glance({"curvature along the gradient": along}, [])


def order(loop: Loop) -> Glance:
    """Whether batches, in the order in which they came, are fair samples."""
    kept = loop.kept.pairs(min(PAIRS << min(loop.looks, 4), MOST))
    seen = ordering.gradients_in_order(loop.network, [batch for _, batch in kept], [step for step, _ in kept])
    measured = ordering.order(seen)
    return Glance({"design effect": measured.design}, ordering.findings(measured))


def scales(loop: Loop) -> Glance:
    """Features that are learned slowly for their scale; nothing where inputs are none."""
    if isinstance(loop.network.module, Called):
        raise DiagnosisError("the inputs are not one tensor of features")
    parts = [loop.batch, *(batch for _, batch in loop.kept.pairs(MOST))]
    sample = Batch(*(torch.cat(column) for column in zip(*parts, strict=True)))
    measured = conditioning.inputs(sample, ruled(loop.optimizer, loop.network.parameters).rule)
    return Glance({}, [] if measured is None else conditioning.findings(measured))


def steps(loop: Loop) -> Glance:
    """How much of what the rule stands its lr uses, on one batch; a trial only where that is more than all."""
    found = ruled(loop.optimizer, loop.network.parameters)
    f, theta = loop.network.on(loop.batch), loop.network.theta
    measured = stability.stability_of(f, theta, found.rule, found.knobs, found.memory, PRODUCTS, NEAR)
    figures = {"sharpness": measured.sharpness, "share of the stability limit": measured.share}
    return Glance(figures, stability.findings(measured))


class Rung(NamedTuple):
    """A look, its weight in the budget, and as how many steps it is taken to be before it was timed."""

    look: Callable[[Loop], Glance]
    weight: float
    steps: float


# The first look is taken to be as dear as with a small model, whose steps are short beside what any look takes.
RUNGS = {
    "units": Rung(unit, 0.1, 8.0),
    "symmetry": Rung(twins, 0.1, 8.0),
    "signal": Rung(signal, 0.1, 8.0),
    "gradient noise": Rung(noise, 0.2, 12.0),
    "curvature": Rung(curvature, 0.1, 14.0),
    "inputs": Rung(scales, 0.1, 8.0),
    "order": Rung(order, 0.4, 40.0),
    "stability": Rung(steps, 0.3, 120.0),
}
ONCE = {"symmetry", "inputs"}  # what does not change along a run
OF_KEPT = {"order", "inputs"}  # what looks at batches that were kept
