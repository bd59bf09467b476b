import doctest

import pytest
import torch

from thalweg.algorithms import ALGORITHMS, RACED, algorithm
from thalweg.core.errors import AlgorithmError


def test_the_catalogue_has_the_chapters_algorithms_in_its_order_each_followed_by_its_relatives():
    assert list(ALGORITHMS) == [
        "sgd",
        "momentum",
        "dampened_momentum",
        "nesterov",
        "asgd",
        "adagrad",
        "adadelta",
        "rmsprop",
        "rmsprop_momentum",
        "rmsprop_nesterov",
        "rmsprop_centred",
        "adam",
        "adamw",
        "amsgrad",
        "adamax",
        "nadam",
        "radam",
        "rprop",
        "lion",
        "adan",
        "adabelief",
        "adam_atan2",
        "ademamix",
        "adopt",
        "schedule_free_sgd",
        "schedule_free_adamw",
        "adafactor",
        "lars",
        "lamb",
        "muon",
        "muon_adamw",
        "shampoo",
        "soap",
        "psgd_kron",
        "dog",
        "dadapt_adam",
        "prodigy",
        "sophia",
        "sam",
        "newton",
        "newton_cg",
        "saddle_free_newton",
        "cubic_newton",
        "trust_ncg",
        "trust_krylov",
        "trust_exact",
        "dogleg",
        "fletcher_reeves",
        "polak_ribiere",
        "hestenes_stiefel",
        "dai_yuan",
        "hager_zhang_cg",
        "bfgs",
        "lbfgs",
        "lbfgsb",
        "stochastic_lbfgs",
        "gauss_newton",
        "levenberg_marquardt",
        "hessian_free",
        "natural_gradient",
        "kfac",
        "ekfac",
        "coordinate_descent",
        "greedy_coordinate_descent",
        "random_coordinate_descent",
    ]


def test_ten_of_them_are_raced_where_nobody_says():
    assert [name for name in ALGORITHMS if name in RACED] == list(RACED) and len(RACED) == 10


def test_an_algorithm_is_found_under_its_rules_name():
    assert all(entry.rule.name == name == entry.name for name, entry in ALGORITHMS.items())
    assert algorithm("adamw").section == "after 8.5.3"


def test_an_unknown_algorithm_is_refused_with_the_closest_and_all_there_are():
    with pytest.raises(AlgorithmError, match=r"no algorithm is called 'Adamm' \(did you mean adam\?\): there are sgd"):
        algorithm("Adamm")
    with pytest.raises(AlgorithmError, match="no algorithm is called 'xyz': there are sgd, momentum"):
        algorithm("xyz")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_example_in_its_docstring_runs(name):
    """doctest sees functions and classes; a rule is a value."""
    rule = ALGORITHMS[name].rule
    known = {**getattr(rule.source, "__globals__", {}), "torch": torch, name: rule}
    example = doctest.DocTestParser().get_doctest(rule.doc, known, name, None, 0)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example).failed == 0
    assert example.examples or rule.wraps is not None  # a rule that a combinator made shows its example there
