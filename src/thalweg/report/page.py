"""report.html: one file that holds the whole study."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from thalweg.comparison.result import Study
from thalweg.comparison.study import Trial
from thalweg.comparison.verdict import Verdict
from thalweg.report.figures import figures
from thalweg.report.frame import filled, write
from thalweg.report.words import knobs, outcome, rate

NO_VERDICT = "There is no verdict yet. No run has been confirmed on fresh seeds."


def write_report(study: Study, path: Path) -> None:
    """Writes the study as one self-contained HTML page, whatever it has come to.

    What users wrote (names of columns and files, errors, notes) is escaped; a content security policy lets nothing
    run or load but the page's own style and script, by their hashes. Raises StorageError where it cannot be written.
    """
    write(render(study), path)


def render(study: Study) -> str:
    """The page as text."""
    return filled("page.html", content(study))


def content(study: Study) -> dict[str, Any]:
    """What the page says, by the names that the template uses; None or empty where the study has not come so far."""
    verdict = study.verdict if any(t.outcome != "running" for t in study.of("confirmation")) else None
    facts = study.facts
    settings, machine = facts.get("settings", {}), dict(facts.get("machine", {}))
    headline, _, explanation = (verdict.sentence if verdict else NO_VERDICT).partition(". ")
    return {
        "study": study,
        "verdict": verdict,
        "best": verdict and next(s for s in verdict.standings if s.algorithm == verdict.recommended),
        "headline": headline.rstrip("."),
        "explanation": explanation,
        "problem": facts["problem"],
        "metric": study.metric,
        "final": facts.get("final"),
        "recipe": study.recipe.text() if verdict else "",
        "steps": _next_steps(study, verdict),
        "why": facts.get("why", []),
        "remarks": facts.get("remarks", []),
        "sanity": facts.get("sanity", {}),
        "plan": facts.get("plan", {}),
        "pruning": facts.get("pruning"),
        "times": facts.get("times", {}),
        "figures": figures(study, verdict),
        "outcomes": dict(Counter(t.outcome for t in study.trials).most_common()),
        "trials": [_row(study, trial) for trial in study.trials],
        "command": facts.get("command") or settings.get("command", ""),
        "settings": {k: v for k, v in settings.items() if k not in ("command", "spaces") and v is not None},
        "machine": machine,
        "seeds": _seeds(study),
    }


def _next_steps(study: Study, verdict: Verdict | None) -> list[tuple[str, str]]:
    """What to type now: what it does, and the command."""
    folder, source = shlex.quote(str(study.folder)), study.facts["problem"].get("source")
    if verdict is None:
        return []
    predict = ("Predict with the model that was trained here", f"thalweg predict {folder} new.csv")
    if not source:
        return [predict]
    recipe = shlex.quote(str(study.folder / "recipe.toml"))
    again = "Train with this recipe again, from another seed or on newer data"
    return [predict, (again, f"thalweg fit {source} --recipe {recipe} --out runs/again")]


def _row(study: Study, trial: Trial) -> list[Any]:
    """A trial in the table of everything that was tried."""
    point = trial.best(study.metric)
    metric, loss, at = (point.valid_metric, point.valid_loss, point.t) if point else (None, None, None)
    return [
        trial.algorithm, trial.stage, outcome(trial), metric, loss, at, trial.steps, rate(trial.recipe),
        knobs(trial.recipe), trial.seed, trial.cpu_seconds, trial.message,
    ]  # fmt: skip


def _seeds(study: Study) -> dict[str, list[int]]:
    """The seeds of each stage."""
    stages = dict.fromkeys(trial.stage for trial in study.trials)
    return {stage: sorted({trial.seed for trial in study.of(stage)}) for stage in stages}
