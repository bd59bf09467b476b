"""Why a recipe won: what was measured of its run that sets its algorithm apart from those that lost (section 8.5.4).

A reason is said only where two things agree: a measured figure that one family of algorithms makes use of, beyond its
interval, and the ranking, in which that family is clearly before the other, or is not. It is no proof.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from thalweg.algorithms import algorithm
from thalweg.challenges.conditioning import SIGNAL, SLOW, Inputs
from thalweg.challenges.inexact import NOISY, Noise
from thalweg.challenges.propagation import Layer, Signal
from thalweg.challenges.spectrum import Spectrum
from thalweg.challenges.stability import Stability
from thalweg.core.errors import ThalwegError
from thalweg.core.measured import Measured, over
from thalweg.diagnose.course import Course
from thalweg.diagnose.diagnose import diagnose
from thalweg.diagnose.diagnosis import Diagnosis
from thalweg.diagnose.looks import USED_UP
from thalweg.training.problem import Problem
from thalweg.training.recipe import Recipe

UNEVEN = 10.0  # between the gradients of two layers: with one lr, one of them goes a tenth of the other's way
CURVED = 100.0  # between curvatures, likewise: gradient descent takes as many steps along the flattest
WATCHED = 150  # steps of the winner's run
NEAR, FAR = 0.5, 0.05  # of the stability limit: a larger lr would soon diverge; curvature is not what bounds lr

_FAMILIES = {"3": "plain", "5": "adaptive", "6": "second-order"}  # by the section of the book
_ONE_LR = {"asgd", "schedule_free_sgd", "dog", "sam"}  # that stand elsewhere, and have one lr for all parameters

T = TypeVar("T")


class Rank(NamedTuple):
    """An algorithm in a ranking: whether it ties with the best."""

    algorithm: str
    tied: bool


class Reason(NamedTuple):
    """Why, in a sentence: of what kind, and with which figures."""

    kind: str
    text: str


def reasons(winner: Recipe, ranking: Sequence[Rank], diagnosis: Diagnosis) -> list[Reason]:
    """What explains that this recipe won, or that nothing measured does; `diagnosis` is of the winner's recipe.

    >>> nothing = Diagnosis("digits", Recipe("adam", 100), 0, [])
    >>> reasons(Recipe("adam", 100), [Rank("adam", True), Rank("sgd", False)], nothing)[0].text
    'Nothing that was measured here explains why adam is before sgd.'
    """
    contest = _Contest(winner, ranking)
    apart = [*_layers(contest, diagnosis), *_features(contest, diagnosis), *_curvature(contest, diagnosis)]
    beside = [*_stability(contest, diagnosis), *_noise(contest, diagnosis)]  # true, but of every algorithm
    return [*(apart or [_nothing(contest)]), *beside, *_difficulties(diagnosis)]


def explained(
    problem: Problem, winner: Recipe, ranking: Sequence[Rank], seed: int = 0, seconds: float = math.inf
) -> list[Reason]:
    """The reasons from a diagnosis of a short run of the winner's recipe, for so many seconds; or why there is none.

    >>> from thalweg.training.builtin import digits
    >>> recipe, ranking = Recipe("adam", 100), [Rank("adam", True), Rank("sgd", False)]
    >>> print(explained(digits(), recipe, ranking, seconds=0.0)[-1].text)
    0 s paid for a part of the diagnosis only.
    """
    try:
        seen = diagnose(problem, winner, steps=min(winner.steps, WATCHED), seed=seed, seconds=seconds)
    except ThalwegError as error:
        return [Reason("not diagnosed", str(error))]
    found = reasons(winner, ranking, seen)
    if USED_UP in seen.refusals.values():
        found.append(Reason("cut short", f"{seconds:.3g} s paid for a part of the diagnosis only."))
    return found


class _Contest(NamedTuple):
    winner: Recipe
    ranking: Sequence[Rank]

    @property
    def name(self) -> str:
        return self.winner.algorithm

    def lost(self, *families: str) -> list[str]:
        """Who is clearly worse, of some families."""
        return [r.algorithm for r in self.ranking if not r.tied and family(r.algorithm) in families]

    def tied(self, *families: str) -> list[str]:
        """Who ties with the best, of some families."""
        return [r.algorithm for r in self.ranking if r.tied and family(r.algorithm) in families]


def family(name: str) -> str:
    """How an algorithm makes a step of a gradient: with one lr, with one per parameter, or with curvature.

    >>> family("momentum"), family("lion"), family("kfac"), family("sam"), family("coordinate_descent")
    ('plain', 'adaptive', 'second-order', 'plain', 'other')
    """
    section = re.search(r"8\.(\d)", algorithm(name).section)
    return "plain" if name in _ONE_LR else _FAMILIES.get(section[1] if section else "", "other")


def _measured(diagnosis: Diagnosis, kind: type[T], moments: Sequence[str] = ("start", "run", "end")) -> Iterator[T]:
    for moment in moments:
        yield from (each for each in diagnosis.measurements.get(moment, {}).values() if isinstance(each, kind))


def _layers(contest: _Contest, diagnosis: Diagnosis) -> Iterator[Reason]:
    """Gradients of layers that differ in size are what an lr per parameter evens out."""
    for signal in list(_measured(diagnosis, Signal))[:1]:
        sized = [(layer, size) for layer in signal.layers if (size := layer.weight_gradient) and size.value > 0]
        if len(sized) > 1:
            (low, least), (high, most) = (pick(sized, key=lambda pair: pair[1].value) for pick in (min, max))
            apart = over(most, least)
            yield from _evened(contest, "layers", apart, UNEVEN, _of_layers(apart, low, high))


def _of_layers(apart: Measured, low: Layer, high: Layer) -> str:
    return (
        f"The gradients of the weights differ by a factor of {_figure(apart)} between layers "
        f"(smallest in {low.name}, largest in {high.name})"
    )


def _features(contest: _Contest, diagnosis: Diagnosis) -> Iterator[Reason]:
    """So are features of different scale, where what is small says something."""
    for inputs in list(_measured(diagnosis, Inputs))[:1]:
        if inputs.slow.low > SIGNAL:
            said = (
                f"The variances of the features differ by a factor of {_figure(inputs.condition)}, and "
                f"{inputs.slow.value:.0%} of what they say of the targets is in small ones"
            )
            yield from _evened(contest, "features", inputs.condition, SLOW, said)


def _evened(contest: _Contest, kind: str, apart: Measured, much: float, said: str) -> Iterator[Reason]:
    """A difference in scale, and whether those that even it out are before those that do not."""
    adaptive = family(contest.name) == "adaptive"
    if apart.low > much and adaptive and (lost := contest.lost("plain")):
        yield Reason(
            kind,
            f"{said}: one lr cannot suit them all. {contest.name} divides each parameter's step by the size of its "
            f"gradients; {_listed(lost)}, with one lr for all, {_is(lost)} clearly worse.",
        )
    elif apart.low > much and (plain := contest.tied("plain")) and (others := _adaptive(contest)):
        evens = "evens" if len(others) == 1 else "even"
        text = f"{said}. {_listed(others)} {evens} that out, and {_is(others)} not ahead of {_listed(plain)} for it."
        yield Reason(kind, text)
    elif apart.high < much and contest.tied("plain") and (others := _adaptive(contest)):
        yield Reason(kind, f"{said}: that leaves little to even out for {_listed(others)}.")


def _adaptive(contest: _Contest) -> list[str]:
    return [*contest.tied("adaptive"), *contest.lost("adaptive")]


def _curvature(contest: _Contest, diagnosis: Diagnosis) -> Iterator[Reason]:
    """What second-order methods divide out. A large condition number alone is no fault, and explains nothing else."""
    lost = contest.lost("plain", "adaptive")
    for spectrum in list(_measured(diagnosis, Spectrum))[:1]:
        if family(contest.name) == "second-order" and lost and spectrum.condition.low > CURVED:
            yield Reason(
                "curvature",
                f"The curvature differs by a factor of {_figure(spectrum.condition)} between directions. "
                f"{contest.name} divides by it; {_listed(lost)}, which do not measure it, {_is(lost)} clearly worse.",
            )


def _stability(contest: _Contest, diagnosis: Diagnosis) -> Iterator[Reason]:
    """What bounds lr from above."""
    for stability in list(_measured(diagnosis, Stability, ("start",)))[:1]:
        (name, lr), share = contest.winner.leading, stability.share
        said = f"At the start {name} {lr:.3g} is {_figure(share)} of the largest that is stable"
        if share.low > 1:
            yield Reason(
                "stability",
                f"At the start {name} {lr:.3g} is {_figure(share)} times the largest that is stable there, and the "
                "run goes well all the same: it soon comes to where the curvature is another.",
            )
        elif share.low > NEAR:
            yield Reason("stability", f"{said}: curvature is what bounds it, and a larger one would soon diverge.")
        elif share.high < FAR:
            yield Reason("stability", f"{said}: it is not curvature that keeps it small.")


def _noise(contest: _Contest, diagnosis: Diagnosis) -> Iterator[Reason]:
    """Whether directions are worth anything, in the middle of the run."""
    for course in list(_measured(diagnosis, Course, ("run",)))[:1]:
        if course.noise:
            at = course.noise[len(course.noise) // 2]
            yield from _at(at.step, at.noise, contest.winner.batch_size)


def _at(step: int, noise: Noise, b: int) -> Iterator[Reason]:
    if noise.scale.low > b / NOISY:
        yield Reason(
            "noise",
            f"After {step} steps a batch of {b} is under {NOISY:.0%} of the noise scale ({_figure(noise.scale)}): "
            "gradients are mostly noise, and averaging it out (momentum, an lr that falls) counts more than better "
            "directions.",
        )
    elif noise.scale.high < b:
        yield Reason(
            "noise",
            f"After {step} steps a batch of {b} is above the noise scale ({_figure(noise.scale)}): gradients are "
            "hardly noisy, so that better directions can pay.",
        )


def _nothing(contest: _Contest) -> Reason:
    lost = [rank.algorithm for rank in contest.ranking if not rank.tied]
    if not lost:
        return Reason("tie", "No algorithm is clearly behind: there is no difference to explain.")
    return Reason(
        "unexplained", f"Nothing that was measured here explains why {contest.name} is before {_listed(lost)}."
    )


def _difficulties(diagnosis: Diagnosis) -> list[Reason]:
    """What is wrong with the winner's run all the same."""
    found = [cause.finding for cause in diagnosis.alarms]
    return [
        Reason(f.name, f"The recipe that won has this difficulty all the same: {f.what}. {_do(f.advice)}")
        for f in found
    ]


def _do(advice: str) -> str:
    return f"{advice[0].upper()}{advice[1:].rstrip('.')}." if advice else ""


def _figure(figure: Measured) -> str:
    if math.isinf(figure.high):
        return f"at least {figure.low:.3g}"
    return str(figure)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
