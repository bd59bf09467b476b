"""Makes the figures and tables of initialisation.md anew, from the code: python docs/initialisation_figures.py

What a figure shows is measured when it is made, in seconds; a test fails where the page says something else.
"""

from __future__ import annotations

import math
import re
import runpy
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import thalweg as tw
from thalweg.initialise.model import initialise
from thalweg.initialise.orthogonal import orthogonal
from thalweg.initialise.schemes import SCHEMES
from thalweg.initialise.sparse import sparse
from thalweg.initialise.variance import he_normal, lecun_normal
from thalweg.initialise.weight import Scheme, dense, scaled
from thalweg.initialise.width import groups, mup, widths

HERE = Path(__file__).parent
PAGE = HERE / "initialisation.md"
PLACE = re.compile(r"(?<=<!-- made: )(?P<name>[\w ]+)( -->\n)(?P<rows>.*?)(?=<!-- end -->)", re.DOTALL)
DRAWING = runpy.run_path(str(HERE / "line_chart.py"))
Chart, Line, svg = DRAWING["Chart"], DRAWING["Line"], DRAWING["svg"]


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def deep(width: int, depth: int, phi: type[nn.Module], scheme: str) -> nn.Sequential:
    """Layers of one width, each with its nonlinearity."""
    model = nn.Sequential(*(part for _ in range(depth) for part in (nn.Linear(width, width), phi())))
    initialise(model, scheme)
    return model


@cache
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


# Glorot and Bengio 2010, figures 6 and 7


def singular_values(scheme: str, width: int = 500) -> list[float]:
    """The mean singular value of each layer's Jacobian, of a net of five layers of tanh."""
    x, means = drawn(2, width), []
    with torch.no_grad():
        for layer in deep(width, 5, nn.Tanh, scheme)[::2]:
            x = torch.tanh(layer(x))
            means.append(float(torch.linalg.svdvals((1 - x * x)[:, :, None] * layer.weight).mean()))
    return means


def glorot() -> Any:
    named = {"standard": "standard_uniform", "normalised (Glorot)": "glorot_uniform"}
    lines = [Line(name, [1, 2, 3, 4, 5], singular_values(scheme)) for name, scheme in named.items()]
    return Chart("Mean singular value of a layer's Jacobian, tanh", "layer", "singular value", lines)


# He et al. 2015


def mean_squares(scheme: str, depth: int = 30, width: int = 512) -> list[float]:
    """The mean square of what comes out of each layer of ReLU, of inputs N(0, 1)."""
    x, means = drawn(128, width), []
    with torch.no_grad():
        for layer in deep(width, depth, nn.ReLU, scheme)[::2]:
            x = torch.relu(layer(x))
            means.append(float(x.square().mean()))
    return means


def he() -> Any:
    layers = [float(layer) for layer in range(1, 31)]
    named = {"Glorot": "glorot_normal", "He": "he_normal", "orthogonal, gain √2": "orthogonal_relu"}
    lines = [Line(name, layers, mean_squares(scheme)) for name, scheme in named.items()]
    theory = Line("2 to the minus layer", layers, [2.0**-layer for layer in layers], dashed=True)
    return Chart("How large the signal is, ReLU", "layer", "E[x²]", [*lines, theory], log_y=True)


# Saxe et al. 2014, equation 6

STRENGTHS, FIRST, RATE, UNTIL = (3.0, 2.0, 1.0, 0.5), 0.01, 1e-3, 12.0


def learnt(s: float, t: float) -> float:
    """How strong a mode of strength s is after time t, exactly."""
    grown = math.exp(2 * s * t)
    return s * grown / (grown - 1 + s / FIRST)


def descended() -> list[list[float]]:
    """The strengths at every hundredth step of gradient descent on two linear layers; time is steps times lr."""
    target = torch.diag(torch.tensor(STRENGTHS, dtype=torch.float64))
    w1 = w2 = math.sqrt(FIRST) * torch.eye(len(STRENGTHS), dtype=torch.float64)
    seen = []
    for step in range(round(UNTIL / RATE) + 1):
        if step % 100 == 0:
            seen.append((w2 @ w1).diagonal().tolist())
        error = target - w2 @ w1
        w1, w2 = w1 + RATE * w2.T @ error, w2 + RATE * error @ w1.T
    return seen


def saxe() -> Any:
    seen = descended()
    times = [100 * RATE * i for i in range(len(seen))]
    lines = [Line(f"strength {s:g}", times, [row[i] for row in seen]) for i, s in enumerate(STRENGTHS)]
    return Chart("A deep linear net learns its strong modes first", "time (steps times lr)", "learnt strength", lines)


# Saxe et al. 2014: learning time and depth

DEPTHS, MODES, ENOUGH, MOST = (3, 10, 25, 50), 40, 0.05, 400


@cache
def correlation() -> Tensor:
    """Of the digits' classes with 40 whitened directions of their pixels: all that a linear net learns from."""
    pixels, labels = digits()
    x, y = pixels[:500] - pixels[:500].mean(0), nn.functional.one_hot(labels[:500]).float()
    whitened = torch.linalg.svd(x, full_matrices=False)[0][:, :MODES] * math.sqrt(500)
    return (y - y.mean(0)).T @ whitened / 500


def steps_to_learn(depth: int, scheme: Scheme, rates: Sequence[float] = (1.4, 1.0, 0.5)) -> float:
    """Steps until a linear net of so many layers has learnt all but 5 %, at the best of some rates over the depth."""
    return min(_steps(depth, scheme, rate / depth) for rate in rates)


def _steps(depth: int, scheme: Scheme, lr: float) -> float:
    generator, target = torch.Generator().manual_seed(0), correlation()
    sizes = [MODES] * depth + [len(target)]
    weights = [scheme(dense(b, a), generator).float() for a, b in pairwise(sizes)]
    for step in range(MOST):
        below = [torch.eye(MODES)]
        for w in weights:
            below.append(w @ below[-1])
        error = below[-1] - target
        left = float(error.square().sum() / target.square().sum())
        if left < ENOUGH or not left < 1e6:
            return step if left < ENOUGH else math.inf
        for i in reversed(range(depth)):
            g, error = error @ below[i].T, weights[i].T @ error
            weights[i] = weights[i] - lr * g
    return math.inf


def depth() -> Any:
    named = {"orthogonal": orthogonal, "Gaussian of variance 1/m": lecun_normal}
    xs = [float(d) for d in DEPTHS]
    lines = [Line(name, xs, [steps_to_learn(d, scheme) for d in DEPTHS]) for name, scheme in named.items()]
    return Chart("How long linear nets take to learn the digits", "layers", "steps", lines)


# Sutskever et al. 2013, table 3

SCALES, SIZES = (0.25, 0.5, 1.0, 2.0, 4.0), (64, 120, 60, 30, 8)


def autoencoder(scheme: Scheme) -> nn.Sequential:
    """64-120-60-30-8 and back, of sigmoids; the code is linear, the outputs are logits."""
    sizes = [*SIZES, *SIZES[-2::-1]]
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        linear = i in (len(SIZES) - 2, len(sizes) - 2)
        layers += [nn.Linear(inputs, outputs)] if linear else [nn.Linear(inputs, outputs), nn.Sigmoid()]
    model = nn.Sequential(*layers)
    initialise(model, scheme)
    return model


def error_after(scale: float, lr: float, steps: int = 500) -> float:
    """The squared error an image of the autoencoder from sparse weights times a scale, after some steps of Nesterov."""
    pixels, _ = digits()
    model, generator = autoencoder(scaled(sparse, scale)), torch.Generator().manual_seed(0)
    network = tw.Network(model, lambda z, x: nn.functional.binary_cross_entropy_with_logits(z, x) * x.shape[1])
    batches = (pixels[torch.randint(len(pixels), (200,), generator=generator)] for _ in range(steps))
    for _ in tw.descend(network, tw.nesterov, (tw.Batch(x, x) for x in batches), lr=lr, momentum=0.9):
        pass
    return float((torch.sigmoid(network.outputs(pixels)) - pixels).square().sum(1).mean())


def mean_image() -> float:
    """The squared error of answering the mean image to everything."""
    pixels, _ = digits()
    return float((pixels - pixels.mean(0)).square().sum(1).mean())


def cliff() -> Any:
    errors = [min(error_after(scale, lr) for lr in (0.03, 0.01)) for scale in SCALES]
    always = Line("the mean image", list(SCALES), [mean_image()] * len(SCALES), dashed=True)
    lines = [Line("after 500 steps", list(SCALES), errors), always]
    return Chart("The scale of a sparse initialisation decides", "times N(0, 1)", "squared error an image", lines, True)


# Yang et al. 2022, figure 1

BASE, WIDTHS, RATES = 32, (32, 128, 512), tuple(2.0**k for k in range(-11, -3))


def loss_after(width: int, lr: float, by_width: bool, steps: int = 40) -> float:
    """The mean loss of the last ten steps of Adam, of a net of ReLU on the digits."""
    pixels, labels = digits()
    model, base = (
        nn.Sequential(nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(),
                      nn.Linear(n, 10)) for n in (width, BASE)
    )  # fmt: skip
    initialise(model, mup(he_normal, model, base) if by_width else he_normal)
    found = groups(model, widths(model, base), lr, "adam") if by_width else model.parameters()
    optimizer, generator, last = torch.optim.Adam(found, lr=lr), torch.Generator().manual_seed(0), []
    for step in range(steps):
        rows = torch.randint(len(pixels), (64,), generator=generator)
        loss = nn.functional.cross_entropy(model(pixels[rows] - pixels.mean(0)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= steps - 10:
            last.append(min(loss.item(), 3.0))
    return sum(last) / len(last)


def _sweeps(title: str, by_width: bool) -> Any:
    lines = [Line(f"width {n}", list(RATES), [loss_after(n, lr, by_width) for lr in RATES]) for n in WIDTHS]
    return Chart(title, "lr of Adam", "loss", lines, log_x=True, log_y=True)


def he_widths() -> Any:
    return _sweeps("He's initialisation: the best lr falls with the width", by_width=False)


def mup_widths() -> Any:
    return _sweeps("μP: the best lr stays", by_width=True)


FIGURES: dict[str, Callable[[], Any]] = {
    "glorot": cache(glorot), "he": cache(he), "saxe": cache(saxe), "depth": cache(depth), "cliff": cache(cliff),
    "he widths": cache(he_widths), "mup widths": cache(mup_widths),
}  # fmt: skip


def table(chart: Any, columns: int = 8) -> str:
    """The figures of a chart as Markdown: lines below each other, at some of their places."""
    xs = chart.lines[0].x
    shown = [round(i * (len(xs) - 1) / (min(columns, len(xs)) - 1)) for i in range(min(columns, len(xs)))]
    head = [chart.x, *(f"{xs[i]:.3g}" for i in shown)]
    rows = [[line.name, *(_short(line.y[i]) for i in shown)] for line in chart.lines]
    return _markdown(head, *rows)


def _short(value: float) -> str:
    return f"{value:.0f}" if 10 <= value < math.inf else f"{value:.2g}"


def schemes() -> str:
    rows = [[f"`{entry.name}`", entry.section, entry.summary] for entry in SCHEMES.values()]
    return _markdown(["scheme", "section", "what it is"], *rows)


def _markdown(head: Sequence[str], *rows: Sequence[str]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def made(name: str) -> str:
    """What stands on the page under a name: a picture and its figures, or the catalogue."""
    if name == "schemes":
        return schemes()
    chart = FIGURES[name]()
    return f"\n![{chart.title}]({picture(name)})\n\n{table(chart)}\n"


def picture(name: str) -> str:
    return f"figures/initialisation_{name.replace(' ', '_')}.svg"


if __name__ == "__main__":
    for figure, make in FIGURES.items():
        (HERE / picture(figure)).write_text(svg(make()), encoding="utf-8")
    old = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PLACE.sub(lambda m: m["name"] + m[2] + made(m["name"]), old), encoding="utf-8")
