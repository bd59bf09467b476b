"""A study and a diagnosis, with hostile text wherever users can put some; and pages, read and opened."""

import math
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright

from thalweg.challenges import inexact, propagation, slices
from thalweg.challenges import spectrum as curvature
from thalweg.challenges.finding import Finding
from thalweg.challenges.updates import Updated, Updates
from thalweg.comparison.result import Study
from thalweg.comparison.spaces import quasi_random, recipe_at, space
from thalweg.comparison.study import Record, Trial
from thalweg.core.measured import Measured, exactly
from thalweg.core.network import Batch, Network
from thalweg.diagnose.causes import Seen, causes
from thalweg.diagnose.course import Course, NoiseAt
from thalweg.diagnose.diagnosis import Cost, Diagnosis
from thalweg.diagnose.trying import Tried
from thalweg.training.recipe import Recipe
from thalweg.training.run import Point

ALGORITHMS = ("sgd", "momentum", "adam", "adamw", "lion")
STEPS, EVERY = 1200, 50
HOSTILE = "<script>alert(1)</script>\"'</script><img src=x onerror=alert(2)>\u2028{{ 7 * 7 }} größe→"

# Of each algorithm: the lr it likes best (as log10), how steep its valley is, the error that it gets down to.
_NATURE = {
    "sgd": (-0.6, 0.5, 0.030),
    "momentum": (-1.6, 0.6, 0.022),
    "adam": (-2.3, 0.5, 0.021),
    "adamw": (-2.2, 0.5, 0.020),
    "lion": (-3.4, 0.9, 0.028),
}


def curve(recipe: Recipe, seed: int, until: int = STEPS) -> list[Point]:
    """An invented learning curve: the further lr is from what the algorithm likes, the worse."""
    liked, steepness, floor = _NATURE[recipe.algorithm]
    rng = np.random.default_rng([seed, round(recipe.knobs["lr"] * 1e6)])
    off = math.log10(recipe.knobs["lr"]) - liked
    end = min(0.9, floor * 10 ** (steepness * off * off) * math.exp(rng.normal(0, 0.06)))
    points = []
    for t in range(EVERY, until + 1, EVERY):
        error = end + (0.9 - end) * math.exp(-t / 90) * math.exp(rng.normal(0, 0.1))
        accuracy = round(1 - error * math.exp(rng.normal(0, 0.03)), 4)
        points.append(Point(t, 2.3 * error**1.4, 2.6 * error + 0.01, accuracy))
    return points


def trial(key: str, recipe: Recipe, seed: int, until: int = STEPS, **how) -> Trial:
    """A trial of the invented problem; above a certain lr it diverges."""
    stage, algorithm = key.split("/")[:2]
    if math.log10(recipe.knobs["lr"]) > _NATURE[algorithm][0] + 0.75:
        message = f"the loss is nan at step 37, with lr {recipe.knobs['lr']:.3g}: try a smaller lr {HOSTILE}"
        return Trial(key, stage, algorithm, recipe, seed, "diverged", 37, [], 0.02, message)
    points = curve(recipe, seed, until)
    how = {"outcome": "finished" if until == STEPS else "cut", **how}
    return Trial(key, stage, algorithm, recipe, seed, steps=until, curve=points, cpu_seconds=until * 3e-4, **how)


def search(name: str, trials: int) -> list[Trial]:
    """Screening: every third point runs to its end, one of the others is a control, the rest is cut."""
    searched = space(name, trials)
    made = []
    for i, u in enumerate(quasi_random(trials, len(searched), seed=7)):
        recipe = recipe_at(Recipe(name, STEPS), searched, u)
        until, control = (STEPS, i == 4) if i % 3 == 0 or i == 4 else (300, False)
        made.append(trial(f"screening/{name}/{i:03d}", recipe, 11, until, control=control))
    return made


def write(folder: Path, facts: dict, trials: list[Trial]) -> Study:
    """A study's folder with these facts and trials."""
    record = Record(folder / "study.db")
    for name, value in facts.items():
        record.note(name, value)
    for each in trials:
        record.write(each)
    record.close()
    return Study.open(folder)


def facts_of_problem() -> dict:
    """What is known before the race."""
    return {
        "problem": {
            "name": f"houses {HOSTILE}", "source": "houses.csv --target 'price <b>'", "fingerprint": "0123456789abcdef",
            "metric": {"name": "accuracy", "higher_is_better": True}, "loss": "cross_entropy", "chance": 2.3026,
            "about": {"task": "classification", "seed": 0, "notes": [f"column {HOSTILE} was dropped"]},
            "sizes": {"train": 1078, "valid": 359, "test": 360}, "parameters": 26122,
            "model": "Sequential(\n  (0): Linear(in_features=64, out_features=128)\n)",
        },
        "settings": {"algorithms": list(ALGORITHMS), "seed": 0, "budget": None, "trials": 16, "spaces": {}},
        "command": "thalweg compare houses.csv --target 'price <b>' --trials 16",
    }  # fmt: skip


def facts_of_end() -> dict:
    """What is known after it."""
    return {
        "sanity": {
            "checks": [
                {"name": "first loss", "ok": True, "text": "the first loss is 2.31; by frequencies alone 2.3026"},
                {"name": "a few examples", "ok": False, "text": f"8 examples: the loss stays at 1.9 {HOSTILE}"},
            ],
            "steps_per_second": 3000.0,
        },
        "plan": {"steps": STEPS, "batch_size": 32, "trials": 16, "rungs": [75, 300, 1200], "text": ["80 trials"]},
        "pruning": {
            "text": "41 trials were cut early. 5 of them, drawn at random, were run to their end all the same: 0 would "
            "have beaten the survivors of its algorithm (95 % interval of the share: 0% to 52%).",
            "controls": 5, "would_have_won": 0, "low": 0.0, "high": 0.52,
        },
        "remarks": [
            {"kind": "edge", "text": "lion: its best lr, 1e-05, is the smallest that was tried.", "algorithm": "lion"},
            {"kind": "validation set", "text": f"359 examples say ±0.014 {HOSTILE}", "algorithm": None},
        ],
        "final": {
            "algorithm": "adam", "seed": 99, "valid_loss": 0.071, "valid_metric": 0.9805, "test_loss": 0.083,
            "test_metric": 0.9722, "steps": STEPS, "best_step": 1100, "train_loss": 0.004,
        },
        "machine": {
            "cpu": f"Some CPU {HOSTILE}", "cores": 2, "system": "Linux", "python": "3.11.2", "torch": "2.13.0",
            "numpy": "2.4.0", "numba": "0.65.0", "thalweg": "0.1.0", "execution": {"adam": "numba", "sgd": "numba"},
        },
        "times": {"wall_seconds": 148.2, "cpu_seconds": 281.0},
    }  # fmt: skip


def confirmed(searched: list[Trial], seeds: int = 5) -> list[Trial]:
    """The best of each algorithm on fresh seeds."""
    made = []
    for name in ALGORITHMS:
        ended = [t for t in searched if t.algorithm == name and t.outcome == "finished" and not t.control]
        best = max(ended, key=lambda t: max(p.valid_metric for p in t.curve))
        made += [trial(f"confirmation/{name}/{i:02d}", best.recipe, 100 + i) for i in range(seeds)]
    return made


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    """Five algorithms with 16 trials each, confirmed on five seeds, come to its end."""
    searched = [t for name in ALGORITHMS for t in search(name, 16)]
    searched[3] = Trial(**{**vars(searched[3]), "outcome": "failed", "curve": [], "message": HOSTILE})
    facts = {**facts_of_problem(), **facts_of_end()}
    return write(tmp_path_factory.mktemp("study"), facts, [*searched, *confirmed(searched)])


@pytest.fixture(scope="session")
def stopped(tmp_path_factory) -> Study:
    """A study that was stopped during screening."""
    return write(tmp_path_factory.mktemp("stopped"), facts_of_problem(), search("adam", 4))


def findings() -> list[Seen]:
    """One of each severity and more: causes with what they explain, exact figures, and intervals without an end."""
    made = [
        ("sorted data", "critical", Measured(60.0, 55.0, 66.0, 90), "start", ""),
        ("plateau", "warning", Measured(0.01, -0.2, 0.3, 20), "run", ""),
        ("dead units", "warning", exactly(0.68), "start", f"layers {HOSTILE}"),
        ("dead units", "warning", exactly(0.51), "end", "layers.1"),
        ("curvature not resolved", "unclear", Measured(12.0, 4.0, math.inf, 3), "end", ""),
        ("gradient noise", "unclear", Measured(math.nan, -math.inf, math.inf, 1), "end", ""),
        ("signal propagation", "note", Measured(1.2, 1.1, 1.3, 3), "start", ""),
    ]
    return [
        Seen(
            Finding(
                name, f"what of {name} {HOSTILE}", severity, measured, f"a rule {HOSTILE}", f"Kish 1965 {HOSTILE}",
                "8.1.3", f"an advice {HOSTILE}", where,
            ),
            stage,
        )
        for name, severity, measured, stage, where in made
    ]  # fmt: skip


def measurements() -> dict:
    """Small ones, of every kind that has a picture."""
    module = torch.nn.Sequential()
    for name in ("first", HOSTILE.replace(".", ""), "last"):
        module.add_module(name, torch.nn.Linear(4, 4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    batch = Batch(*torch.randn(2, 32, 4, generator=generator))
    signal = propagation.signal(Network(module, torch.nn.functional.mse_loss), batch)
    spectra = [
        curvature.spectrum(curvature.Quadratic(values), torch.zeros(len(values), dtype=torch.float64))
        for values in ([-0.2, 0.0, 0.01, 0.5, 3.0], [0.1, 0.2, 30.0])
    ]
    noise = [
        NoiseAt(step, inexact.Noise(exactly(1.0), exactly(1.0), Measured(scale, scale / 2, high, 8), 8))
        for step, scale, high in ((10, 4.0, 8.0), (20, 40.0, 90.0), (30, math.inf, math.inf))
    ]
    steps = torch.arange(1, 31)
    weights = [
        Updated(name, Measured(r, 0.7 * r, 1.3 * r, 30), 2 * r, r / 2) for name, r in (("first", 1e-3), ("last", 9e-2))
    ]
    judged = torch.tensor([[2.0], [1.0], [0.5]])
    course = Course(
        steps, 2.0 / steps, 1.0 + steps % 3, torch.zeros(len(steps), 0), [], noise, [0, 15, 30], judged, judged / 2
    )
    bowl = curvature.Quadratic([1.0, 30.0])
    theta = torch.ones(2, dtype=torch.float64)
    line = slices.line(bowl, theta, -0.1 * bowl.A @ theta)
    axes = torch.linalg.eigh(bowl.A).eigenvectors.T
    plane = slices.plane(bowl, 0 * theta, *axes, 1.0, (f"flat {HOSTILE}", "steep"), points=5)
    return {
        "start": {"signal": signal, "spectrum": spectra[0], "line": line, "plane": plane, "refused": None},
        "run": {"course": course, "updates": Updates(tuple(weights), 30)},
        "end": {"signal": signal, "spectrum": spectra[1]},
    }


@pytest.fixture(scope="session")
def diagnosis() -> Diagnosis:
    """Findings of each severity, some of them tried, with every picture and something that could not be measured."""
    tried = {
        "sorted data": Tried({"shuffle": True}, 200, (1.9, 2.0, math.inf), (0.4, 0.6, 0.3)),
        "dead units": f"it cannot be tried {HOSTILE}",
    }
    recipe = Recipe("sgd", 510, 8, {"lr": 0.1}, shuffle=False)
    refused = {f"spectrum, end {HOSTILE}": f"no second derivatives {HOSTILE}"}
    cost = Cost(12.3, 4000.0, 30)
    return Diagnosis(f"digits {HOSTILE}", recipe, 7, causes(findings()), measurements(), refused, tried, cost)


VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """What a browser would see: elements with attributes, the text outside of scripts, and whether tags match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(page)
        self.close()
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.words.append(data)

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture(scope="session")
def reader():
    return Reader


FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        assert "CI" not in os.environ, "no Chromium was found: continuous integration must look at the report in one"
        pytest.skip("no Chromium was found (chromium, chromium-browser, google-chrome)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def window(browser):
    """Opens a page in a window of its own; at the end nothing may have been said or asked for."""
    pages = []

    def open_(address, width=1180, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, reduced_motion="reduce", **options)
        page.said, page.asked, page.address = [], [], address
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: page.said.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        asked = [url for url in page.asked if not url.startswith("data:")]
        page.close()
        assert page.said == [] and asked == [page.address]


@pytest.fixture
def contrast():
    return _contrast


def _contrast(page, selector, part=None):
    """WCAG's contrast of an element's colour (or of the swatch before it) with the page's ground."""
    colours = page.evaluate(
        """([selector, part]) => {
            const style = getComputedStyle(document.querySelector(selector), part);
            return [part ? style.backgroundColor : style.color, getComputedStyle(document.body).backgroundColor];
        }""",
        [selector, part],
    )
    bright, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour):
    shares = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
