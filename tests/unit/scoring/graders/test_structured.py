from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.unit.scoring.graders.make import answer, mark, metric, question
from trainer.errors import DataError
from trainer.scoring.graders import calibration, expected_calibration_error, is_json, micro

CODES = (
    '[{"code": "A00", "description": "x", "confidence": 0.9}, {"code": "Z9", "description": "y", "confidence": 0.2}]',
    '[{"code": "B20", "description": "z", "confidence": 1}, {"code": "A00", "description": "w", "confidence": 1}]',
)
# (metric's keys, answer, reference, tp, fp, fn), worked by hand
CASES: list[tuple[dict[str, Any], str, str, int, int, int]] = [
    ({}, '{"a": 1, "b": "x"}', '{"a": 1, "b": "x"}', 2, 0, 0),
    ({}, '{"a": 1.0, "b": "y"}', '{"a": 1, "b": "x"}', 1, 1, 1),
    ({}, '{"a": 1}', '{"a": 1, "b": "x"}', 1, 0, 1),
    ({}, '{"a": 1, "b": "x", "c": 3}', '{"a": 1, "b": "x"}', 2, 1, 0),
    ({}, '{"a": {"b": 1, "c": 2}}', '{"a": {"b": 1, "c": 3}}', 1, 1, 1),
    ({}, '["A00.1", "B20"]', '["B20", "A00.1", "C50.9"]', 2, 0, 1),
    ({}, '{"codes": ["A00.1", "Z99"]}', '{"codes": ["A00.1"]}', 1, 1, 0),
    ({}, '{"codes": []}', '{"codes": []}', 0, 0, 0),
    ({"fields": {"codes": "list"}}, '{"codes": ["b", "a", "c"]}', '{"codes": ["a", "b", "c"]}', 2, 1, 1),
    ({"fields": {"codes": "set"}}, '{"codes": "a"}', '{"codes": ["a", "b"]}', 1, 0, 1),
    ({"fields": {"n": "numeric"}}, '{"n": "1,200"}', '{"n": 1200}', 1, 0, 0),
    ({"fields": {"n": "numeric"}, "rel_tolerance": 0.01}, '{"n": 101}', '{"n": 100}', 1, 0, 0),
    ({"fields": {"t": "normalised"}}, '{"t": " New  York."}', '{"t": "new york"}', 1, 0, 0),
    ({"fields": {"t": "ignore"}}, '{"t": "x", "u": 1}', '{"u": 1}', 1, 0, 0),
    ({"fields": {"m": "ignore"}}, '{"m": {"id": 1}, "u": 1}', '{"u": 1, "m": {"id": 2}}', 1, 0, 0),
    ({"default": "exact"}, '{"a": 1.0}', '{"a": 1}', 0, 1, 1),
    ({}, '{"a": true}', '{"a": 1}', 0, 1, 1),
    ({}, "the codes are A and B", '["A", "B"]', 0, 0, 2),
    ({}, '["A"]', '{"a": "A"}', 0, 1, 1),
    ({}, '{"a": null}', '{"a": null, "b": null}', 1, 0, 1),
    ({}, '{"a.b": 1}', '{"a": {"b": 1}}', 0, 1, 1),
    ({"default": "ignore", "fields": {"a": "auto"}}, '{"a": 1, "b": 2, "c": [3]}', '{"a": 1, "b": 3}', 1, 0, 0),
    # lists of objects: in any order, field by field, each with the one that it has most in common with
    ({}, '[{"a": 2, "b": 2}, {"a": 1, "b": 1}]', '[{"a": 1, "b": 1}, {"a": 2, "b": 2}]', 4, 0, 0),
    ({}, '[{"a": 1, "b": 1}]', '[{"a": 1, "b": 2}]', 1, 1, 1),
    ({}, '[{"a": 1, "b": 1}]', '[{"a": 1, "b": 1}, {"a": 2, "b": 2}]', 2, 0, 2),
    ({}, '[{"a": 1}, {"a": 1}]', '[{"a": 1}]', 1, 1, 0),
    ({}, '{"x": [{"a": 1.0}, "s"]}', '{"x": ["s", {"a": 1}]}', 2, 0, 0),
    ({"default": "list"}, '[{"a": 2}, {"a": 1}]', '[{"a": 1}, {"a": 2}]', 1, 1, 1),
    ({"default": "ignore", "fields": {"code": "exact"}}, CODES[0], CODES[1], 1, 1, 1),
    ({"fields": {"confidence": "ignore", "description": "ignore"}}, CODES[0], CODES[1], 1, 1, 1),
    ({"fields": {"x.code": "normalised"}}, '{"x": [{"code": " a1."}]}', '{"x": [{"code": "A1"}]}', 1, 0, 0),
    ({"fields": {"x": "ignore"}}, '{"x": [{"code": "a"}]}', '{"x": [{"code": "b"}]}', 0, 0, 0),
    ({"fields": {"m": "exact"}}, '{"m": {"a": 1, "b": 2}}', '{"m": {"a": 1, "b": 3}}', 0, 1, 1),
    ({}, '{"a": 1, "a": 1}', '{"a": 1}', 0, 0, 1),
    ({"default": "numeric"}, '{"a": 1' + "0" * 400 + "}", '{"a": 1}', 0, 1, 1),
    ({"find": True}, 'Here: ```json\n["A"]\n```', '["A", "B"]', 1, 0, 1),
]


@pytest.mark.parametrize(("keys", "text", "reference", "hits", "extra", "missing"), CASES)
def test_fields_are_counted_as_by_hand(
    keys: dict[str, Any], text: str, reference: str, hits: int, extra: int, missing: int
) -> None:
    grader, item = metric("json_fields", **keys), question(reference)
    counts = micro(grader, [answer(text)], [item])
    assert counts is not None and counts.tolist() == [[hits, extra, missing]]
    total = 2 * hits + extra + missing
    assert mark(grader, text, item).score == pytest.approx(2 * hits / total if total else 1)


def test_precision_and_recall_of_a_row() -> None:
    item = question('["A", "B", "C", "D"]')
    assert mark(metric("json_fields", measure="precision"), '["A", "B", "X"]', item).score == pytest.approx(2 / 3)
    assert mark(metric("json_fields", measure="recall"), '["A", "B", "X"]', item).score == pytest.approx(2 / 4)


def test_micro_counts_only_rows_that_the_metric_looks_at_and_row_means_have_none() -> None:
    rows = [question('{"a": 1}', part="x"), question('{"a": 1}', part="y")]
    counts = micro(metric("json_fields", when={"part": "y"}), [answer('{"a": 1}')] * 2, rows)
    assert counts is not None and np.array_equal(counts, [[0, 0, 0], [1, 0, 0]])
    assert micro(metric("json_fields", average="row"), [answer("{}")] * 2, rows) is None
    assert micro(metric("exact_match"), [answer("{}")] * 2, rows) is None


def test_reasons_name_wrong_missing_and_extra_fields() -> None:
    grade = mark(metric("json_fields"), '{"a": 2, "c": 3}', question('{"a": 1, "b": 2}'))
    assert grade.reason == "wrong: a; missing: b; extra: c" and grade.failure == "knowledge"


def test_right_json_in_a_fence_is_a_failure_of_style_and_wrong_one_of_format() -> None:
    item = question('["A"]')
    assert mark(metric("json_fields"), 'Sure!\n```json\n["A"]\n```', item).failure == "style"
    assert mark(metric("json_fields"), 'Sure!\n```json\n["B"]\n```', item).failure == "format"


def test_a_reference_that_is_not_json_is_named() -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: metric json_fields expects JSON"):
        mark(metric("json_fields"), "{}", question("no json"))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("{}", True),
        ("[1]", True),
        ("1", False),
        ('{"a": NaN}', False),
        ("{} ok", False),
        ("[" * 10**5, False),
        ("[" * 101 + "]" * 101, False),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', False),
        ('{"a": [{"b": 1}, {"b": 1}]}', True),
    ],
)
def test_json_is_one_object_or_list(text: str, valid: bool) -> None:
    assert is_json(text) is valid and mark(metric("valid_json"), text, question()).score == valid


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


def test_a_schema_is_enforced_and_the_fault_named(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}')
    for grader in (metric("json_schema", schema=SCHEMA), metric("json_schema", schema=str(path))):
        assert mark(grader, '{"age": 3}', question()).score == 1
        grade = mark(grader, '{"age": "3"}', question())
        assert grade.failure == "format" and grade.reason.startswith("at age: '3' is not of type")
        assert mark(grader, "age: 3", question()).failure == "format"


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"properties": 3}, "missing.json"])
def test_what_is_no_schema_is_refused_at_once(schema: Any) -> None:
    with pytest.raises(ValidationError, match=r"not a JSON Schema|no readable file"):
        metric("json_schema", schema=schema)


GOOD = {
    "date": ["2024-02-29"],
    "date-time": ["2024-02-29T12:00:00Z", "2024-02-29t12:00:00.5+02:00", "2016-12-31T23:59:60Z"],
    "time": ["12:00:00Z"],
    "duration": ["P1Y2M3DT4H5M6S", "P2W", "PT0.5S"],
    "email": ["a.b+c@example.org"],
    "hostname": ["example.org"],
    "ipv4": ["127.0.0.1"],
    "ipv6": ["::1"],
    "uri": ["https://example.org/a?b=c#d", "urn:isbn:123"],
    "uri-reference": ["/a/b", "#c"],
    "iri": ["https://exämple.org/ü"],
    "uri-template": ["/a/{b}{?c,d*}"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "json-pointer": ["", "/a~1b/0"],
    "relative-json-pointer": ["1/a", "0#"],
    "regex": ["^a+$"],
    "int32": ["not checked"],
}
BAD = {
    "date": ["2023-02-29", "20240229", "tomorrow"],
    "date-time": ["2024-02-29", "2024-02-29 12:00:00Z", "2024-02-29T12:00:00", "2024-02-29T25:00:00Z"],
    "time": ["12:00", "24:00:00Z"],
    "duration": ["P", "1 day", "PT"],
    "email": ["a@", "@b", "a b@c.org", "none"],
    "hostname": ["-a.org", "a_b.org", ""],
    "ipv4": ["256.0.0.1", "1.2.3"],
    "ipv6": ["12345::"],
    "uri": ["/a", "no scheme", "http://a b"],
    "uri-reference": ["a b", "%zz"],
    "iri": ["ü"],
    "uri-template": ["/a/{b"],
    "uuid": ["123e4567e89b12d3a456426614174000", "x"],
    "json-pointer": ["a", "/~2"],
    "relative-json-pointer": ["/a", "01"],
    "regex": ["("],
}


@pytest.mark.parametrize("name", list(GOOD))
def test_formats_of_a_schema_are_checked(name: str) -> None:
    grader = metric("json_schema", schema={"type": "array", "items": {"format": name}})
    for values, right in ((GOOD[name], 1), (BAD.get(name, []), 0)):
        for value in values:
            assert mark(grader, json.dumps([value]), question()).score == right, value
    assert mark(grader, "[3]", question()).score == 1


def test_deep_json_does_not_end_a_recursive_schema() -> None:
    schema = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    assert mark(metric("json_schema", schema=schema), "[" * 90 + "]" * 90, question()).score in (0, 1)


def test_a_schema_elsewhere_is_never_fetched() -> None:
    grader = metric("json_schema", schema={"$ref": "http://127.0.0.1:9/other.json"})
    with pytest.raises(DataError, match="not part of it"):
        mark(grader, "{}", question())


def test_brier_and_calibration_error_of_hand_worked_answers() -> None:
    texts = ['{"l": "a", "confidence": 0.9}', '{"l": "b", "confidence": 0.9}', '{"l": "a", "confidence": 0.3}', "a"]
    items = [question('{"l": "a"}')] * 4
    brier = metric("confidence", measure="brier")
    scores = [mark(brier, text, items[0]).score for text in texts]
    assert scores == pytest.approx([0.01, 0.81, 0.49, 1]) and mark(brier, "a", items[0]).failure == "format"
    pairs = calibration(brier, [answer(text) for text in texts], items)
    assert np.isnan(pairs[3, :2]).all() and pairs[:, 2].tolist() == [0, 1, 2, 3]
    # one bin holds 0.9 twice, half of it right; the other 0.3, right: (2 * 0.4 + 1 * 0.7) / 3
    assert expected_calibration_error(pairs, bins=10) == pytest.approx(0.5)


def test_confidence_may_be_a_percentage_and_name_its_field() -> None:
    grader = metric("confidence", scale=100.0, field="sure", answer_field="l", key="gold")
    assert mark(grader, '{"l": "A", "sure": 80}', question(gold="a")).score == pytest.approx(0.04)


def test_each_object_of_a_list_has_its_own_confidence() -> None:
    grader = metric("confidence", answer_field="code")
    item = question(CODES[1])
    # A00 is right with 0.9, Z9 wrong with 0.2
    pairs = calibration(grader, [answer(CODES[0]), answer("[]")], [item, item])
    assert pairs[:2].tolist() == [[0.9, 1, 0], [0.2, 0, 0]] and np.isnan(pairs[2, :2]).all()
    assert mark(grader, CODES[0], item).score == pytest.approx((0.01 + 0.04) / 2)
    assert expected_calibration_error(pairs, bins=10) == pytest.approx((0.1 + 0.2) / 2)
    complete = calibration(metric("confidence"), [answer(CODES[0])], [item])
    assert complete[:, 1].tolist() == [0, 0]


def test_a_reason_can_always_be_written() -> None:
    grade = mark(metric("json_fields"), '{"\\ud800": 1}', question('{"a": 1}'))
    assert grade.reason.encode("utf-8")
