"""Line charts as SVG, drawn by plain code: the pictures of these pages are the same wherever they are made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 680, 340
LEFT, RIGHT, TOP, BOTTOM = 76, 190, 34, 46  # margins; the names of the lines stand in the right one
STYLE = """
text { font: 13px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #56626e; }
.title { font-weight: 600; fill: #18222d; }
.paper { fill: #ffffff; } .grid { stroke: #e9e8e1; } path { fill: none; stroke-width: 2; }
.c0 { stroke: #0d7490; fill: #0d7490; } .c1 { stroke: #b54a0a; fill: #b54a0a; } .c2 { stroke: #6f3fc4; fill: #6f3fc4; }
.c3 { stroke: #2f7d32; fill: #2f7d32; } .c4 { stroke: #bf2470; fill: #bf2470; } .c5 { stroke: #8f6a00; fill: #8f6a00; }
path.c0, path.c1, path.c2, path.c3, path.c4, path.c5 { fill: none; } text.c0, text.c1, text.c2, text.c3, text.c4,
text.c5 { stroke: none; } .dashed { stroke-dasharray: 5 4; }
@media (prefers-color-scheme: dark) {
text { fill: #a0acb7; } .title { fill: #e7ebee; } .paper { fill: #161e26; } .grid { stroke: #232d37; }
.c0 { stroke: #4fc0de; fill: #4fc0de; } .c1 { stroke: #ff9752; fill: #ff9752; } .c2 { stroke: #b69aff; fill: #b69aff; }
.c3 { stroke: #66cc74; fill: #66cc74; } .c4 { stroke: #ff7db4; fill: #ff7db4; } .c5 { stroke: #e0b83f; fill: #e0b83f; }
}
"""


class Line(NamedTuple):
    """A line of a chart; what is not finite is left out of it. A dashed one is a theory's."""

    name: str
    x: list[float]
    y: list[float]
    dashed: bool = False


class Chart(NamedTuple):
    """Lines over one axis, and what is written beside them."""

    title: str
    x: str
    y: str
    lines: list[Line]
    log_x: bool = False
    log_y: bool = False


class Axis(NamedTuple):
    """Where a value lies between two places of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high, value = (math.log10(v) for v in (self.low, self.high, value)) if self.log else (*self[:2], value)
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)

    def ticks(self) -> Iterator[float]:
        """Round values on it: decades, or about five steps of 1, 2 or 5 times a power of ten."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, (last - first + 5) // 6)
            yield from (10.0**k for k in range(first, last + 1, stride))
            return
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.99)
        yield from (k * step for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1))


def svg(chart: Chart) -> str:
    """The picture of a chart."""
    xs = [x for line in chart.lines for x in line.x]
    ys = [y for line in chart.lines for y in line.y if math.isfinite(y)]
    bottom = 10 ** math.floor(math.log10(min(ys))) if chart.log_y else min(0.0, *ys)
    top = 10 ** math.ceil(math.log10(max(ys)) - 1e-9) if chart.log_y else max(ys) * 1.05
    across = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, chart.log_x)
    up = Axis(bottom, top, HEIGHT - BOTTOM, TOP, chart.log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(chart.title)}</title><style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="20">{escape(chart.title)}</text>',
        *_axes(chart, across, up),
        *_lines(chart, across, up),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _axes(chart: Chart, across: Axis, up: Axis) -> Iterator[str]:
    for value in up.ticks():
        y = f"{up.at(value):.1f}"
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{LEFT - 8}" y="{y}" dy="4" text-anchor="end">{value:g}</text>'
    for value in sorted({x for line in chart.lines for x in line.x}) if len(chart.lines[0].x) < 7 else across.ticks():
        yield f'<text x="{across.at(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart.x)}</text>'
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield f'<text transform="translate(16 {middle:g}) rotate(-90)" text-anchor="middle">{escape(chart.y)}</text>'


def _lines(chart: Chart, across: Axis, up: Axis) -> Iterator[str]:
    named: list[tuple[float, int, str]] = []
    for i, line in enumerate(chart.lines):
        points = [(across.at(x), up.at(y)) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = " dashed" if line.dashed else ""
        yield f'<path class="c{i % 6}{dashed}" d="M{places}"/>'
        if len(points) < 20 and not line.dashed:
            yield from (f'<circle class="c{i % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
        named.append((points[-1][1], i, line.name))
    last = -math.inf
    for y, i, name in sorted(named):
        last = max(y, last + 16)  # names do not lie on each other
        yield f'<text class="c{i % 6}" x="{WIDTH - RIGHT + 10}" y="{last:.1f}" dy="4">{escape(name)}</text>'
