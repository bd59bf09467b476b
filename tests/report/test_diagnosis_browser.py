"""The page of a diagnosis in a real browser: quiet, closed to the network, readable, and usable by keyboard."""

from functools import partial

import pytest

from thalweg.report.diagnosis_page import write_diagnosis

FIGURES = ("spectrum", "signal", "course", "judged", "noise", "updates", "profile", "landscape")


@pytest.fixture(scope="module")
def address(diagnosis, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "diagnosis.html"
    write_diagnosis(diagnosis, path)
    return path.as_uri()


@pytest.fixture
def opened(window, address):
    return partial(window, address)


def test_every_figure_is_drawn_inside_its_place(opened):
    drawn = opened().evaluate("""() => [...document.querySelectorAll("figure")].map((figure) => {
        const stage = figure.querySelector(".stage").getBoundingClientRect();
        const found = [...figure.querySelectorAll(".variant:not([hidden]) .mark")];
        const marks = found.map((m) => m.getBoundingClientRect());
        const out = marks.filter((m) => m.left < stage.left - 1 || m.right > stage.right + 1 || m.top < stage.top - 6
            || m.bottom > stage.bottom + 1 || !m.width);
        return [figure.id, marks.length, out.length];
    })""")
    assert [key for key, _, _ in drawn] == [f"{key}-figure" for key in FIGURES]
    assert all(count >= 1 and outside == 0 for _, count, outside in drawn)


def test_arrow_keys_walk_over_the_landscape_in_both_directions(opened):
    page = opened()
    stage, readout = page.locator("#landscape .stage"), page.locator("#landscape .readout")
    stage.focus()
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().endswith("at (-1, 1)")  # the upper left corner
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().endswith("at (-0.5, 1)")
    page.keyboard.press("ArrowDown")
    assert readout.inner_text().endswith("at (-0.5, 0.5)")


def test_pointing_at_a_layer_says_its_value(opened):
    page = opened()
    page.locator("#signal .variant:not([hidden]) .mark").first.hover()
    assert page.locator("#signal .tip").inner_text().startswith("outputs, ")


def test_the_other_moment_replaces_the_first(opened):
    page = opened()
    page.locator("#spectrum").get_by_role("button", name="after the last step").click()
    assert page.locator("#spectrum .variant:not([hidden])").get_attribute("data-variant") == "1"


def test_light_and_dark_both_keep_text_and_colours_apart(opened, contrast):
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        for selector in (
            "h1", ".what", ".critical .severity", ".warning .severity", ".unclear .severity", ".cause dt",
            ".cause small", ".where", ".noted .kind", ".remarks small", "figcaption", ".tiles b.critical",
            ".tiles b.warning",
        ):  # fmt: skip
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        fills = page.evaluate(
            "[...document.querySelectorAll('#landscape .key .cell')].map((c) => getComputedStyle(c).fill)"
        )
        assert len(set(fills)) == 12
        light = [sum(int(part) for part in fill[4:-1].split(",")) for fill in fills]
        assert light == sorted(light, reverse=scheme == "dark")  # the lowest stands off from the ground most


def test_a_phone_scrolls_only_down(opened):
    page = opened(width=390)
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_the_page_can_be_read_without_scripts(browser, address):
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    assert page.locator("#landscape rect.cell").first.is_visible() and page.locator(".cause").first.is_visible()
    page.close()
