"""Schemes: the scale and the shape of what they draw, and whether units differ."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from thalweg.core.errors import AlgorithmError
from thalweg.initialise.data_driven import DataDriven
from thalweg.initialise.identity import identity
from thalweg.initialise.orthogonal import orthogonal, orthogonal_relu
from thalweg.initialise.random_walk import random_walk, random_walk_relu
from thalweg.initialise.schemes import SCHEMES, scheme
from thalweg.initialise.sparse import sparse
from thalweg.initialise.variance import constant, he_normal, lecun_normal
from thalweg.initialise.weight import Weight, dense, gain, scaled

PLAIN = {n: e.scheme for n, e in SCHEMES.items() if not isinstance(e.scheme, DataDriven)}
CONVOLUTION = Weight((16, 16, 3, 3), 144, 144)
VARIANCES = {
    "standard_uniform": 1 / 900, "glorot_uniform": 2 / 500, "glorot_normal": 2 / 500, "lecun_uniform": 1 / 300,
    "lecun_normal": 1 / 300, "he_uniform": 2 / 300, "he_normal": 2 / 300, "he_normal_fan_out": 2 / 200,
    "small_normal": 1e-4, "sparse": 15 / 300, "orthogonal": 1 / 300, "orthogonal_relu": 2 / 300,
    "random_walk": math.exp(1 / 300) / 300, "random_walk_relu": 2 * math.exp(2.4 / 297.6) / 300, "identity": 1 / 300,
    "constant": 0.0,
}  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", PLAIN)
def test_the_variance_is_the_papers(name):
    w = PLAIN[name](dense(200, 300), seeded())
    assert w.shape == (200, 300) and w.dtype == torch.float64
    assert float(w.var()) == pytest.approx(VARIANCES[name], rel=0.04, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in PLAIN if name.endswith("uniform")])
def test_uniform_weights_fill_their_interval_and_leave_it_nowhere(name):
    w = PLAIN[name](dense(200, 300), seeded())
    limit = math.sqrt(3 * VARIANCES[name])
    assert 0.999 * limit < float(w.abs().max()) <= limit


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_generator_draws_the_same_weights(name):
    assert torch.equal(PLAIN[name](dense(20, 30), seeded(3)), PLAIN[name](dense(20, 30), seeded(3)))


WEIGHTS = [dense(40, 30), dense(30, 40), CONVOLUTION, Weight((20, 20), 20, 20, "recurrent"),
           Weight((8, 50), 1, 8, "table")]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "constant"])
@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: f"{w.kind} {w.shape}")
def test_no_two_units_are_the_same(name, weight):
    """Nor the same but for a factor: their angles differ too. Nor do two inputs go the same ways."""
    w = PLAIN[name](weight, seeded())
    for units in (w.flatten(1), w.transpose(0, 1).flatten(1)):
        unit = nn.functional.normalize(units)
        apart = (unit @ unit.T - torch.eye(len(unit), dtype=torch.float64)).max()
        assert len(torch.unique(units, dim=0)) == len(units) and float(apart) < 1 - 1e-6


def test_a_constant_breaks_no_symmetry_and_training_never_does():
    """All units of a layer are one unit still, after any number of steps."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.copy_(constant(dense(*layer.weight.shape), seeded()))
            layer.bias.zero_()
    x, optimizer = torch.randn(30, 4, generator=seeded()), torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        (model(x)[:, 0] - x[:, 0] * x[:, 1]).square().mean().backward()
        optimizer.step()
    units = model[0].weight.detach()
    torch.testing.assert_close(units, units[:1].expand_as(units))
    assert float((units - 0.01).abs().min()) > 0.1


@pytest.mark.parametrize("shape", [(20, 20), (30, 20), (20, 30)])
def test_orthogonal_weights_have_singular_values_of_one(shape):
    values = torch.linalg.svdvals(orthogonal(dense(*shape), seeded()))
    torch.testing.assert_close(values, torch.ones_like(values))
    torch.testing.assert_close(torch.linalg.svdvals(orthogonal_relu(dense(*shape), seeded())), math.sqrt(2) * values)


def test_orthogonal_matrices_are_spread_evenly():
    """Without the signs of R's diagonal the first entry would be of one sign (Mezzadri 2007)."""
    firsts = torch.stack([orthogonal(dense(3, 3), seeded(i)) for i in range(400)])
    assert firsts.mean(0).abs().max() < 0.12  # standard error 0.03
    torch.testing.assert_close(
        firsts.square().mean(0), torch.full((3, 3), 1 / 3, dtype=torch.float64), rtol=0, atol=0.06
    )


@pytest.mark.parametrize(("kind", "shape"), [(nn.functional.conv1d, (5,)), (nn.functional.conv2d, (3, 3)),
                                             (nn.functional.conv3d, (3, 1, 3))])  # fmt: skip
def test_a_delta_orthogonal_convolution_keeps_every_length(kind, shape):
    weight = orthogonal(Weight((8, 8, *shape), 8 * math.prod(shape), 8 * math.prod(shape)), seeded())
    x = torch.randn(2, 8, *(7 for _ in shape), dtype=torch.float64, generator=seeded())
    torch.testing.assert_close(kind(x, weight, padding=[(s - 1) // 2 for s in shape]).norm(), x.norm())


def test_sparse_units_have_15_inputs_of_variance_one():
    w = sparse(dense(300, 100), seeded())
    assert ((w != 0).sum(1) == 15).all() and float(w[w != 0].var()) == pytest.approx(1, rel=0.05)
    assert ((w != 0).sum(0) > 20).all()  # all inputs are used
    assert (sparse(CONVOLUTION, seeded()).flatten(1) != 0).sum(1).tolist() == [15] * 16
    assert (sparse(dense(9, 10), seeded()) != 0).all()


def test_the_identity_is_for_recurrent_weights_only():
    assert torch.equal(identity(Weight((4, 4), 4, 4, "recurrent"), seeded()), torch.eye(4, dtype=torch.float64))
    assert torch.equal(identity(dense(4, 4), seeded()), lecun_normal(dense(4, 4), seeded()))


def drift(draw, width, depth):
    """How far the logarithm of the gradient's length walks a layer, on the way back; and its standard error."""
    ends, generator = [], seeded()
    for _ in range(60):
        back = torch.randn(width, dtype=torch.float64, generator=generator)
        first = back.norm().log()
        for _ in range(depth):
            back = draw(dense(width, width), generator).T @ back
        ends.append(float(back.norm().log() - first) / depth)
    ends = torch.tensor(ends)
    return float(ends.mean()), float(ends.std()) / math.sqrt(len(ends))


def test_a_random_walk_of_linear_layers_does_not_drift():
    mean, error = drift(random_walk, 10, 60)
    assert abs(mean) < 3 * error
    mean, error = drift(lecun_normal, 10, 60)
    assert mean < -4 * error and mean == pytest.approx(-1 / 20, abs=3 * error)  # the drift that the gain takes away


@pytest.mark.parametrize("width", [20, 40, 200])
def test_the_fit_for_relu_is_the_gain_without_drift(width):
    """In closed form: k of the units are open, k binomial; log of a chi squared of k has mean ψ(k/2) + log 2."""
    k = np.arange(1, width + 1)
    open_ = stats.binom.pmf(k, width, 0.5)
    exact = 0.5 * (math.log(width / 2) - float((open_ * special.digamma(k / 2)).sum()))
    tall = random_walk_relu(Weight((400_000 // width, width), width, width), seeded())
    assert math.log(float(tall.std()) * math.sqrt(width)) == pytest.approx(exact, abs=0.004)  # standard error 0.001
    fit = 0.5 * math.log(2) + 1.2 / (width - 2.4)
    assert fit == pytest.approx(exact, abs=0.001)


@pytest.mark.parametrize(
    ("phi", "expected"),
    [(torch.relu, math.sqrt(2)), (lambda z: z, 1.0), (torch.tanh, 1.5925), (torch.selu, 1.0),
     (partial(nn.functional.leaky_relu, negative_slope=0.3), math.sqrt(2 / 1.09))],
)  # fmt: skip
def test_gains_are_known(phi, expected):
    assert gain(phi) == pytest.approx(expected, rel=1e-4)


def test_a_gain_makes_another_scheme():
    leaky = scaled(lecun_normal, gain(partial(nn.functional.leaky_relu, negative_slope=0.0)))
    torch.testing.assert_close(leaky(dense(9, 9), seeded()), he_normal(dense(9, 9), seeded()), rtol=1e-6, atol=0)
    assert leaky.__name__ == "1.414 times lecun_normal"
    with pytest.raises(ValueError, match="mean square of 0"):
        gain(torch.zeros_like)


def test_an_unknown_scheme_is_refused_by_name():
    with pytest.raises(AlgorithmError, match=r"no initialisation is called 'he_norml' \(did you mean he_normal\?\)"):
        scheme("he_norml")


def test_every_scheme_says_its_section_and_what_it_is():
    for entry in SCHEMES.values():
        assert entry.section.split()[-1] == "8.4" and entry.summary.endswith(".")
