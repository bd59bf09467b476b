"""A diagnosis's pictures: each that there is something measured for, found by what it is, whatever its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from thalweg.algorithms import algorithm
from thalweg.challenges import propagation, slices, stability
from thalweg.challenges import spectrum as curvature
from thalweg.challenges.updates import Updates
from thalweg.diagnose.course import Course
from thalweg.diagnose.diagnosis import MOMENTS, Diagnosis
from thalweg.report.landscape import Landscape, landscape
from thalweg.report.layers import Signal, Update, signal, updates
from thalweg.report.panels import Figure
from thalweg.report.profile import Profile, profile
from thalweg.report.spectrum import Density, spectrum
from thalweg.report.watched import Judged, Noise, course, judged, noise
from thalweg.training.recipe import Recipe

ONE_LIMIT = ("sgd", "momentum", "dampened_momentum", "nesterov")  # whose steps have the same gain in every direction

T = TypeVar("T")


def pictures(diagnosis: Diagnosis) -> dict[str, Figure]:
    """Every picture that the diagnosis has the data for, by its key, in the order of the page.

    >>> pictures(Diagnosis("digits", Recipe("adam", 100), 0, []))
    {}
    """
    limit = _limit(diagnosis.recipe)
    drawn: list[Figure] = []
    if densities := {moment: _density(each, limit) for moment, each in _views(diagnosis, curvature.Spectrum)}:
        drawn.append(spectrum(densities))
    if signals := {moment: _signals(each) for moment, each in _views(diagnosis, propagation.Signal) if each.layers}:
        drawn.append(signal(signals))
    runs = {moment: each for moment, each in _views(diagnosis, Course) if len(each.steps)}
    for run in runs.values():
        drawn.append(course(run.steps.tolist(), run.losses.tolist(), run.gradient_norms.tolist()))
        if len(run.evaluated) > 1:
            drawn.append(judged(_judged(run)))
        if run.noise:
            drawn.append(noise([Noise(at.step, at.noise.scale) for at in run.noise], diagnosis.recipe.batch_size))
    if steps := {moment: each for moment, each in _views(diagnosis, Updates) if each.weights}:
        drawn.append(
            updates({moment: [Update(w.name, w.ratio) for w in each.weights] for moment, each in steps.items()})
        )
    if lines := {moment: _profile(each, diagnosis.recipe) for moment, each in _views(diagnosis, slices.Line)}:
        drawn.append(profile(lines))
    if planes := {moment: _landscape(each) for moment, each in _views(diagnosis, slices.Plane)}:
        drawn.append(landscape(planes))
    return {figure.key: figure for figure in drawn}


def _views(diagnosis: Diagnosis, kind: type[T]) -> Iterator[tuple[str, T]]:
    """The first measurement of a kind of each moment, by the moment in words."""
    for moment, said in MOMENTS.items():
        measured = diagnosis.measurements.get(moment, {}).values()
        if found := [each for each in measured if isinstance(each, kind)]:
            yield said, found[0]


def _limit(recipe: Recipe) -> float | None:
    """The largest eigenvalue at which the recipe's lr is stable, where that is one number."""
    if recipe.algorithm not in ONE_LIMIT:
        return None
    rule = algorithm(recipe.algorithm).rule
    knobs = {name: value for name, value in recipe.knobs.items() if name in rule.knobs}
    return stability.limit(rule, **knobs) / recipe.leading[1]


def _density(found: curvature.Spectrum, limit: float | None) -> Density:
    probes = len(found.values)
    weights = (found.weights / probes).flatten().tolist()
    return Density(found.values.flatten().tolist(), weights, found.ends.largest, found.ends.smallest, limit)


def _signals(found: propagation.Signal) -> list[Signal]:
    return [Signal(layer.name, layer.moment, layer.gradient) for layer in found.layers]


def _profile(found: slices.Line, recipe: Recipe) -> Profile:
    """Of SGD in lengths of lr, of others in multiples of their step."""
    parts, losses = found.parts.tolist(), found.losses.tolist()
    if recipe.algorithm != "sgd":
        return Profile(parts, losses, 1.0, f"{recipe.algorithm}'s step", "times the next step")
    _, lr = recipe.leading
    return Profile([lr * part for part in parts], losses, lr, f"lr {lr:.3g}")


def _landscape(found: slices.Plane) -> Landscape:
    return Landscape(found.alphas.tolist(), found.betas.tolist(), found.losses.tolist(), found.directions)


def _judged(run: Course) -> list[Judged]:
    train, valid = ([float(losses.mean()) for losses in part] for part in (run.train, run.valid))
    return [Judged(*each) for each in zip(run.evaluated, train, valid, strict=True)]
