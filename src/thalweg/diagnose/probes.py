"""What is looked at, and when: each measurement of `challenges/` with what it needs of a run (section 8.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from thalweg.challenges import (
    cliffs,
    conditioning,
    critical_points,
    duplicates,
    inexact,
    learning_rate,
    ordering,
    overfitting,
    propagation,
    slices,
    spectrum,
    spikes,
    stability,
    symmetry,
    units,
    updates,
    vanishing,
    wrong_labels,
)
from thalweg.challenges.finding import Finding
from thalweg.core.errors import CurvatureError, DiagnosisError
from thalweg.core.measured import Measured, exactly, proportion
from thalweg.diagnose.course import Course
from thalweg.diagnose.looks import Look, Sight
from thalweg.learning.batches import Batches
from thalweg.learning.risk import accuracy

Found = tuple[Any, list[Finding]]  # what was measured, and what was found in it
PARTS = 8  # of a batch, whose gradients say how noisy that of the whole is
TRIED = 64  # steps with each learning rate
POINTS = 9  # along each side of a plane
EARLY = (1, 3, 10, 30)  # steps after which a run that does not learn is looked at again
LEARNED = 0.2  # of the first loss: a run in which less has gone has not learned
HELD = 8  # batches of validation examples by which learning rates are judged


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
    """None where targets are no classes, or inputs symbols, between which there is no distance."""
    inputs, targets = sight.problem.train.take(torch.arange(len(sight.problem.train)))
    if targets.dim() != 1 or targets.is_floating_point() or not inputs.is_floating_point():
        return None
    return wrong_labels.labels(*wrong_labels.out_of_fold(inputs, targets))


def scales(sight: Sight) -> Found:
    """Inputs that differ in scale, where they say anything about the targets."""
    measured = conditioning.inputs(sight.sample, sight.recipe.rule())
    found = [] if measured is None else conditioning.findings(measured)
    known = _labels(sight) if found else None
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
    parts = PARTS if size >= 2 * PARTS or len(sight.fair) < PARTS else 1
    measured = inexact.gradient_noise(inexact.microbatch_gradients(sight.network, sight.fair, parts), size)
    found = inexact.findings(measured, sight.fallen)
    return measured, [f for f in found if f.severity != "unclear" or sight.fallen is not None]


def sharpness(sight: Sight) -> Found:
    """The largest curvature, and whether the sample is large enough to tell."""
    try:
        found = sight.sharpness
        exact = found.examples >= len(sight.problem.train)  # it is that of the loss that is trained on
        return found, [] if exact else spectrum.findings(found)
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
    _needs_gradients_only(sight)
    measured = stability.stability(sight.network, sight.sample, sight.recipe.rule(), sight.knobs, sight.memory)
    return measured, stability.findings(measured)


def _needs_gradients_only(sight: Sight) -> None:
    if "f" in sight.rule.sees:
        raise DiagnosisError(f"{sight.recipe.algorithm} looks at f itself: no limit of its learning rate is known")


def ahead(sight: Sight) -> Found:
    """The loss along the next step."""
    batch = sight.fair[0]
    measured = cliffs.profile(sight.network.on(batch), sight.network.theta.clone(), sight.step(batch))
    return measured, cliffs.findings(measured)


# Along the run


def course_itself(course: Course, sight: Sight) -> Found:
    """Losses and gradients of each step; where they end before their time, the learning rate is too high."""
    found = []
    if course.diverged:
        found = [_diverged(course)]
    return course.thinned(), found


def _diverged(course: Course) -> Finding:
    return Finding(
        "lr above the stability limit", course.diverged, "critical", exactly(float(len(course.steps))),
        "a loss that stays finite", "Goodfellow et al. 2016", "8.2.4", "multiply lr by 0.1, or clip gradients",
        remedy={"lr_factor": 0.1},
    )  # fmt: skip


def early(course: Course, sight: Sight) -> Found:
    """Whether the first steps went over the edge of stability, where the run has not learned; it takes them again.

    A loss that is bounded, or units that die, hide a learning rate that is too high: the loss rises, then stays.
    """
    fallen = sight.fallen
    if not course.diverged and fallen is not None and fallen.value >= LEARNED:
        return None, []
    _needs_gradients_only(sight)
    run = sight.again()
    shares = []
    for t in EARLY:
        for _ in run.advance(t):
            pass
        seen = Sight(run)
        shares.append(stability.stability(run.network, seen.part, seen.recipe.rule(), seen.knobs, seen.memory).share)
    worst = max(shares, key=lambda share: share.low)
    return worst, [_over_the_edge(worst, course, sight)] if worst.low > 1 else []


def _over_the_edge(share: Measured, course: Course, sight: Sight) -> Finding:
    before, after = sight.first_loss or math.nan, course.diverged or f"{sight.loss:.3g}"
    return Finding(
        "lr above the stability limit",
        f"in the first {EARLY[-1]} steps lr was up to {share.value:.3g} times the largest that is stable; the loss was "
        f"{before:.3g} before them and is {after} after {len(course.steps)}",
        "critical", share, f"1, in a run in which less than {LEARNED:.0%} of the loss has gone",
        "Cohen et al. 2021; Lewkowycz et al. 2020", "8.2.1", "multiply lr by 0.1, or warm it up",
        remedy={"lr_factor": 0.1},
    )  # fmt: skip


def rates(course: Course, sight: Sight) -> Found:
    """The learning rate that does best in a few steps from where the run began.

    It says something of the run only where that did no better with all its steps.
    """
    name, value = sight.recipe.leading
    if name != "lr":
        raise DiagnosisError(f"{sight.recipe.algorithm} has no lr: there is none to advise")
    _needs_gradients_only(sight)
    first = Sight(sight.again())
    size = min(sight.recipe.batch_size, len(sight.problem.valid))
    valid = Batches(sight.problem.valid, size, sight.run.seed)
    held = [valid[t] for t in range(min(HELD, len(valid)))]
    rule, knobs = sight.recipe.rule(), first.knobs
    measured = learning_rate.advise(first.network, first.fair, held, rule, knobs, first.memory, TRIED)
    best = min(float(trial.losses.mean()) for trial in measured.trials)
    better = not course.diverged and course.reached < best
    return measured, [] if better else learning_rate.findings(measured, value)


def changes(course: Course, sight: Sight) -> Found:
    """How far a step moves each weight."""
    names = updates.weights(sight.network)
    if not names:
        return None, []
    measured = updates.updates(sight.network, torch.stack([course.changes[name] for name in names], 1).unbind())
    return measured, updates.findings(measured)


def jumps(course: Course, sight: Sight) -> Found:
    """Gradients that are out of line."""
    measured = spikes.spikes(course.gradient_norms)
    return measured, spikes.findings(measured)


def rising(course: Course, sight: Sight) -> Found:
    """Whether the validation loss rises again."""
    if not len(course.valid):
        measured = overfitting.rise_of_curve(torch.tensor([point.valid_loss for point in course.curve]))
        return measured, overfitting.findings(measured)
    valid, train = (overfitting.rise(losses) for losses in (course.valid, course.train))
    return valid, overfitting.findings(valid, train)


def again(course: Course, sight: Sight) -> Found:
    """How much too good the loss is on examples that were seen before."""
    if not len(course.valid):
        return None, []
    measured = ordering.resampling(course.train[-1], course.valid[-1])
    return measured, ordering.findings_of_resampling(measured)


def _train_error(sight: Sight) -> Any:
    outputs = sight.network.outputs(sight.sample.inputs)
    try:
        right = accuracy(outputs, sight.sample.targets)
    except (RuntimeError, ValueError):
        return None
    n = len(sight.sample)
    return proportion(round((1 - right) * n), n)


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
ALONG: dict[str, Callable[[Course, Sight], Found]] = {
    "course": course_itself,
    "stability at first": early,
    "learning rate": rates,
    "updates": changes,
    "spikes": jumps,
    "overfitting": rising,
    "resampling": again,
}
AT_END: dict[str, Look] = {"labels": labels, **BOTH, "critical point": place, "spectrum": density_there}
