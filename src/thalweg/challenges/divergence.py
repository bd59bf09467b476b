"""Divergence (section 8.2.4): a loss that is no finite number any more."""

from __future__ import annotations

from thalweg.challenges.finding import Finding, Severity
from thalweg.core.measured import exactly


def diverged(what: str, steps: int, advice: str, severity: Severity = "critical") -> Finding:
    """That a loss is no number, after or at so many steps; whatever else made it so, a lower lr is what stops it.

    >>> diverged("the loss is nan at step 3", 3, "multiply lr by 0.1").remedy
    {'lr_factor': 0.1}
    """
    return Finding(
        "lr above the stability limit", what, severity, exactly(float(steps)), "a loss that is a finite number",
        "Goodfellow et al. 2016", "8.2.4", advice, remedy={"lr_factor": 0.1},
    )  # fmt: skip
