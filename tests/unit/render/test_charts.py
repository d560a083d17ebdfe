from __future__ import annotations

import html
import json
import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from trainer.render.charts import (
    TABLE_ROWS,
    Bar,
    Mark,
    Point,
    Series,
    bar_chart,
    histogram,
    interval_strip,
    line_chart,
    smooth,
    thin,
    value_table,
)


def chart_of(*lines: Series, **options: Any) -> dict[str, Any]:
    drawn = str(line_chart(lines, x_label="step", y_label="loss", **options))
    match = re.search(r'data-chart="([^"]*)"', drawn)
    assert match is not None, drawn
    chart = json.loads(html.unescape(match[1]), parse_constant=lambda name: pytest.fail(name))
    assert isinstance(chart, dict)
    return chart


def bars_of(drawn: str) -> list[tuple[str, str]]:
    table = ElementTree.fromstring(drawn)
    return [(str(row.findtext("th")), str(row.findall("td")[-1].text)) for row in table.find("tbody") or []]


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(0, 0.0)],
        [(0, 0.7), (1, 0.7)],
        [(5, 1.0), (5, 2.0)],
        [(1, 1e-12), (2, 2e-12)],
        [(1, -1e14), (2, 1e14)],
    ],
    ids=["one point", "zero", "constant", "one x", "tiny", "huge"],
)
def test_a_degenerate_series_is_drawn(points: list[Point]) -> None:
    chart = chart_of(Series("train", points, "first"))
    assert len(chart["x"]) == len(chart["series"][0]["y"]) == len(dict(points))


def test_points_that_are_not_finite_are_left_out() -> None:
    chart = chart_of(Series("train", [(1, 1.0), (2, math.nan), (3, math.inf), (4, 0.5)], "first"))
    assert chart["x"] == [1, 4] and chart["series"][0]["y"] == [1.0, 0.5]


def test_without_a_finite_point_there_is_no_chart() -> None:
    for points in ([], [(1, math.nan)]):
        assert line_chart([Series("train", points, "first")], x_label="step", y_label="loss") == ""
    assert histogram([0, 1], [0], unit="tokens") == "" and bar_chart([]) == ""


def test_lines_with_steps_of_their_own_share_one_axis() -> None:
    chart = chart_of(Series("train", [(1, 3.0), (3, 1.0)], "first"), Series("validation", [(2, 2.0)], "second"))
    assert chart["x"] == [1, 2, 3]
    assert [line["y"] for line in chart["series"]] == [[3.0, None, 1.0], [None, 2.0, None]]


def test_a_long_run_stays_small_and_keeps_its_spikes() -> None:
    points = [(float(step), 1.0) for step in range(100_000)]
    points[5000] = (5000.0, 99.0)
    thinned = thin(points)
    assert len(thinned) <= 602 and (5000.0, 99.0) in thinned and thinned == sorted(thinned)
    assert len(str(line_chart([Series("train", points, "first")], x_label="step", y_label="loss"))) < 20_000


def test_smoothing_keeps_a_line_straight_and_averages_its_window() -> None:
    line = [(float(x), 3.0 * x) for x in range(50)]
    assert [y for _, y in smooth(line, radius=7)] == pytest.approx([y for _, y in line])
    assert smooth([(0, 0.0), (1, 3.0), (2, 0.0)], radius=1) == [(0, 0.0), (1, 1.0), (2, 0.0)]


def test_labels_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    drawn = [
        str(bar_chart([Bar(evil, 1, evil)], head=(evil, evil))),
        str(line_chart([Series(evil, [(1, 1)], "first")], x_label=evil, y_label=evil, marks={evil: 1.0})),
    ]
    assert not any("<script" in text for text in drawn)
    assert chart_of(Series(evil, [(1, 1)], "first"), marks={evil: 1.0})["marks"] == [{"label": evil, "x": 1.0}]


def test_the_table_of_values_holds_both_ends_and_few_rows() -> None:
    train = Series("loss", [(float(step), 1 / step) for step in range(1, 1001)], "first")
    raw, validation = Series("", train.points, "raw"), Series("validation loss", [(500.0, 0.25)], "second")
    head, *rows = value_table([raw, train, validation], x_label="step")
    assert head == ["step", "loss", "validation loss"] and len(rows) <= TABLE_ROWS + 1
    assert rows[0] == ["1", "1", "–"] and rows[-1] == ["1,000", "0.001", "0.25"]


@pytest.mark.parametrize(
    ("edges", "counts", "bars"),
    [
        ([0, 8, 16], [3, 4], [("0 to 7", "3"), ("8 to 15", "4")]),
        ([10, 11, 12], [1, 2_000], [("10", "1"), ("11", "2,000")]),
        ([0, 8, 16, 32], [0, 4, 0], [("8 to 15", "4")]),
        ([0, 2, 4, 6], [1, 0, 1], [("0 to 1", "1"), ("2 to 3", "0"), ("4 to 5", "1")]),
    ],
    ids=["whole", "single values", "empty ends", "empty middle"],
)
def test_each_bin_says_which_values_it_holds(edges: list[int], counts: list[int], bars: list[tuple[str, str]]) -> None:
    assert bars_of(histogram(edges, counts, unit="tokens")) == bars


def test_bars_of_zero_and_of_nonsense_keep_their_text() -> None:
    drawn = bar_chart([Bar("eval", 0.0, "not run", muted=True), Bar("train", math.nan, "odd")])
    assert bars_of(drawn) == [("eval", "not run"), ("train", "odd")] and "nan" not in drawn


def test_marks_outside_the_strip_are_held_at_its_edge() -> None:
    strip = str(interval_strip([Mark(1.7, -1.0, 2.0, "first")]))
    assert 'style="left:98.0%"' in strip and 'style="left:2.0%;width:96.0%"' in strip
