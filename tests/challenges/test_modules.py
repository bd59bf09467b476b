"""Curvature as it is measured, on every kind of module: right against differences in float64, or refused, and why."""

import importlib.util
from pathlib import Path

import pytest
import torch

from thalweg import sgd
from thalweg.challenges.conditioning import criterion
from thalweg.challenges.critical_points import point
from thalweg.challenges.learning_rate import advise
from thalweg.challenges.sharpness import sharpness
from thalweg.challenges.spectrum import ends
from thalweg.challenges.stability import stability
from thalweg.core.derivatives import hessian_at
from thalweg.core.errors import CurvatureError, DiagnosisError
from thalweg.core.ladder import DOUBLE_BACKWARD
from thalweg.core.network import Batch, Network

_ladder = Path(__file__).parents[1] / "core" / "test_ladder.py"
_spec = importlib.util.spec_from_file_location("test_ladder_kinds", _ladder)
ladder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ladder)

pytestmark = ladder.pytestmark


@pytest.mark.parametrize("kind", ladder.KINDS.values(), ids=ladder.KINDS)
def test_sharpness_and_the_criterion_are_right_or_refused(kind):
    network, batch = ladder.built(kind, torch.float32)
    plain, theta = ladder.Plainly(kind, network, batch), network.theta.double()
    if kind.hessian is None:
        for measure in (lambda: criterion(network, [batch], 0.1), lambda: hessian_at(network.on(batch), network.theta)):
            with pytest.raises(CurvatureError, match="second derivatives"):
                measure()
        return
    found = ends(hessian_at(network.on(batch), network.theta), network.theta, most=40)
    assert found.rung == kind.hessian
    precise = 1e-3 if found.rung == DOUBLE_BACKWARD else 0.03
    for value, y in ((found.largest.value, found.top), (found.smallest.value, found.bottom)):
        u = y.double()
        assert float(u @ plain.hessian_times(theta, u)) == pytest.approx(value, abs=precise * found.scale)
    g = plain.gradient(theta)
    along = criterion(network, [batch], 0.1)
    assert along.squared.value == pytest.approx(float(g @ g), rel=1e-3)
    expected = float(g @ plain.hessian_times(theta, g))
    assert along.curvature.value == pytest.approx(expected, abs=precise * found.scale * float(g @ g))


MEASURES = {
    "sharpness": sharpness,
    "stability": lambda network, batch: stability(network, batch, sgd),
    "criterion": lambda network, batch: criterion(network, [batch, batch], 0.1),
    "point": point,
    "learning rate": lambda network, batch: advise(network, [batch], [batch], sgd, steps=4),
}
measures = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def normalised(own=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(
            torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 2)
        )
    batch = Batch(ladder.drawn(64, 4).float(), ladder.drawn(64, 2, seed=1).float())
    return Network(module, torch.nn.functional.mse_loss, own=own), batch


@measures
def test_weights_that_are_no_numbers_are_refused(measure):
    network, batch = normalised(own=True)
    network.theta[3] = torch.nan
    with pytest.raises((DiagnosisError, CurvatureError)):
        measure(network, batch)


@measures
@pytest.mark.parametrize("own", [True, False])
def test_nothing_of_a_module_changes(measure, own):
    network, batch = normalised(own)
    module = network.module
    for k, p in enumerate(network.parameters):
        p.grad = torch.full_like(p, float(k))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random, training = torch.get_rng_state(), [part.training for part in module.modules()]
    measure(network, batch)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(bool((p.grad == k).all()) for k, p in enumerate(network.parameters))
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in module.modules()] == training
    assert not any(part._forward_hooks or part._backward_hooks for part in module.modules())
