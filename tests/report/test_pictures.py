"""The pictures of a diagnosis: each says what was measured, in marks, in a table and in words."""

import math
import re
from dataclasses import replace

import pytest
import torch

from thalweg.challenges import spectrum as curvature
from thalweg.core.measured import Measured, exactly
from thalweg.report.interval import attempt, interval
from thalweg.report.landscape import Landscape, landscape
from thalweg.report.layers import Signal, signal
from thalweg.report.panels import LEVELS
from thalweg.report.pictures import pictures
from thalweg.report.profile import Profile, profile
from thalweg.report.scales import symmetric
from thalweg.report.spectrum import Density, spectrum
from thalweg.report.watched import Noise, course, noise
from thalweg.training.recipe import Recipe

KEYS = ["spectrum", "signal", "course", "judged", "noise", "updates", "profile", "landscape"]


def panels(figure):
    return [panel for variant in figure.variants for panel in variant.panels]


def marks(panel):
    return [mark for series in panel.series for mark in series.marks]


@pytest.fixture(scope="module")
def drawn(diagnosis):
    return pictures(diagnosis)


def test_every_picture_is_there_and_is_left_out_without_its_data(diagnosis, drawn):
    assert list(drawn) == KEYS
    only = replace(diagnosis, measurements={"end": {"curvature": diagnosis.measurements["end"]["spectrum"]}})
    assert list(pictures(only)) == ["spectrum"]
    assert pictures(replace(diagnosis, measurements={})) == {}


@pytest.mark.parametrize("key", KEYS)
def test_every_picture_has_its_numbers_in_a_table_and_says_itself_in_words(drawn, key):
    figure = drawn[key]
    assert figure.table.rows and all(len(row) == len(figure.table.head) for row in figure.table.rows)
    assert figure.caption and all(panel.says for panel in panels(figure))


@pytest.mark.parametrize("key", KEYS)
def test_every_place_in_a_picture_is_a_number_inside_of_it(drawn, key):
    for panel in panels(drawn[key]):
        paths = [line.path for series in panel.series for line in series.lines]
        numbers = [float(n) for each in paths for n in re.findall(r"-?[\d.]+(?:e-?\d+)?|nan|inf", each)]
        numbers += [v for mark in marks(panel) for v in (mark.x, mark.y)] + [tick.at for tick in panel.x_ticks]
        numbers += [v for s in panel.series for c in s.cells for v in (c.x, c.y, c.x + c.width, c.y + c.height)]
        assert all(-0.01 <= v <= 100.01 for v in numbers)


def test_moments_are_views_of_one_picture(drawn):
    labels = [variant.label for variant in drawn["spectrum"].variants]
    assert labels == ["before the first step", "after the last step"]


def test_a_scale_to_both_sides_of_zero_is_symmetric_and_even_in_decades():
    scale = symmetric([-10.0, 1000.0], padding=0)
    steps = [scale.at(b) - scale.at(a) for a, b in ((1, 10), (10, 100), (100, 1000), (-10, -1))]
    assert steps == pytest.approx([steps[0]] * 4, rel=0.01)
    assert {"0", "-1", "10"} <= {tick.label for tick in scale.ticks}
    for values in ([], [0.0], [-3.0, -1.0], [5.0, 5.0], [math.nan, 1.0]):
        scale = symmetric(values)
        assert 0 <= scale.at(0.0) <= 100 and any(tick.label == "0" for tick in scale.ticks)


def test_the_spectrum_shows_all_its_weight_and_the_limit_of_gradient_descent(drawn):
    figure = spectrum({"now": Density([-1.0, 0.0, 2.0, 2.0, 50.0], [0.1, 0.5, 0.1, 0.1, 0.2], limit=20.0)})
    assert sum(float(row[-1].split()[0]) for row in figure.table.rows) == pytest.approx(100)
    (panel,) = panels(figure)
    largest = max(marks(panel), key=lambda mark: mark.x)
    assert panel.guides[0].label == "stable up to 20" and largest.x > panel.guides[0].at
    assert "10 % of the weight is below 0" in panel.says
    assert panels(drawn["spectrum"])[0].guides[0].label == "stable up to 20"  # 2/lr of the recipe


def test_the_probes_of_a_large_spectrum_are_one_density(diagnosis):
    theta = torch.zeros(100, dtype=torch.float64)
    probed = curvature.spectrum(curvature.Quadratic([*range(1, 101)]), theta, probes=4, steps=12)
    rows = pictures(replace(diagnosis, measurements={"end": {"": probed}}))["spectrum"].table.rows
    assert sum(float(row[-1].split()[0]) for row in rows) == pytest.approx(100, abs=1)


def test_a_limit_is_drawn_only_where_it_is_one_number(diagnosis):
    limits = {}
    for name, knobs in (("sgd", {"lr": 0.1}), ("momentum", {"lr": 0.1, "momentum": 0.9}), ("adam", {"lr": 0.1})):
        figure = pictures(replace(diagnosis, recipe=Recipe(name, 100, knobs=knobs)))["spectrum"]
        limits[name] = [guide.label for guide in panels(figure)[0].guides]
    assert limits == {"sgd": ["stable up to 20"], "momentum": ["stable up to 38"], "adam": []}


def test_the_signal_of_a_layer_that_says_nothing_lies_on_the_border():
    layers = [Signal("0", Measured(1.0, 0.8, 1.2, 9)), Signal("2", exactly(0.0)), Signal("4", exactly(math.nan))]
    (panel,) = panels(signal({"now": layers}))
    assert [mark.text for mark in marks(panel)] == ["0: 1 (0.8 to 1.2)", "2: 0"]
    assert marks(panel)[1].x == 0


def test_the_noise_scale_leaves_the_picture_where_it_has_no_upper_end():
    seen = [Noise(10, Measured(4.0, 2.0, 8.0, 8)), Noise(20, Measured(math.inf, 30.0, math.inf, 8))]
    (panel,) = panels(noise(seen, 32))
    assert marks(panel)[1].y == 0 and marks(panel)[1].text == "step 20: ∞ (30 to ∞)"
    assert panel.guides[0].flat and panel.guides[0].label == "batch size 32"


def test_a_run_that_ends_in_no_number_is_drawn_as_far_as_it_goes():
    figure = course([1, 2, 3, 4], [2.0, 1.0, math.inf, math.nan], [1.0, 1.0, 9.0, math.nan])
    assert [len(marks(panel)) for panel in panels(figure)] == [2, 3]
    assert "nan" not in "".join(line.path for panel in panels(figure) for s in panel.series for line in s.lines)


def test_a_long_run_has_few_marks_and_its_last_one():
    steps = list(range(1, 1001))
    (first, _) = panels(course(steps, [1 / t for t in steps], [1.0] * 1000))
    assert len(marks(first)) <= 80 and marks(first)[-1].text.startswith("step 1000:")


def test_what_a_step_throws_far_up_is_a_cross_above_all_others():
    (panel,) = panels(profile({"now": Profile([0.0, 0.1, 0.2, 0.4], [1.0, 0.5, 1e6, math.inf], 0.1, "lr 0.1")}))
    assert [mark.shape for mark in marks(panel)] == ["large", "large", "cross", "cross"]
    assert {mark.y for mark in marks(panel) if mark.shape == "cross"} == {7.0} and panel.band == "beyond"
    assert marks(panel)[1].x == panel.guides[0].at


def test_a_landscape_has_a_cell_for_each_loss_and_levels_that_rise_with_it():
    side = [-1.0, -0.5, 0.0, 0.5, 1.0]
    losses = [[0.1 + 9 * a * a + b * b for b in side] for a in side]
    losses[0][0] = math.inf
    figure = landscape({"now": Landscape(side, side, losses, ("steep", "flat"))})
    (panel,) = panels(figure)
    cells = [cell for series in panel.series for cell in series.cells]
    assert len(cells) == 25 and len(figure.table.rows) == 25
    assert sum(cell.width * cell.height for cell in cells) == pytest.approx(100 * 100, rel=1e-3)
    level = {cell.text.split(" at ")[1]: cell.level for cell in cells}
    assert level["(0, 0)"] == 0 and level["(-1, -1)"] == level["(1, 1)"] == LEVELS - 1
    assert level["(0, 1)"] < level["(0.5, 0)"] < level["(1, 0)"]  # along the flat side it rises less
    first = next(cell for cell in cells if cell.text.endswith("(1, 1)"))
    assert first.y == 0 and first.x + first.width == 100  # up and to the right
    assert panel.says.startswith("lowest, 0.1, at (0, 0); highest")


def test_the_key_of_a_landscape_names_the_losses_of_its_colours():
    figure = landscape({"now": Landscape([-1.0, 1.0], [-1.0, 1.0], [[0.01, 1.0], [1.0, 100.0]])})
    key = figure.variants[0].key
    assert [cell.level for cell in key.series[0].cells] == list(range(LEVELS))
    assert {"0.1", "1", "10"} <= {tick.label for tick in key.x_ticks}


def test_an_interval_is_drawn_where_there_is_one():
    panel = interval(Measured(2.0, 1.0, 3.0, 8))
    ends = re.findall(r"[\d.]+", panel.series[0].lines[0].path)
    assert float(ends[0]) < marks(panel)[0].x < float(ends[2])
    assert interval(exactly(2.0)) is None and interval(Measured(2.0, -math.inf, math.inf, 1)) is None
    open_ended = interval(Measured(math.inf, 30.0, math.inf, 8))
    assert open_ended is None or not marks(open_ended)


def test_an_end_at_infinity_runs_to_the_border():
    lines = interval(Measured(12.0, 4.0, math.inf, 3)).series[0].lines
    assert lines[0].path.endswith("100 50") and len(lines) == 2  # and has a tip


def test_advice_that_was_tried_shows_both_with_their_seeds(diagnosis):
    panel = attempt(diagnosis.tried["sorted data"])
    assert [tick.label for tick in panel.y_ticks] == ["without it", "with it"]
    small = [[mark for mark in s.marks if mark.shape == "dot"] for s in panel.series]
    assert [len(each) for each in small] == [2, 3]
    assert panel.ends[0][0].label == "1.95" and "1 of 3 diverged" in panel.says
    assert torch.tensor([mark.x for mark in small[1]]).max() < min(mark.x for mark in small[0])
