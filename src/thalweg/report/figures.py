"""The report's figures, of a study that has come to its end or was stopped before."""

from __future__ import annotations

from thalweg.comparison.result import Study
from thalweg.comparison.verdict import Verdict
from thalweg.report.curves import learning_curves
from thalweg.report.panels import Figure
from thalweg.report.rows import ranking, targets, trade_offs
from thalweg.report.sensitivity import sensitivity


def figures(study: Study, verdict: Verdict | None) -> dict[str, Figure]:
    """Every figure that the study has the data for, by its key, in the order of the page."""
    colours = cast(study, verdict)
    drawn = [learning_curves(study, colours), sensitivity(study, colours)]
    if verdict is not None:
        judged = [ranking(verdict, study.metric.name, colours)]
        drawn = [*judged, *drawn, targets(study, verdict, colours), trade_offs(study, verdict, colours)]
    return {figure.key: figure for figure in drawn if figure is not None}


def cast(study: Study, verdict: Verdict | None) -> dict[str, int]:
    """Each algorithm's colour in every figure: the best comes first, the unranked last."""
    ranked = [] if verdict is None else [s.algorithm for s in verdict.standings]
    names = dict.fromkeys([*ranked, *(trial.algorithm for trial in study.trials)])
    return {name: i for i, name in enumerate(names)}
