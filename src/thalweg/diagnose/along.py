"""What is looked at of a run that was watched: measurements of `challenges/` over its course (section 8.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from thalweg.challenges import learning_rate, ordering, overfitting, spikes, stability, updates
from thalweg.challenges.divergence import diverged
from thalweg.challenges.finding import Finding
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured
from thalweg.diagnose.course import Course
from thalweg.diagnose.looks import Found, Sight
from thalweg.learning.batches import Batches

TRIED = 64  # steps with each learning rate
EARLY = (1, 3, 10, 30)  # steps after which a run that does not learn is looked at again
LEARNED = 0.2  # of the first loss: a run in which less has gone has not learned
HELD = 8  # batches of validation examples by which learning rates are judged


def course_itself(course: Course, sight: Sight) -> Found:
    """Losses and gradients of each step; where they end before their time, the learning rate is too high."""
    found = []
    if course.diverged:
        found = [diverged(course.diverged, len(course.steps), "multiply lr by 0.1, or clip gradients")]
    return course.thinned(), found


def early(course: Course, sight: Sight) -> Found:
    """Whether the first steps went over the edge of stability, where the run has not learned; it takes them again.

    A loss that is bounded, or units that die, hide a learning rate that is too high: the loss rises, then stays.
    """
    fallen = sight.fallen
    if not course.diverged and fallen is not None and fallen.value >= LEARNED:
        return None, []
    sight.refuse_f()
    run = sight.again()
    shares = []
    for t in (t for t in EARLY if t < len(course.steps)):
        for _ in run.advance(t):
            pass
        seen = Sight(run)
        shares.append(stability.stability(run.network, seen.part, seen.recipe.rule(), seen.knobs, seen.memory).share)
    worst = max(shares, key=lambda share: share.low, default=None)
    return worst, [_over_the_edge(worst, course, sight)] if worst is not None and worst.low > 1 else []


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
    sight.refuse_f()
    first = Sight(sight.again())
    size = min(sight.recipe.batch_size, len(sight.problem.valid))
    valid = Batches(sight.problem.valid, size, sight.run.seed)
    held = [valid[t] for t in range(min(HELD, len(valid)))]
    rule, knobs = sight.recipe.rule(), first.knobs
    measured = learning_rate.advise(first.network, first.fair, held, rule, knobs, first.memory, TRIED, orders=1)
    best = min(float(trial.losses.mean()) for trial in measured.trials)
    better = not course.diverged and course.reached < best
    return measured, [] if better else learning_rate.findings(measured, value)


def changes(course: Course, sight: Sight) -> Found:
    """How far a step moves each weight."""
    if not updates.weights(sight.network):
        return None, []
    measured = updates.updates(sight.network, course.ratios.unbind())
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


ALONG: dict[str, Callable[[Course, Sight], Found]] = {
    "course": course_itself,
    "stability at first": early,
    "learning rate": rates,
    "updates": changes,
    "spikes": jumps,
    "overfitting": rising,
    "resampling": again,
}
