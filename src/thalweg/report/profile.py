"""The loss along a step as a picture: how far it may go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from thalweg.report.panels import Figure, Guide, Line, Mark, Panel, Series, Table, Variant, path
from thalweg.report.readings import loss_scale
from thalweg.report.scales import Scale, linear, symmetric
from thalweg.report.words import number

BEYOND = 100.0  # times the loss: higher is not drawn to scale
_BAND = 14.0  # percent of a panel, on top, that are kept for it


class Profile(NamedTuple):
    """Losses after steps of some lengths in one direction; which of them is taken, and what that is called."""

    steps: Sequence[float]
    losses: Sequence[float]
    taken: float
    called: str
    axis: str = "step against the gradient"


def profile(views: Mapping[str, Profile]) -> Figure:
    """The loss along a step, with the one that the recipe takes.

    >>> seen = Profile([0.0, 0.1, 0.2], [1.0, 0.8, 1.5], 0.1, "lr 0.1")
    >>> profile({"at the start": seen}).variants[0].panels[0].says
    'the loss is 1 where no step is taken, and lowest, 0.8, at 0.1; the recipe takes 0.1'
    """
    variants = [Variant(label, [_along(each)], each.axis, "loss after it") for label, each in views.items()]
    rows = [
        [label, number(step), number(loss)]
        for label, each in views.items()
        for step, loss in zip(each.steps, each.losses, strict=True)
    ]
    caption = (
        "What the loss of a batch becomes after one step of each length; the dashed line is the step that the recipe "
        "takes. A wall near that line is a cliff; where the loss still falls far to the right of it, there is room for "
        f"a longer step. Crosses are over {BEYOND:g} times the loss, or no finite number."
    )
    table = Table(["seen", "step", "loss"], rows)
    return Figure("profile", "Loss along the next step", caption, "wide", variants, table)


def _along(given: Profile) -> Panel:
    x = _lengths([*given.steps, given.taken])
    pairs = sorted(zip(given.steps, given.losses, strict=True))
    here = next((loss for step, loss in pairs if step == 0), math.inf)
    inside = [(step, loss) for step, loss in pairs if math.isfinite(loss) and not loss > BEYOND * abs(here)]
    lost = [pair for pair in pairs if pair not in inside]
    y = loss_scale([loss for _, loss in inside], start=100, end=_BAND if lost else 0)
    curve = [(x.at(step), y.at(loss)) for step, loss in inside]
    lines = [Line(path(curve), "thick")] if len(curve) > 1 else []
    marks = [Mark(*at, _text(*pair), "large") for at, pair in zip(curve, inside, strict=True)]
    marks += [Mark(x.at(step), _BAND / 2, _text(step, loss), "cross") for step, loss in lost]
    guides, band = [Guide(x.at(given.taken), given.called)], "beyond" if lost else ""
    says = _said(inside, here, given.taken)
    return Panel("", x.ticks, y.ticks, [Series("loss", 0, lines, marks)], guides, band=band, says=says)


def _text(step: float, loss: float) -> str:
    return f"{number(loss)} after a step of {number(step)}"


def _said(inside: Sequence[tuple[float, float]], here: float, taken: float) -> str:
    if not inside:
        return "no loss is a finite number"
    step, lowest = min(inside, key=lambda pair: pair[1])
    return (
        f"the loss is {number(here, 3)} where no step is taken, and lowest, {number(lowest, 3)}, at {number(step)}; "
        f"the recipe takes {number(taken)}"
    )


def _lengths(steps: Sequence[float]) -> Scale:
    """Linear, or where they span decades logarithmic about 0."""
    sizes = sorted(abs(step) for step in steps if step)
    if len(sizes) > 3 and sizes[-1] > 50 * sizes[0]:
        return symmetric(steps, smallest=sizes[0])
    return linear(steps)
