"""The page in a real browser: it draws, obeys its own policy, and works by keyboard, in the dark and on a phone."""

from functools import partial

import pytest

from thalweg.report.page import write_report

FIGURES = ("ranking", "curves", "sensitivity", "target", "tradeoffs")


@pytest.fixture(scope="module")
def address(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(study, path)
    return path.as_uri()


@pytest.fixture
def opened(window, address):
    return partial(window, address)


@pytest.fixture
def page(opened):
    return opened()


def test_every_figure_is_drawn_inside_its_place(page):
    drawn = page.evaluate("""() => [...document.querySelectorAll("figure")].map((figure) => {
        const stage = figure.querySelector(".stage").getBoundingClientRect();
        const found = [...figure.querySelectorAll(".variant:not([hidden]) .mark")];
        const marks = found.map((m) => m.getBoundingClientRect());
        const out = marks.filter((m) => m.left < stage.left || m.right > stage.right || m.top < stage.top - 6
            || m.bottom > stage.bottom || !m.width);
        return [figure.id, marks.length, out.length];
    })""")
    assert [key for key, _, _ in drawn] == [f"{key}-figure" for key in FIGURES]
    assert all(count >= 5 and outside == 0 for _, count, outside in drawn)
    assert page.locator("#curves .variant:not([hidden]) path.thick").count() == 5


def test_an_injected_script_does_not_run_and_an_injected_style_does_not_apply(opened):
    page = opened()
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken over'";
        document.body.append(script);
        const element = document.createElement("p");
        element.setAttribute("style", "position: fixed; top: 0");
        document.body.append(element);
        document.body.insertAdjacentHTML("beforeend", "<img id=outside src='https://example.invalid/pixel'>");
    }""")
    page.wait_for_timeout(100)
    assert page.title() != "taken over"
    assert page.evaluate("getComputedStyle(document.querySelector('body > p:last-of-type')).position") == "static"
    assert len(page.said) == 3 and all("Content Security Policy" in text for text in page.said)
    page.said.clear()
    page.asked[:] = [url for url in page.asked if "invalid" not in url]  # asked for, and refused before it left


def test_arrow_keys_walk_along_the_points_and_say_them(page):
    stage, readout = page.locator("#curves .stage"), page.locator("#curves .readout")
    stage.focus()
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("adam, step 50: validation accuracy")
    page.keyboard.press("ArrowRight")
    assert "step 100:" in readout.inner_text()
    page.keyboard.press("ArrowDown")
    second = readout.inner_text()
    assert "step 100:" in second and not second.startswith("adam,")
    page.keyboard.press("End")
    assert "step 1200:" in readout.inner_text()
    page.keyboard.press("Escape")
    assert readout.inner_text() == "" and page.locator("#curves .at, #curves .dim").count() == 0


def test_up_and_down_keep_the_learning_rate_when_they_change_the_algorithm(page):
    page.locator("#sensitivity .stage").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    said = page.locator("#sensitivity .readout").inner_text()
    assert said.startswith("adamw, lr ") and page.locator("#sensitivity .at").count() == 1


def test_tab_reaches_every_figure_and_shows_where_it_is(page):
    reached = set()
    for _ in range(70):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('figure')?.id"))
    assert {f"{key}-figure" for key in FIGURES} <= reached
    page.locator("#ranking .stage").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_pointing_at_a_point_says_its_value(page):
    mark = page.locator("#ranking .mark.large").first
    mark.hover()
    assert page.locator("#ranking .tip").inner_text().startswith("adam, mean accuracy 0.97")
    page.mouse.move(5, 5)
    assert page.locator("#ranking .tip").is_hidden()


def test_the_legend_hides_an_algorithm_and_brings_it_back(page):
    button, line = page.locator('#curves [data-toggle="1"]'), page.locator('#curves [data-of="1"] path.thick').first
    button.click()
    assert not line.is_visible() and button.get_attribute("aria-pressed") == "false"
    button.click()
    assert line.is_visible()


def test_another_way_of_looking_at_a_figure_replaces_the_first(page):
    page.get_by_role("button", name="validation loss").first.click()
    assert page.locator("#curves .variant:not([hidden]) .y-label").inner_text() == "validation loss"


def test_trials_are_sorted_and_filtered(page, study):
    diverged = sum(t.outcome == "diverged" for t in study.trials)
    page.locator("#filter").fill("diverged sgd")
    rows = page.locator("#trials tbody tr:visible")
    assert 0 < rows.count() < diverged and page.locator("#count").inner_text().endswith(
        f"of {len(study.trials)} trials"
    )
    page.locator("#filter").fill("")
    head = page.locator("#trials th").nth(3)
    head.locator("button").click()
    head.locator("button").click()
    cells = page.locator("#trials tbody td:nth-child(4)").all_inner_texts()
    values = [float(cell) for cell in cells if cell != "–"]
    assert values == sorted(values, reverse=True) and head.get_attribute("aria-sort") == "descending"
    assert cells[len(values) :] == ["–"] * (len(cells) - len(values))


def test_light_and_dark_both_keep_text_readable(opened, contrast):
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        for selector in ("h1", "p.lead", "figcaption", "nav a", ".tiles small", ".kind", ".ok b", ".bad b", "summary"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        for colour in range(10):  # in turn on one label, as algorithms have them
            page.locator("#curves .legend button").first.evaluate(f"e => {{ e.className = 'c{colour}' }}")
            assert contrast(page, "#curves .legend button", "::before") >= 4.5, (scheme, colour)


def test_a_phone_scrolls_only_down(opened):
    page = opened(width=360)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.get_by_role("button", name="CPU seconds").click()
    for details in page.locator("details").all():
        details.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_page_can_be_read_without_scripts(browser, address):
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    assert page.locator("#curves path.thick").first.is_visible()
    assert page.locator("#trials tbody tr").first.is_visible() and page.locator("#filter").is_hidden()
    page.close()
