"""What is looked at before the first step and after the last: measurements of `challenges/` (section 8.2)."""

from __future__ import annotations

import math
import time

import torch

from thalweg.challenges import (
    cliffs,
    conditioning,
    critical_points,
    duplicates,
    inexact,
    limits,
    ordering,
    propagation,
    slices,
    spectrum,
    stability,
    symmetry,
    units,
    vanishing,
    wrong_labels,
)
from thalweg.challenges import sharpness as sharpnesses
from thalweg.core.errors import CurvatureError, DiagnosisError
from thalweg.core.measured import Measured, proportion
from thalweg.diagnose.looks import Found, Look, Sight
from thalweg.learning.batches import Arrays
from thalweg.learning.risk import accuracy

PARTS = 8  # of a batch, whose gradients say how noisy that of the whole is
ENOUGH = 10 * wrong_labels.NEIGHBOURS  # examples, of which a tenth are asked about the label of another
LARGEST = 8192  # examples at once that are tried
POINTS = 9  # along each side of a plane


# The data


def copies(sight: Sight) -> Found:
    """Rows that stand in the data more than once."""
    measured = duplicates.duplicates(sight.problem.train, sight.problem.valid)
    return measured, duplicates.findings(measured)


def order(sight: Sight) -> Found:
    """Whether batches, in the order in which training sees them, are fair samples."""
    if sight.recipe.batch_size >= len(sight.problem.train):
        return None, []  # a sum does not care
    steps = ordering.neighbours(len(sight.batches))
    seen = ordering.gradients_in_order(sight.network, [sight.batches[t] for t in steps], steps)
    measured = ordering.order(seen)
    return measured, ordering.findings(measured)


def labels(sight: Sight) -> Found:
    """Labels that disagree with what the rest of the data says."""
    measured = _labels(sight)
    return measured, [] if measured is None else wrong_labels.findings(measured, _train_error(sight))


def _labels(sight: Sight) -> wrong_labels.Labels | None:
    """None where targets are no classes, or inputs symbols, between which there is no distance.

    Raises DiagnosisError for few examples: in 60 blurred digits, neighbours were sure and wrong (2 of 10 seeds).
    """
    inputs, targets = sight.problem.train.take(torch.arange(len(sight.problem.train)))
    if targets.dim() != 1 or targets.is_floating_point() or not inputs.is_floating_point():
        return None
    if len(targets) < ENOUGH:
        raise DiagnosisError(f"wrong labels among {len(targets)} examples cannot be told: it takes {ENOUGH} or more")
    return wrong_labels.labels(*wrong_labels.out_of_fold(inputs, targets))


def _train_error(sight: Sight) -> Measured | None:
    outputs = sight.network.outputs(sight.sample.inputs)
    try:
        right = accuracy(outputs, sight.sample.targets)
    except (RuntimeError, ValueError):
        return None
    n = len(sight.sample)
    return proportion(round((1 - right) * n), n)


def scales(sight: Sight) -> Found:
    """Inputs that differ in scale, where they say anything about the targets."""
    measured = conditioning.inputs(sight.sample, sight.recipe.rule())
    found = [] if measured is None else conditioning.findings(measured)
    known = _labels(sight) if found and len(sight.problem.train) >= ENOUGH else None
    return measured, [] if known is not None and known.error.high >= known.majority else found


# The network


def signal(sight: Sight) -> Found:
    """How a signal goes through the layers, and the gradient back."""
    measured = propagation.signal(sight.network, sight.sample)
    return measured, vanishing.findings(measured)


def activations(sight: Sight) -> Found:
    """Units that are dead or saturated."""
    measured = units.units(sight.network, sight.sample)
    return measured, units.findings(measured)


def twins(sight: Sight) -> Found:
    """Units that compute the same and learn the same."""
    measured = symmetry.symmetry(sight.network, sight.sample)
    return measured, symmetry.findings(measured)


# The gradient and the curvature


def noise(sight: Sight) -> Found:
    """How noisy the gradient of a batch is; what cannot be told before the first step is told at the end."""
    size = min(sight.recipe.batch_size, len(sight.problem.train))
    parts = _parts(sight, size)
    measured = inexact.gradient_noise(inexact.microbatch_gradients(sight.network, sight.fair, parts), size)
    found = inexact.findings(measured, sight.fallen)
    return measured, [f for f in found if f.severity != "unclear" or sight.fallen is not None]


def sharpness(sight: Sight) -> Found:
    """The largest curvature, and whether the sample is large enough to tell."""
    try:
        found = sight.sharpness
        exact = found.examples >= len(sight.problem.train)  # it is that of the loss that is trained on
        return found, [] if exact else sharpnesses.findings(found)
    except CurvatureError as error:
        return None, [stability.refused(error)]


def density(sight: Sight) -> Found:
    """The spectrum of the Hessian."""
    return spectrum.spectrum(sight.network.on(sight.part), sight.network.theta, probes=2, steps=24), []


def place(sight: Sight) -> Found:
    """What kind of point the run has come to."""
    return sight.point, critical_points.findings(sight.point)


def density_there(sight: Sight) -> Found:
    """The spectrum by which that was told."""
    if len(sight.part) < critical_points.PARTS:
        return density(sight)
    return sight.point.spectrum, []


def profile(sight: Sight) -> Found:
    """The loss along the next step, for a picture."""
    batch = sight.sample
    return slices.line(sight.network.on(batch), sight.network.theta.clone(), sight.step(batch)), []


def landscape(sight: Sight) -> Found:
    """The loss across the valley and along the step, for a picture."""
    batch, sharp = sight.sample, sight.sharpness
    reach = slices.doubling(sight.loss, sharp.whole.value)
    said = ("along the largest curvature", "along the next step")
    f, step = sight.network.on(batch), sight.step(batch)
    return slices.plane(f, sight.network.theta.clone(), sharp.top, step, reach, said, POINTS), []


def steps(sight: Sight) -> Found:
    """How much of what the rule stands its learning rate uses."""
    sight.refuse_f()
    measured = stability.stability(sight.network, sight.sample, sight.recipe.rule(), sight.knobs, sight.memory)
    return measured, stability.findings(measured)


def ahead(sight: Sight) -> Found:
    """The loss along the next step."""
    batch = sight.fair[0]
    measured = cliffs.profile(sight.network.on(batch), sight.network.theta.clone(), sight.step(batch))
    return measured, cliffs.findings(measured)


def hardware(sight: Sight) -> Found:
    """The batch that memory, throughput and noise together recommend; on a CPU memory is not tried, others need it."""
    data, size = sight.problem.train, min(sight.recipe.batch_size, len(sight.problem.train))
    step, n = limits.gradient_step(sight.network, data), min(len(data), LARGEST)
    lengths = torch.ones(len(data)) if isinstance(data, Arrays) else None
    whole = limits.Memory(math.inf, 1.0, n)
    memory = limits.largest_batch(step, len(data), lengths, LARGEST) if sight.network.theta.is_cuda else whole
    sizes = [b for b in (4**k for k in range(7)) if b <= min(n, memory.largest)]
    if len(sizes) < 3:
        raise DiagnosisError(f"of {len(data)} examples no batch sizes can be made whose times tell anything")
    taken = limits.throughput(lambda b: step(torch.arange(b)), time.perf_counter, sizes)
    drawn = inexact.microbatch_gradients(sight.network, sight.fair, _parts(sight, size))
    scale = inexact.gradient_noise(drawn, size).scale
    return (memory, taken, scale), limits.findings(memory, taken.knee, scale, size)


def _parts(sight: Sight, size: int) -> int:
    """Into how many a batch is cut: of two examples at least, one has no statistics; whole where there are enough."""
    few = len(sight.fair) < PARTS
    return PARTS if size >= 2 * PARTS else max(size // 2, 1) if few else 1


BOTH: dict[str, Look] = {
    "signal": signal,
    "units": activations,
    "gradient noise": noise,
    "sharpness": sharpness,
    "stability": steps,
    "next step": ahead,
    "profile": profile,
    "landscape": landscape,
}
AT_START: dict[str, Look] = {
    "duplicates": copies,
    "order": order,
    "labels": labels,
    "scales of inputs": scales,
    "symmetry": twins,
    **BOTH,
    "spectrum": density,
}
BY_THE_CLOCK: dict[str, Look] = {"batch size": hardware}  # another answer each time
AT_END: dict[str, Look] = {"labels": labels, **BOTH, "critical point": place, "spectrum": density_there}
