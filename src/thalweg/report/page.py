"""report.html: one file that holds the whole study, opens with no network and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from thalweg.comparison.plan import duration
from thalweg.comparison.result import Study
from thalweg.comparison.study import Trial
from thalweg.comparison.verdict import Verdict
from thalweg.core.errors import StorageError
from thalweg.report.figures import figures
from thalweg.report.words import knobs, number, outcome, probability, rate

NO_VERDICT = "There is no verdict yet. No run has been confirmed on fresh seeds."


def write_report(study: Study, path: Path) -> None:
    """Writes the study as one self-contained HTML page, whatever it has come to.

    What users wrote (names of columns and files, errors, notes) is escaped; a content security policy lets nothing
    run or load but the page's own style and script, by their hashes. Raises StorageError where it cannot be written.
    """
    try:
        path.write_text(render(study), encoding="utf-8", newline="\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; free some space or give another --out") from error


def render(study: Study) -> str:
    """The page as text."""
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    own = {"style": style, "script": script, "policy": policy(style, script)}
    return _environment().get_template("page.html").render(**own, **content(study))


def policy(style: str, script: str) -> str:
    """The content security policy that allows one style sheet and one script, and nothing else.

    >>> policy("", "")[:62]
    "default-src 'none'; style-src 'sha256-47DEQpj8HBSa+/TImW+5JCeu"
    """
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("thalweg.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration, "p": probability, "plain": plain}
    return environment


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


def plain(value: Any) -> str:
    """A fact of any shape as a person reads it.

    >>> plain({"a": [1, 2.0], "b": None}), plain(True)
    ('a: 1, 2; b: –', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value)
    return number(value) if value is None or isinstance(value, float) else str(value)
