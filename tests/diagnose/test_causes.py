from graphlib import TopologicalSorter

import pytest

from thalweg.challenges.finding import Finding
from thalweg.core.measured import exactly
from thalweg.diagnose.causes import AT_ONCE, LATER, Seen, causes


def found(name, severity="warning", where=""):
    return Finding(name, f"{name} was seen", severity, exactly(1.0), "a rule", "a source", "8.2", "do it", where)


def named(*seen):
    return [cause.finding.name for cause in causes(seen)]


def test_sorted_data_is_one_finding_not_seven():
    symptoms = ["gradient spikes", "plateau", "overfitting", "resampling bias", "gradient noise", "noise floor"]
    (cause,) = causes(
        [*(Seen(found(name, "critical"), "run") for name in symptoms), Seen(found("sorted data"), "start")]
    )
    assert cause.finding.name == "sorted data"
    assert {finding.name for finding in cause.explains} == set(symptoms)


def test_a_chain_of_causes_is_told_by_its_first():
    (cause,) = causes(Seen(found(name), "start") for name in ("plateau", "vanishing gradients", "saturated units"))
    assert cause.finding.name == "saturated units"
    assert [finding.name for finding in cause.explains] == ["plateau", "vanishing gradients"]


def test_a_learning_rate_kills_no_units_before_the_first_step():
    lr, dead = found("lr above the stability limit"), found("dead units")
    assert named(Seen(lr, "start"), Seen(dead, "end")) == ["lr above the stability limit"]
    assert set(named(Seen(lr, "start"), Seen(dead, "start"))) == {"lr above the stability limit", "dead units"}


def test_what_was_there_before_is_no_symptom_of_what_came_later():
    assert set(named(Seen(found("plateau"), "start"), Seen(found("vanishing gradients"), "end"))) == {
        "plateau",
        "vanishing gradients",
    }


def test_a_note_explains_nothing_and_is_not_explained():
    assert len(named(Seen(found("sorted data", "note"), "start"), Seen(found("plateau"), "run"))) == 2
    assert len(named(Seen(found("sorted data"), "start"), Seen(found("plateau", "note"), "run"))) == 2


def test_what_is_unclear_may_be_explained_but_explains_nothing():
    assert named(Seen(found("sorted data"), "start"), Seen(found("plateau", "unclear"), "run")) == ["sorted data"]
    assert len(named(Seen(found("sorted data", "unclear"), "start"), Seen(found("plateau"), "run"))) == 2


def test_the_worst_comes_first_and_a_cause_is_as_bad_as_what_it_explains():
    seen = [Seen(found("overfitting", "critical"), "run"), Seen(found("ill-conditioning"), "start")]
    assert named(*seen) == ["overfitting", "ill-conditioning"]
    assert named(*seen, Seen(found("plateau", "critical"), "run")) == ["ill-conditioning", "overfitting"]


def test_layers_of_one_name_are_one_cause_with_the_worst_in_front():
    (cause,) = causes(
        [Seen(found("dead units", "warning", "2"), "start"), Seen(found("dead units", "critical", "4"), "start")]
    )
    assert cause.finding.where == "4" and [finding.where for finding in cause.also] == ["2"]


@pytest.mark.parametrize("seen", [[], [Seen(found("plateau"), "run")]])
def test_nothing_is_lost(seen):
    assert len(causes(seen)) == len(seen)


def test_among_findings_of_one_moment_causes_have_no_cycles():
    TopologicalSorter(AT_ONCE).prepare()
    assert set(LATER) <= set(AT_ONCE)


def test_the_answer_does_not_depend_on_the_order_of_what_was_seen():
    seen = [Seen(found(name), stage) for name, stage in zip(AT_ONCE, ["start", "run", "end"] * 5, strict=False)]
    assert causes(seen) == causes(seen[::-1])
