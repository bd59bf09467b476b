"""What holds of every page: it is whole, escaped, and closed to the network."""

import re

import pytest

from thalweg.diagnose.diagnosis import Diagnosis
from thalweg.report.diagnosis_page import render_diagnosis
from thalweg.report.frame import policy
from thalweg.report.page import render
from thalweg.training.recipe import Recipe

PAGES = {
    "a comparison": lambda study, diagnosis: render(study),
    "a diagnosis": lambda study, diagnosis: render_diagnosis(diagnosis),
    "a diagnosis of a healthy run": lambda study, diagnosis: render_diagnosis(
        Diagnosis(diagnosis.problem, Recipe("adam", 100), 0, [])
    ),
}


@pytest.fixture(scope="module", params=PAGES)
def page(request, study, diagnosis):
    return PAGES[request.param](study, diagnosis)


@pytest.fixture(scope="module")
def read(page, reader):
    return reader(page)


def test_the_page_asks_nothing_of_the_network(read):
    loads = {"src", "href", "srcset", "action", "data", "poster", "formaction", "xlink:href"}
    addresses = [(tag, a[name]) for tag, a in read.elements for name in loads & set(a)]
    assert {value.split(":")[0] if tag == "link" else value[0] for tag, value in addresses} == {"data", "#"}
    assert "url(" not in "".join(a.get("style", "") for _, a in read.elements)


def test_the_policy_names_the_hashes_of_the_one_style_and_the_one_script(page, read):
    style = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(style) == len(script) == 1
    said = next(a["content"] for a in read.tags("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert said == policy(style[0], script[0])
    assert "unsafe" not in said and said.startswith("default-src 'none'")


def test_what_users_wrote_stays_text(read):
    assert len(read.tags("script")) == 1 and not read.tags("img")
    assert read.text.count("<script>alert(1)</script>") >= 3
    assert "{{ 7 * 7 }}" in read.text
    assert not any(name.startswith("on") or name == "style" for _, a in read.elements for name in a)


def test_every_link_in_the_page_leads_somewhere(read):
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for a in read.tags("a")} | {a["aria-labelledby"] for a in read.tags("section")}
    assert wanted <= set(ids)


def test_the_page_is_small(page):
    assert len(page.encode()) < 500_000
