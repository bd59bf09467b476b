"""The published figures that initialisation is known by; docs/initialisation.md shows them."""

import math
import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.initialise.model import initialise
from thalweg.initialise.orthogonal import orthogonal
from thalweg.initialise.variance import lecun_normal

DOCS = Path(__file__).parents[2] / "docs"
MADE = runpy.run_path(str(DOCS / "initialisation_figures.py"))
FIGURES = MADE["FIGURES"]


def lines(name):
    return {line.name: line.y for line in FIGURES[name]().lines}


def test_singular_values_of_jacobians_are_half_as_large_with_the_standard_initialisation():
    """Glorot and Bengio 2010: about .5 and about .8; .49 and .77 when measured again."""
    found = lines("glorot")
    assert found["standard"][0] == pytest.approx(0.39, abs=0.01) and found["standard"][-1] == pytest.approx(
        0.49, abs=0.01
    )
    normalised = found["normalised (Glorot)"]
    assert normalised[0] == pytest.approx(0.53, abs=0.02) and normalised[-1] == pytest.approx(0.77, abs=0.02)


def gradients(scheme, width=300):
    """The variance of the gradient in each layer's outputs, and in its weights."""
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(5) for part in (nn.Linear(width, width), nn.Tanh())))
    initialise(model, scheme)
    z, seen = torch.randn(300, width, generator=torch.Generator().manual_seed(1)), []
    for part in model:
        z = part(z)
        if isinstance(part, nn.Linear):
            z.retain_grad()
            seen.append(z)
    z.backward(torch.randn(z.shape, generator=torch.Generator().manual_seed(2)))
    return [float(z.grad.var()) for z in seen], [float(layer.weight.grad.var()) for layer in model[::2]]


def test_gradients_shrink_downwards_with_the_standard_initialisation_and_those_of_weights_do_not():
    """Glorot and Bengio 2010, figures 7 and 8, equations 13 and 14."""
    back, weights = gradients("standard_uniform")
    assert back[0] < 0.05 * back[-1]
    assert 0.3 < weights[0] / weights[-1] < 3
    normalised, _ = gradients("glorot_uniform")
    assert normalised[0] > 0.1 * normalised[-1]


def test_at_depth_30_glorots_signal_is_gone_and_hes_is_not():
    """He et al. 2015: 2**-30 against about 1."""
    found = lines("he")
    assert 0.5 * 2**-30 < found["Glorot"][-1] < 2 * 2**-30
    assert 0.38 < found["He"][-1] < 2 and 0.38 < found["orthogonal, gain √2"][-1] < 2


def test_a_deep_linear_net_learns_as_saxe_says():
    """Within 0.005, each mode after a time that goes with 1 / s."""
    furthest = max(
        abs(a - MADE["learnt"](s, 0.1 * i))
        for i, row in enumerate(MADE["descended"]())
        for a, s in zip(row, MADE["STRENGTHS"], strict=True)
    )
    assert 0 < furthest < 0.005
    for s in MADE["STRENGTHS"]:
        half = math.log(s / MADE["FIRST"] - 1) / (2 * s)
        assert MADE["learnt"](s, half) == pytest.approx(s / 2)


def test_learning_time_is_that_of_any_depth_with_orthogonal_weights_only():
    """Saxe et al. 2014: five times as deep, and no slower; Gaussian weights of the same size have not begun."""
    times = {depth: MADE["steps_to_learn"](depth, orthogonal, (1.0,)) for depth in (10, 50)}
    assert times[50] < 1.5 * times[10] < 75
    assert MADE["steps_to_learn"](3, lecun_normal, (1.0,)) < 40
    assert MADE["steps_to_learn"](50, lecun_normal, (1.0, 0.5)) == math.inf


def test_the_scale_of_a_sparse_initialisation_has_a_cliff():
    """Sutskever et al. 2013, table 3: at a quarter nothing is learnt but the mean image, at four times little."""
    quarter, one, four = (MADE["error_after"](scale, 0.03, steps=400) for scale in (0.25, 1.0, 4.0))
    assert quarter > 0.98 * MADE["mean_image"]() and one < 0.5 * quarter and four > 1.5 * one


def test_the_best_learning_rate_stays_with_mup_and_moves_without():
    """Yang et al. 2022, figure 1: over eight times the width."""

    def best(width, by_width):
        return min(range(-10, -3), key=lambda k: MADE["loss_after"](width, 2.0**k, by_width, steps=30))

    assert best(256, by_width=True) >= best(32, by_width=True) - 1
    assert best(256, by_width=False) <= best(32, by_width=False) - 2


# The page


def test_the_page_shows_what_the_code_makes():
    """Exactly, but for what is measured: to a quarter of it, for sums of floats differ from machine to machine."""
    page = (DOCS / "initialisation.md").read_text(encoding="utf-8")
    shown = {m["name"]: m["rows"] for m in MADE["PLACE"].finditer(page)}
    assert set(shown) == {*FIGURES, "schemes"} and shown["schemes"] == MADE["schemes"]()
    for name in ("glorot", "he", "saxe"):
        assert words(shown[name]) == words(MADE["made"](name))
        for old, new in zip(numbers(shown[name]), numbers(MADE["made"](name)), strict=True):
            assert old == pytest.approx(new, rel=0.25, abs=0.02)


NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def words(text):
    return NUMBER.sub("#", text)


def numbers(text):
    return [float(x) for x in NUMBER.findall(text)]


def test_every_picture_is_there_and_is_of_what_the_page_says():
    for name, chart in FIGURES.items():
        text = (DOCS / MADE["picture"](name)).read_text(encoding="utf-8")
        assert text.startswith("<svg") and text.endswith("</svg>\n")
        if name in ("glorot", "he", "saxe"):
            assert words(text) == words(MADE["svg"](chart()))
