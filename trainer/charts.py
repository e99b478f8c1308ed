"""Curves as SVG for a page: no script, and the page's own colours, so that light and dark fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from pipeline import page
from trainer.curves import Point

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 350, 10, 184
"""The edges of the area that the lines are drawn in."""

_SMALL_WIDTH, _SMALL_HEIGHT = 150, 44
_NUM_MARKED = 40
"""Points that a line may have for each to be marked, and tell its value under the pointer."""

STYLE = """
.charts {
  display: grid; gap: 8px 28px; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr));
}
.charts.small { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 4px 20px; }
.charts figure { margin: 10px 0; }
.charts svg { display: block; width: 100%; height: auto; overflow: visible; }
.charts text { fill: var(--quiet); font-size: 11px; font-variant-numeric: tabular-nums; }
.charts .end { text-anchor: end; } .charts .middle { text-anchor: middle; }
.charts .grid { stroke: var(--line); stroke-width: 1; }
.charts path { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.charts .line-0 { stroke: var(--accent); } .charts circle.line-0 { fill: var(--accent); }
.charts .line-1 { stroke: var(--warn-line); } .charts circle.line-1 { fill: var(--warn-line); }
.charts .name { display: flex; gap: 6px; align-items: baseline; color: var(--ink); }
.charts .name span { flex: 1; overflow-wrap: anywhere; }
.charts .key { display: inline-block; width: 18px; height: 0; margin: 0 6px 4px 12px;
  border-top: 3px solid; }
.charts .key.line-0 { border-color: var(--accent); }
.charts .key.line-1 { border-color: var(--warn-line); }
"""


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: what it shows, and its points by their steps, at least one of them."""

    name: str
    points: Sequence[Point]


def chart(title: str, lines: Sequence[Line], highest: float | None = None) -> str:
    """One or two curves of numbers that are 0 or more, over the steps.

    Args:
      title: Of the chart.
      lines: Its curves.
      highest: Where the axis ends; by default where the highest point needs it.
    """
    top_value = highest or max(point.value for line in lines for point in line.points)
    values = _ticks(top_value)
    steps = _ticks(max(line.points[-1].step for line in lines))
    area = _Area(_LEFT, _RIGHT, _TOP, _BOTTOM, steps[-1], highest or values[-1])
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
        f'<text class="end" x="{_LEFT - 7}" y="{y + 4:.1f}">{value:g}</text>'
        for value in values
        for y in [area.y(value)]
        if value <= area.highest
    )
    grid += "".join(
        f'<text class="middle" x="{area.x(step):.1f}" y="{_BOTTOM + 17}">{step:,.0f}</text>'
        for step in steps
    )
    curves = "".join(_curve(line, area, number) for number, line in enumerate(lines))
    keys = "".join(
        f'<i class="key line-{number}"></i>{page.text(line.name)}'
        for number, line in enumerate(lines)
        if len(lines) > 1
    )
    return (
        f"<figure><figcaption><b>{page.text(title)}</b>{keys}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{page.text(title)}, '
        f'by step">{grid}{curves}</svg></figure>'
    )


def small_chart(line: Line, color: Sequence[int]) -> str:
    """A curve of shares, 0 to 1, with its last value; the colour, RGB, stands beside its name."""
    last = line.points[-1]
    area = _Area(2, _SMALL_WIDTH - 4, 4, _SMALL_HEIGHT - 4, max(last.step, 1), 1.0)
    grid = "".join(
        f'<path class="grid" d="M0 {y:g}H{_SMALL_WIDTH}"/>' for y in (area.top, area.bottom)
    )
    return (
        f'<figure><figcaption class="name">{page.swatch(color)}<span>{page.text(line.name)}</span>'
        f"{last.value:.3f}</figcaption>"
        f'<svg viewBox="0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}" role="img" aria-label="IoU of '
        f'{page.text(line.name)}, by step">{grid}{_curve(line, area, 0)}</svg></figure>'
    )


@dataclasses.dataclass(frozen=True)
class _Area:
    """Where in a picture the values 0 to `highest` of the steps 0 to `last_step` lie."""

    left: float
    right: float
    top: float
    bottom: float
    last_step: float
    highest: float

    def x(self, step: float) -> float:
        return self.left + (self.right - self.left) * step / self.last_step

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.highest


def _curve(line: Line, area: _Area, number: int) -> str:
    places = [(area.x(point.step), area.y(point.value)) for point in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle class="line-{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.2">'
        f"<title>{page.text(line.name)} {point.value:.4g}, step {point.step:,}</title></circle>"
        for (x, y), point in zip(places, line.points, strict=True)
        if len(places) <= _NUM_MARKED
    )
    return f'<path class="line-{number}" d="M{path}"/>{marks}'


def _ticks(highest: float) -> list[float]:
    """Round numbers from 0 to the first that is not below `highest`, four to eight of them."""
    if highest <= 0:
        return [0.0, 1.0]
    size = 10 ** math.floor(math.log10(highest / 4))
    interval = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= highest / 5 * (1 - 1e-9))
    return [interval * n for n in range(math.ceil(highest / interval * (1 - 1e-9)) + 1)]
