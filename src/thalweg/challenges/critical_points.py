"""Critical points (sections 4.3.1, 8.2.2 and 8.2.3): minimum, saddle, plateau, or none at all, told apart.

A gradient that is small is not one thing. It is compared with what its own examples scatter, with the curvature, and
with the spectrum; what none of them decides is called degenerate, or unclear, and never a minimum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.challenges.finding import Finding, Severity
from thalweg.challenges.inexact import gradient_noise, microbatch_gradients
from thalweg.challenges.spectrum import Spectrum, spectrum
from thalweg.core.derivatives import hessian_at, value_and_gradient
from thalweg.core.errors import DiagnosisError
from thalweg.core.measured import Measured, exactly
from thalweg.core.network import Batch, Network
from thalweg.core.noise import signs
from thalweg.core.undisturbed import undisturbed

SMALL = 1e-3  # of theta's length, and of f: a point is critical where a Newton step along g goes and gains no more
FLAT = 0.1  # of lambda_max |g|: a gradient that H nearly maps to zero, and is not small, is no critical point's
PLAIN, ROUND = 1e-3, 0.05  # of f, over a step as long as theta: slope and curvature do less than that on a plateau
NOTHING = 1e-5  # of f, over such a step: curvature that does less is none
LOWER = 0.01  # of f: what must be found to be lower, where second derivatives do not decide
HARM = 0.1  # of f, to be found lower along the least curvature; and of the largest eigenvalue, for that: an alarm
PARTS = 16
WAYS = 8  # of chance, to look along
KINDS = (
    "minimum", "maximum", "saddle", "degenerate saddle", "degenerate", "plateau", "gradient-flat region", "noise floor",
    "slope",
)  # fmt: skip


class Point(NamedTuple):
    """What is known of a point: the value, gradient and spectrum there, and the curvature along the gradient."""

    kind: str  # one of KINDS
    value: float
    length: Measured  # |g| without the part of chance, and its interval over parts of the batch
    noise: float  # what |g| would be of chance alone; 0 for an f without examples
    flatness: float  # |Hg| / (lambda_max |g|)
    spectrum: Spectrum
    descent: float  # how much lower f is found along the least and the largest curvature, and some ways of chance


def point(network: Network, batch: Batch, parts: int = PARTS, seed: int = 0) -> Point:
    """What kind of point the network's theta is, on a batch, whose parts say how much its gradient scatters.

    The spectrum takes up to 64 + 6 x 32 products with the Hessian. Raises DiagnosisError for a batch of fewer examples
    than parts, CurvatureError where there are no second derivatives.

    >>> from thalweg.challenges.saddles import Saturated
    >>> network = Network(Saturated(10.0), Saturated.loss)
    >>> point(network, Batch(torch.zeros(16, 1), torch.zeros(16, 1))).kind
    'plateau'
    """
    if len(batch) < parts:
        raise DiagnosisError(f"a batch of {len(batch)} examples was given to be cut into {parts}: give {parts} or more")
    with undisturbed(network.module):
        f, theta = network.on(batch), network.theta
        hessian_at(f, theta)  # where it cannot be had, that is what there is to say
        noise = gradient_noise(microbatch_gradients(network, [batch], parts, seed), len(batch))
        return _point(f, theta, noise.squared.through(math.sqrt), noise.error().value, seed)


def point_of(f: Any, theta: Tensor, seed: int = 0) -> Point:
    """What kind of point `theta: (n,)` is of an objective f, which has no noise.

    >>> from thalweg.challenges.saddles import monkey_saddle, ridge
    >>> point_of(ridge, torch.zeros(2)).kind, point_of(monkey_saddle, torch.zeros(2)).kind
    ('saddle', 'degenerate saddle')
    """
    return _point(f, theta, None, 0.0, seed)


def _point(f: Any, theta: Tensor, length: Measured | None, noise: float, seed: int) -> Point:
    value, g = value_and_gradient(f, theta)
    g, f0 = g.clone(), float(value)
    if not math.isfinite(f0) or not bool(g.isfinite().all()):
        raise DiagnosisError("the loss or its gradient is not finite: the point cannot be classified")
    length = exactly(float(g.norm())) if length is None else length
    found = spectrum(f, theta, seed=seed)
    size = max(float(theta.norm()), 1.0)
    hg = float(hessian_at(f, theta)(g).norm())
    size_of_g = float(g.norm())
    flatness = hg / (found.ends.scale * size_of_g) if size_of_g and found.ends.scale else 0.0
    ways = [found.ends.bottom, found.ends.top, *(signs(theta, k, seed) / len(theta) ** 0.5 for k in range(WAYS))]
    lower = _lower(f, theta, ways, f0, size)
    kind = _kind(f0, length, noise, flatness, found, lower, size)
    return Point(kind, f0, length, noise, flatness, found, lower)


def _lower(f: Any, theta: Tensor, directions: list[Tensor], f0: float, size: float) -> float:
    """How much lower f is found along directions, both ways, at distances from a thousandth to the whole of theta."""
    best = 0.0
    with torch.no_grad():
        for u in directions:
            for h in (1e-3, 1e-2, 1e-1, 1.0):
                for sign in (1, -1):
                    there = float(f(theta + sign * h * size * u))
                    best = max(best, f0 - there) if math.isfinite(there) else best
    return best


def _kind(
    f0: float, length: Measured, noise: float, flatness: float, found: Spectrum, lower: float, size: float
) -> str:
    scale, f0 = found.ends.scale, abs(f0)
    if noise > 1e-6 * length.value and length.low == 0:
        return "noise floor"
    if 0 < length.value * size <= PLAIN * f0 and scale * size**2 <= ROUND * f0:
        return "plateau"
    bent = flatness * scale  # |Hg| / |g|
    gain = length.value**2 / (2 * bent) if bent else math.inf
    if length.value > 0 and (length.value > SMALL * scale * size or gain > SMALL * f0):
        flat = flatness < FLAT and length.value > SMALL * scale * size and scale * size**2 > NOTHING * f0
        return "gradient-flat region" if flat else "slope"
    return _critical(found, scale * size**2 <= NOTHING * f0, lower > LOWER * f0)


def _critical(found: Spectrum, flat: bool, lower: bool) -> str:
    ends, tolerance = found.ends, found.tolerance
    if not flat and ends.scale > tolerance:
        if ends.smallest.high < -tolerance:
            return "maximum" if ends.largest.high < -tolerance else "saddle"
        if ends.smallest.low > tolerance:
            return "minimum"
    return "degenerate saddle" if lower else "degenerate"


def findings(measured: Point) -> list[Finding]:
    """What kind of point it is, where it is no plain slope. Only a plateau, or a saddle with a way down, is an alarm.

    >>> from thalweg.challenges.saddles import DeepLinear
    >>> [(f.name, f.severity) for f in findings(point_of(DeepLinear(), torch.zeros(2)))]
    [('saddle', 'warning')]
    >>> [(f.name, f.severity) for f in findings(point_of(lambda w: w.pow(4).sum(), torch.zeros(2)))]
    [('degenerate saddle', 'unclear')]
    """
    if measured.kind in ("slope", "maximum"):
        return []
    name, what, severity, figure, rule, source, section, advice = _SAID[measured.kind](measured)
    return [Finding(name, what, severity, figure, rule, source, section, advice)]


_Said = tuple[str, str, Severity, Measured, str, str, str, str]


def _saddle(p: Point) -> _Said:
    ends, index = p.spectrum.ends, p.spectrum.negative
    down = p.descent > HARM * abs(p.value) and -ends.smallest.value > HARM * ends.largest.value
    severity: Severity = "warning" if down else "note"
    what = f"the gradient is small ({p.length}), and {index.value:.0%} of all curvature is negative, to {ends.smallest}"
    advice = "move along the direction of least curvature: noise, momentum, or saddle_free_newton"
    return "saddle", what, severity, ends.smallest, "0, at a small gradient", "Dauphin et al. 2014", "8.2.3", advice


def _degenerate_saddle(p: Point) -> _Said:
    what = f"g and H are next to zero, and yet f is lower by {p.descent:.3g} a step away: higher derivatives decide"
    advice = "begin elsewhere: initial weights that are larger, and not all alike; or add noise"
    source = "Anandkumar and Ge 2016"
    return (
        "degenerate saddle",
        what,
        "warning",
        exactly(p.descent),
        "0, where g and H are zero",
        source,
        "8.2.3",
        advice,
    )


def _degenerate(p: Point) -> _Said:
    what = f"the gradient is small ({p.length}) and some curvature is zero: minimum and saddle cannot be told apart"
    advice = "to tell, evaluate f around the point in many directions (a landscape slice)"
    figure = p.spectrum.ends.smallest
    return "degenerate saddle", what, "unclear", figure, "0, beyond rounding", "Kawaguchi 2016", "8.2.3", advice


def _minimum(p: Point) -> _Said:
    what = f"the gradient is small ({p.length}) and all curvature is positive, {p.spectrum.ends.smallest} or more"
    advice = "nothing: training has arrived; a lower loss needs another minimum or another model"
    return "minimum", what, "note", p.spectrum.ends.smallest, "0, at a small gradient", "section 4.3.1", "8.2.2", advice


def _plateau(p: Point) -> _Said:
    what = f"the gradient ({p.length}) and all curvature are next to nothing for a loss of {p.value:.3g}"
    advice = "see whether units are saturated or dead; smaller initial weights, normalisation, or a larger lr"
    return (
        "plateau",
        what,
        "warning",
        p.length,
        f"{PLAIN:g} of the loss over |theta|",
        "Saxe et al. 2014",
        "8.2.3",
        advice,
    )


def _flat_region(p: Point) -> _Said:
    what = (
        f"H maps the gradient to nearly nothing, {p.flatness:.2g} of lambda_max |g|, and it is not small ({p.length})"
    )
    advice = "do not take it for a minimum or a saddle: go on, with momentum or a larger lr"
    figure = exactly(p.flatness)
    return "gradient-flat region", what, "note", figure, f"{FLAT:g}", "Frye et al. 2019", "8.2.3", advice


def _noise_floor(p: Point) -> _Said:
    what = f"the gradient ({p.length}) is not told from the scatter of its examples ({p.noise:.3g})"
    advice = "a larger batch or a lower lr, if the loss is to fall further"
    return "noise floor", what, "note", p.length, "0, within its error", "Bottou et al. 2018", "8.2.2", advice


_SAID = {
    "saddle": _saddle, "degenerate saddle": _degenerate_saddle, "degenerate": _degenerate, "minimum": _minimum,
    "plateau": _plateau, "gradient-flat region": _flat_region, "noise floor": _noise_floor,
}  # fmt: skip
