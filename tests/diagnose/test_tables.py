"""The tables of benchmarks/diagnosis.py on one seed: nothing of a healthy run, of others what was planted, first."""

import runpy
from pathlib import Path

import pytest

from thalweg.diagnose.diagnose import diagnose

PLANTED = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "planted.py"))


def named(planted):
    problem, recipe = planted.make(0)
    return [cause.finding.name for cause in diagnose(problem, recipe, steps=recipe.steps).alarms]


@pytest.mark.parametrize("run", PLANTED["HEALTHY"])
def test_of_a_healthy_run_nothing_is_said(run):
    assert named(PLANTED["HEALTHY"][run]) == []


@pytest.mark.parametrize("disease", PLANTED["DISEASES"])
def test_a_planted_disease_is_named_first(disease):
    planted = PLANTED["DISEASES"][disease]
    assert named(planted)[:1] in [[name] for name in planted.names]
