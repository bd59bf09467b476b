"""The loss over a plane as a picture: a map of the valley that training is in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from thalweg.report.panels import LEVELS, Cell, Figure, Mark, Panel, Series, Table, Variant
from thalweg.report.readings import loss_scale
from thalweg.report.scales import Tick, linear
from thalweg.report.words import number

_ROOM = 12.0  # percent of the key, that the label of an end takes


class Landscape(NamedTuple):
    """Losses at theta + alphas[i] * first + betas[j] * second: `losses[i][j]`; what the directions are."""

    alphas: Sequence[float]
    betas: Sequence[float]
    losses: Sequence[Sequence[float]]
    directions: tuple[str, str] = ("a first direction", "a second direction")


def landscape(views: Mapping[str, Landscape]) -> Figure:
    """The loss over a plane through theta, as a map: the darker on light, or the brighter on dark, the lower.

    >>> plane = Landscape([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [[2.0, 1.0, 2.0], [1.0, 0.1, 1.0], [2.0, 1.0, 2.0]])
    >>> landscape({"at the end": plane}).variants[0].panels[0].says
    'lowest, 0.1, at (0, 0); highest, 2, at (-1, -1); 0.1 at the parameters themselves'
    """
    variants = []
    for label, plane in views.items():
        first, second = plane.directions
        variants.append(Variant(label, [_map(plane)], first, second, _key(plane)))
    head = ["seen", "first", "second", "loss"]
    rows = [
        [label, number(alpha, 3), number(beta, 3), number(loss, 4)]
        for label, plane in views.items()
        for loss, (alpha, beta) in _points(plane)
    ]
    caption = (
        "The loss over a plane through the parameters, which are the ring in the middle. A round bowl is well "
        "conditioned; a long valley is steep across and flat along, and no one step suits both."
    )
    return Figure("landscape", "Landscape slice", caption, "map", variants, Table(head, rows), each="row")


def _map(plane: Landscape) -> Panel:
    sides = _edges(plane.alphas), _edges(plane.betas)
    x, y = linear(sides[0], padding=0), linear(sides[1], start=100, end=0, padding=0)
    level, edges = _levels(plane), ([x.at(edge) for edge in sides[0]], [y.at(edge) for edge in sides[1]])
    series = []
    for j in reversed(range(len(plane.betas))):
        bottom, top = edges[1][j], edges[1][j + 1]
        cells = []
        for i, alpha in enumerate(plane.alphas):
            left, right = edges[0][i], edges[0][i + 1]
            loss = plane.losses[i][j]
            text = f"loss {number(loss, 3)} at {_place(alpha, plane.betas[j])}"
            cells.append(Cell(left, top, round(right - left, 2), round(bottom - top, 2), level(loss), text))
        series.append(Series("", 0, cells=cells))
    series.append(Series("", 0, marks=[Mark(x.at(0.0), y.at(0.0), "the parameters themselves", "here")]))
    return Panel("", x.ticks, y.ticks, series, says=_heights(plane))


def _levels(plane: Landscape) -> Callable[[float], int]:
    """The level of a loss: even steps of its log, where it is never 0 or less; what is not finite is on top."""
    scale = loss_scale([v for row in plane.losses for v in row], padding=0)

    def level(loss: float) -> int:
        return min(int(scale.at(loss) / 100 * LEVELS), LEVELS - 1) if math.isfinite(loss) else LEVELS - 1

    return level


def _key(plane: Landscape) -> Panel:
    """All colours, with the losses at both ends and some between."""
    scale = loss_scale([v for row in plane.losses for v in row], padding=0)
    edges = [round(100 * i / LEVELS, 2) for i in range(LEVELS + 1)]
    cells = [Cell(a, 0, round(b - a, 2), 100, i) for i, (a, b) in enumerate(pairwise(edges))]
    between = [tick for tick in scale.ticks if _ROOM < tick.at < 100 - _ROOM]
    ends = [Tick(0.0, number(scale.low, 3)), Tick(100.0, number(scale.high, 3))]
    return Panel("loss", [ends[0], *between, ends[1]], [], [Series("", 0, cells=cells)])


def _edges(places: Sequence[float]) -> list[float]:
    """Where cells meet: halfway between places; the first and the last are as wide as their neighbours."""
    if len(places) < 2:
        return [places[0] - 0.5, places[0] + 0.5]
    inner = [(a + b) / 2 for a, b in pairwise(places)]
    return [2 * places[0] - inner[0], *inner, 2 * places[-1] - inner[-1]]


def _heights(plane: Landscape) -> str:
    found = [(loss, place) for loss, place in _points(plane) if math.isfinite(loss)]
    if not found:
        return "no loss is a finite number"
    low, high = (pick(found, key=lambda pair: pair[0]) for pick in (min, max))
    here = [f"{number(v, 3)} at the parameters themselves" for v, at in found if at == (0, 0)]
    said = [f"{name}, {number(v, 3)}, at {_place(*at)}" for name, (v, at) in (("lowest", low), ("highest", high))]
    return "; ".join([*said, *here])


def _points(plane: Landscape) -> Iterator[tuple[float, tuple[float, float]]]:
    """Each loss with its place."""
    for alpha, row in zip(plane.alphas, plane.losses, strict=True):
        for beta, loss in zip(plane.betas, row, strict=True):
            yield loss, (alpha, beta)


def _place(alpha: float, beta: float) -> str:
    return f"({number(alpha, 3)}, {number(beta, 3)})"
