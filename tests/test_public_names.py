"""The public face, small enough to remember: a name comes or goes here, and in CHANGELOG.md, or not at all."""

import thalweg as tw

NAMES = [
    "Batch",
    "Metric",
    "Network",
    "Problem",
    "Recipe",
    "Rule",
    "accuracy",
    "adagrad",
    "adam",
    "adamw",
    "averaged",
    "averaged_exponentially",
    "clipped",
    "clipped_by_value",
    "combinator",
    "compare",
    "decayed",
    "descend",
    "fit",
    "lion",
    "load",
    "metric",
    "momentum",
    "nadam",
    "nesterov",
    "optim",
    "predict",
    "rmsprop",
    "rmsprop_nesterov",
    "rule",
    "schedules",
    "sgd",
]


def test_the_public_names_are_these():
    assert sorted(tw.__all__) == NAMES
