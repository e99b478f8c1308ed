"""Curves lie where their numbers say, and names in them are only text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.html_page import Page
from trainer import charts
from trainer.charts import Line
from trainer.curves import Point


def line(name, *values, interval=10):
    return Line(name, [Point(step * interval, 0.0, value) for step, value in enumerate(values)])


def places(svg):
    """The points of each line: [(x, y), ...]."""
    paths = re.findall(r'<path class="line-\d" d="M([^"]*)"', svg)
    return [[tuple(map(float, p.split())) for p in path.split("L")] for path in paths]


def labels(svg):
    """The numbers at the axes, y and x, with their places."""
    found = re.findall(r'<text class="(end|middle)" x="([\d.]+)" y="([\d.]+)">([\d.e,+-]+)<', svg)
    numbers = [(kind, float(x), float(y), float(n.replace(",", ""))) for kind, x, y, n in found]
    return [[row[1:] for row in numbers if row[0] == kind] for kind in ("end", "middle")]


@given(
    st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=50),
    st.integers(1, 10_000),
)
def test_a_point_lies_at_its_step_and_value(values, interval):
    values = [0.0 if value < 1e-6 else value for value in values]
    svg = charts.chart("Loss", [line("loss", *values, interval=interval)])
    rows, columns = labels(svg)
    (_, y0, _), (_, y1, high) = rows[0], rows[-1]
    (x0, _, _), (x1, _, last) = columns[0], columns[-1]
    assert high >= max(values) * (1 - 1e-6) and last >= (len(values) - 1) * interval
    assert 2 <= len(rows) <= 9 and 2 <= len(columns) <= 9
    ((*found,),) = places(svg)
    for (x, y), step, value in zip(found, range(len(values)), values, strict=True):
        assert x == pytest.approx(x0 + (x1 - x0) * step * interval / last, abs=0.2)
        # The axis' numbers are written with six digits, and stand four below their line.
        assert y == pytest.approx(y0 - 4 + (y1 - y0) * value / high, abs=0.2)


def test_an_axis_ends_where_it_is_told():
    svg = charts.chart("Validation", [line("mIoU", 0.0, 0.35), line("accuracy", 0.1, 0.7)], 1.0)
    rows, _ = labels(svg)
    assert [number for _, _, number in rows] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert len(places(svg)) == 2
    assert re.findall(r"<title>(.*?)</title>", svg) == [
        "mIoU 0, step 0", "mIoU 0.35, step 10", "accuracy 0.1, step 0", "accuracy 0.7, step 10",
    ]  # fmt: skip


def test_a_long_line_is_not_marked_and_one_line_needs_no_key():
    svg = charts.chart("Loss", [line("loss", *range(41))])
    assert "<circle" not in svg and "key line" not in svg
    assert len(places(svg)[0]) == 41


def test_a_small_chart_says_its_last_value():
    svg = charts.small_chart(line("road", 0.0, 1.0, 0.4567), (128, 64, 128))
    assert "0.457" in svg and "#804080" in svg
    (bottom, top, _) = (y for _, y in places(svg)[0])
    assert (bottom, top) == (40, 4)


def test_names_are_only_text():
    svg = charts.chart("<b>", [line("<u>", 1.0), line('"><i>', 1.0)])
    svg += charts.small_chart(line('"<s>', 0.5), (0, 0, 0))
    tags = [tag for tag, _ in Page(svg).tags]
    assert {"u", "s"}.isdisjoint(tags)
    assert tags.count("b") == 1 and all(a.keys() == {"class"} or "style" in a
                                        for tag, a in Page(svg).tags if tag == "i")  # fmt: skip
