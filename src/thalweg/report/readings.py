"""What is read off a run: the metric that counts or a loss, each on the scale where its differences can be seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from thalweg.comparison.result import Study
from thalweg.learning.risk import Metric
from thalweg.report.scales import Scale, linear, logarithmic, nines
from thalweg.training.run import Point


class Reading(NamedTuple):
    """A reading: what the button says, what the axis says, what it is of a point, and how it is drawn."""

    label: str
    name: str
    of: Callable[[Point], float]
    scale: Callable[..., Scale]

    def upwards(self, values: Iterable[float], top: float = 0.0) -> Scale:
        """Its scale for a vertical axis, where percent count from above; `top` percent are left free."""
        return self.scale(values, start=100.0, end=top)


def validation(study: Study) -> list[Reading]:
    """The metric on the validation set and, where that is something else, the loss."""
    name = study.metric.name
    metric = Reading(name, f"validation {name}", lambda p: p.valid_metric, _of(study.metric))
    loss = Reading("validation loss", "validation loss", lambda p: p.valid_loss, loss_scale)
    return [metric] if name == study.facts["problem"].get("loss") else [metric, loss]


def everything(study: Study) -> list[Reading]:
    """All readings of a curve, the metric on a linear scale too."""
    metric, *loss = validation(study)
    training = Reading("training loss", "training loss", lambda p: p.train_loss, loss_scale)
    return [metric, metric._replace(label=f"{metric.label}, linear", scale=linear), *loss, training]


def _of(metric: Metric) -> Callable[..., Scale]:
    def build(values: Iterable[float], **place: float) -> Scale:
        return metric_scale(metric, values, **place)

    return build


def metric_scale(metric: Metric, values: Iterable[float], **place: Any) -> Scale:
    """The scale on which differences of a metric can be seen: shares by what is missing to 1, losses by their log."""
    finite = [v for v in values if math.isfinite(v)]
    if metric.higher_is_better and finite and all(0 <= v <= 1 for v in finite):
        return nines(finite, **place)
    if not metric.higher_is_better and finite and all(v > 0 for v in finite):
        return logarithmic(finite, **place)
    return linear(finite, **place)


def loss_scale(values: Iterable[float], **place: Any) -> Scale:
    """The scale of a loss: its log, where it is never 0 or less."""
    finite = [v for v in values if math.isfinite(v)]
    return logarithmic(finite, **place) if finite and min(finite) > 0 else linear(finite, **place)
