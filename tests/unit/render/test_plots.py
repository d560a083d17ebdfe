from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from trainer.render.plots import (
    Bar,
    Mark,
    Point,
    Series,
    bar_chart,
    histogram,
    interval_strip,
    line_chart,
    nice_ticks,
    smooth,
    thin,
)


def draw(points: list[Point]) -> str:
    svg = str(line_chart([Series("train", points, "first")], x_label="step", y_label="loss"))
    if svg:
        ElementTree.fromstring(svg)
    return svg


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(0, 0.0)],
        [(0, 0.7), (1, 0.7), (2, 0.7)],
        [(5, 1.0), (5, 2.0)],
        [(1, 1e-12), (2, 2e-12)],
        [(1, -1e14), (2, 1e14)],
        [(1, 1.0), (2, 1.0 + 1e-16)],
    ],
)
def test_a_degenerate_series_is_drawn_with_finite_coordinates(points: list[Point]) -> None:
    svg = draw(points)
    assert "<polyline" in svg
    assert "nan" not in svg and "inf" not in svg


def test_points_that_are_not_finite_are_left_out() -> None:
    assert draw([(1, 1.0), (2, math.nan), (3, math.inf), (4, 0.5)]).count(",") == draw([(1, 1.0), (4, 0.5)]).count(",")


def test_without_a_finite_point_there_is_no_chart() -> None:
    assert draw([]) == "" and draw([(1, math.nan)]) == ""
    assert histogram([0, 1], [0], x_label="", y_label="") == ""
    assert bar_chart([]) == ""


def test_ticks_are_round_and_inside_the_range() -> None:
    assert nice_ticks(0.13, 1.9) == [0.5, 1.0, 1.5]
    assert nice_ticks(1, 3, whole=True) == [1, 2, 3]
    assert nice_ticks(2.0, 2.0) == [2.0]


def test_smoothing_keeps_a_line_straight_and_both_ends() -> None:
    line = [(float(x), 3.0 * x) for x in range(50)]
    assert [y for _, y in smooth(line, radius=7)] == pytest.approx([y for _, y in line])


def test_smoothing_averages_its_window() -> None:
    assert smooth([(0, 0.0), (1, 3.0), (2, 0.0)], radius=1) == [(0, 0.0), (1, 1.0), (2, 0.0)]


def test_thinning_bounds_the_points_and_keeps_spikes_in_order() -> None:
    points = [(float(x), 99.0 if x == 5000 else 1.0) for x in range(10_000)]
    kept = thin(points)
    assert len(kept) <= 602 and (5000.0, 99.0) in kept and kept == sorted(kept)


def test_labels_are_escaped() -> None:
    assert "<script>" not in bar_chart([Bar("<script>", 1, "<script>")])
    assert "<script>" not in line_chart([Series("<script>", [(1, 1)], "first")], x_label="<script>", y_label="<script>")


def test_labels_of_lines_that_end_together_do_not_overlap() -> None:
    lines = [Series(name, [(0, 1.0), (1, 0.5)], "first") for name in ("train", "validation")]
    root = ElementTree.fromstring(line_chart(lines, x_label="step", y_label="loss"))
    heights = [float(text.attrib["y"]) for text in root.iter("text") if "name" in text.attrib["class"]]
    assert abs(heights[0] - heights[1]) >= 15


def test_bars_of_zero_and_of_nonsense_keep_their_text() -> None:
    svg = bar_chart([Bar("eval", 0.0, "not run", muted=True), Bar("train", math.nan, "odd")])
    assert "not run" in svg and "odd" in svg and "nan" not in svg


def test_a_histogram_has_one_bar_for_each_count() -> None:
    assert histogram([0, 1, 2, 4], [3, 0, 5], x_label="tokens", y_label="rows").count("<rect") == 3


def test_marks_outside_the_strip_are_held_at_its_edge() -> None:
    root = ElementTree.fromstring(interval_strip([Mark(1.7, -1.0, 2.0, "first")]))
    assert [float(dot.attrib["cx"]) for dot in root.iter("circle")] == [174.0]
