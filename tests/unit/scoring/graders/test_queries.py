from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.unit.scoring.graders.make import answer, mark, metric, question
from trainer.errors import DataError
from trainer.scoring.graders import GraderServices, check, grade

TABLES = """
CREATE TABLE t (a INTEGER, b TEXT, c REAL);
INSERT INTO t VALUES (1, 'x', 0.1), (2, 'y', 0.2), (3, NULL, 0.3);
"""
RIGHT = [
    ("SELECT a FROM t", "SELECT a AS z FROM t ORDER BY a DESC"),
    ("SELECT a FROM t", "```sql\nSELECT a FROM t;\n```\nThis lists a."),
    ("SELECT a FROM t", "Here is the query:\nSELECT a\nFROM t;"),
    ("SELECT a FROM t", "-- all of them\nWITH s AS (SELECT * FROM t) SELECT a FROM s"),
    ("SELECT sum(c) FROM t", "SELECT 0.6"),
    ("SELECT b FROM t WHERE a = 3", "SELECT NULL"),
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY c"),
    ("SELECT a FROM (SELECT a FROM t ORDER BY a)", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT count(*) FROM t", "SELECT 3.0"),
    ("SELECT a FROM t WHERE a > 9", "SELECT c FROM t WHERE 0"),
]
WRONG = [
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC", "another order"),
    ("SELECT a, c FROM t", "SELECT c, a FROM t", "other values"),
    ("SELECT a FROM t", "SELECT a, b FROM t", "2 columns instead of 1"),
    ("SELECT a FROM t", "SELECT a FROM t LIMIT 2", "2 rows instead of 3"),
    ("SELECT a FROM t", "SELECT a FROM t UNION ALL SELECT 3", "4 rows instead of 3"),
    ("SELECT b FROM t WHERE a = 3", "SELECT ''", "other values"),
    ("SELECT a FROM t WHERE a = 1", "SELECT '1'", "other values"),
    ("SELECT a FROM t", "SELECT nosuch FROM t", "no such column"),
    ("SELECT a FROM t", "SELEC", "no query"),
    ("SELECT a FROM t", "I'm sorry, I can't help with that.", "no query"),
]
HOSTILE = [
    "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT count(*) FROM r",
    "WITH RECURSIVE r(x) AS (SELECT randomblob(900000) UNION ALL SELECT randomblob(900000) FROM r) SELECT x FROM r",
    "SELECT hex(zeroblob(1000000000))",
    "SELECT load_extension('x')",
    "SELECT a FROM t; DROP TABLE t",
    "WITH x AS (SELECT 1) DELETE FROM t",
    "SELECT * FROM pragma_database_list",
]


def marks_of(pairs: list[tuple[str, str]], **keys: Any) -> list[Any]:
    items = [question(reference, tables=TABLES) for reference, _ in pairs]
    return list(
        grade(metric("sql", **{"timeout_s": 5, **keys}), [answer(text) for _, text in pairs], items, GraderServices())
    )


def test_queries_with_the_same_rows_are_the_same() -> None:
    assert [grades.reason for grades in marks_of(RIGHT)] == [""] * len(RIGHT)


def test_queries_with_other_rows_are_not_and_the_difference_is_named() -> None:
    grades = marks_of([(reference, text) for reference, text, _ in WRONG])
    assert [item.score for item in grades] == [0] * len(WRONG)
    assert all(reason in item.reason for item, (_, _, reason) in zip(grades, WRONG, strict=True))
    assert grades[-2].failure == "format" and grades[-1].failure == "refusal" and grades[0].failure == "knowledge"


def test_order_and_columns_count_as_asked() -> None:
    sorted_down = [("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC")]
    assert marks_of(sorted_down, order="ignore")[0].score == 1
    assert marks_of([("SELECT a FROM t", "SELECT a FROM t ORDER BY a DESC")], order="strict")[0].score == 0
    assert marks_of([("SELECT a, c FROM t", "SELECT c, a FROM t")], columns="any")[0].score == 1


def test_hostile_queries_end_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a ?#b.sqlite"
    with sqlite3.connect(path) as database:
        database.executescript(TABLES)
    before = path.read_bytes()
    pairs = [*(("SELECT a FROM t", text) for text in [*HOSTILE, f"ATTACH '{tmp_path}/new.db' AS x"]), RIGHT[0]]
    grades = marks_of(pairs, database=str(path), timeout_s=0.5)
    assert [item.score for item in grades] == [0] * (len(pairs) - 1) + [1]
    assert path.read_bytes() == before and [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("reference", "tables", "reason"),
    [
        ("SELEC", TABLES, "syntax error"),
        ("SELECT a FROM t", "CREATE TABLE t (a INTEGER);", "hold no rows"),
        ("SELECT a FROM t", "CREATE", "incomplete input"),
        ("SELECT a FROM t", "missing.sqlite", "cannot read"),
    ],
    ids=["query", "empty", "script", "file"],
)
def test_an_expected_query_that_proves_nothing_is_refused_before_anything_is_asked(
    reference: str, tables: str, reason: str
) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: metric sql"):
        check(metric("sql"), [question(reference, tables=tables)])
    with pytest.raises(DataError) as error:
        mark(metric("sql"), "SELECT 1", question(reference, tables=tables))
    assert reason in error.value.message
