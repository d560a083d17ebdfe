"""Run two queries on SQLite and compare their rows, in the child process."""

from __future__ import annotations

import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise, permutations
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from trainer.scoring.isolated.worker import Reply, Request

MAX_ROWS = 100_000
MAX_COLUMNS_IN_ANY_ORDER = 7
MAX_VALUE_BYTES = 10_000_000
STEPS_BETWEEN_LOOKS = 10_000
"""Instructions of SQLite's machine between two looks at the clock."""
HEAP_BYTES = 256 * 2**20
_READ = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_REFUSED_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}

Value = int | float | str | bytes | None
Row = tuple[Value, ...]
Rows = list[Row]
_databases: dict[str, sqlite3.Connection] = {}


def run(request: Request) -> Reply:
    """Run the expected query and the answer's on one database.

    Args:
        request: `script` (SQL that makes the tables) or `path` (SQLite file); `expected` and `answer`, queries, the
            second may be None; `order` (auto, strict, ignore), `columns` (ordered, any), `rel_tolerance`. Or `ready`:
            nothing is asked.

    Returns:
        `equal` and `reason`; or `fault`, what is wrong with the tables or the expected query.
    """
    if request.get("ready"):
        return {}
    until = time.process_time() + 0.9 * request["timeout_s"]
    try:
        database = _database(request, until)
        expected = _rows(database, request["expected"], until)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        return {"fault": str(error)}
    if request["answer"] is None:
        return {"equal": True, "reason": "", "rows": len(expected)}
    try:
        rows = _rows(database, request["answer"], until)
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
        return {"equal": False, "reason": str(error), "failed": True}
    return _compared(rows, expected, request)


# Databases


def _database(request: Request, until: float) -> sqlite3.Connection:
    """Return the read-only database of a request, kept for the requests that follow."""
    name = request["path"] or request["script"]
    if name not in _databases:
        _databases.clear()
        _databases[name] = _opened(request, until)
    return _databases[name]


def _opened(request: Request, until: float) -> sqlite3.Connection:
    if request["path"]:
        database = sqlite3.connect(f"file:{quote(request['path'])}?mode=ro&immutable=1", uri=True)
    else:
        database = sqlite3.connect(":memory:")
        _watch(database, until)
        database.executescript(request["script"])
        _refuse_empty(database)
        database.execute("PRAGMA query_only = ON")
    database.execute(f"PRAGMA hard_heap_limit = {HEAP_BYTES}")
    database.execute("PRAGMA temp_store = MEMORY")
    limits = {
        sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
        sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
        sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
        sqlite3.SQLITE_LIMIT_ATTACHED: 0,
        sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 500,
        sqlite3.SQLITE_LIMIT_COLUMN: 500,
    }
    for kind, value in limits.items():
        database.setlimit(kind, value)
    database.set_authorizer(_authorise)
    return database


def _refuse_empty(database: sqlite3.Connection) -> None:
    names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    if not any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in quoted):
        raise ValueError("the tables hold no rows, so that every query gives the same: none")


def _authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Let a query read tables and call functions: no ATTACH, no PRAGMA, nothing that changes anything."""
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _REFUSED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _READ else sqlite3.SQLITE_DENY


def _watch(database: sqlite3.Connection, until: float) -> None:
    database.set_progress_handler(lambda: int(time.process_time() > until), STEPS_BETWEEN_LOOKS)


# Rows


def _rows(database: sqlite3.Connection, query: str, until: float) -> Rows:
    _watch(database, until)
    cursor = database.execute(query)
    if cursor.description is None:
        raise ValueError("it is no query")
    rows = cursor.fetchmany(MAX_ROWS + 1)
    if len(rows) > MAX_ROWS:
        raise ValueError(f"it gives more than {MAX_ROWS:,} rows")
    return rows


def _compared(rows: Rows, expected: Rows, request: Request) -> Reply:
    widths = [len(some[0]) if some else None for some in (rows, expected)]
    if len(rows) != len(expected):
        return {"equal": False, "reason": f"{len(rows)} rows instead of {len(expected)}"}
    if widths[0] != widths[1]:
        return {"equal": False, "reason": f"{widths[0]} columns instead of {widths[1]}"}
    in_order = request["order"] == "strict" or (request["order"] == "auto" and _sorts(request["expected"]))
    tolerance = request["rel_tolerance"]
    for columns in _arrangements(widths[0] or 0, request["columns"]):
        arranged = [tuple(row[column] for column in columns) for row in rows]
        if _equal(arranged, expected, tolerance, in_order=in_order):
            return {"equal": True, "reason": ""}
    is_shuffled = in_order and _equal(rows, expected, tolerance, in_order=False)
    return {"equal": False, "reason": "the rows come in another order" if is_shuffled else "other values"}


def _arrangements(width: int, columns: str) -> Iterable[tuple[int, ...]]:
    if columns == "ordered" or width > MAX_COLUMNS_IN_ANY_ORDER:
        return [tuple(range(width))]
    return permutations(range(width))


def _equal(rows: Rows, expected: Rows, tolerance: float, *, in_order: bool) -> bool:
    if not in_order:
        if Counter(rows) == Counter(expected):
            return True
        rows, expected = sorted(rows, key=_sort_key), sorted(expected, key=_sort_key)
    return all(
        len(row) == len(right) and all(_same(*pair, tolerance) for pair in zip(row, right, strict=True))
        for row, right in zip(rows, expected, strict=True)
    )


def _same(value: Value, expected: Value, tolerance: float) -> bool:
    """Compare two values; NULL equals NULL alone, 1 equals 1.0, and a text is no number."""
    if isinstance(value, float | int) and isinstance(expected, float | int):
        return value == expected or math.isclose(value, expected, rel_tol=tolerance, abs_tol=1e-12)
    return type(value) is type(expected) and bool(value == expected)


def _sort_key(row: Row) -> list[tuple[int, float | str | bytes]]:
    """Return a key under which numbers that differ by rounding stay next to each other."""
    return [_value_key(value) for value in row]


def _value_key(value: Value) -> tuple[int, float | str | bytes]:
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, float(f"{value:.6g}")
    return (2, value) if isinstance(value, str) else (3, bytes(value))


def _sorts(query: str) -> bool:
    """Tell whether a query sorts its result: ORDER BY outside of brackets, texts and comments.

    Example:
        >>> _sorts("SELECT a FROM t ORDER BY a"), _sorts("SELECT (SELECT a FROM t ORDER BY a) -- ORDER BY")
        (True, False)
    """
    depth = 0
    outside: list[str] = []
    for mark in _tokens(query):
        depth += (mark == "(") - (mark == ")")
        if depth == 0:
            outside.append(mark.upper())
    return any(pair == ("ORDER", "BY") for pair in pairwise(outside))


def _tokens(query: str) -> list[str]:
    """Cut a query into words and brackets, without texts, quoted names and comments."""
    words: list[str] = []
    position = 0
    while position < len(query):
        letter = query[position]
        if letter in "'\"`[":
            position = _after(query, position + 1, "]" if letter == "[" else letter)
        elif query.startswith("--", position):
            position = _after(query, position, "\n")
        elif query.startswith("/*", position):
            position = _after(query, position + 2, "*/")
        elif letter.isalnum() or letter == "_":
            end = position
            while end < len(query) and (query[end].isalnum() or query[end] == "_"):
                end += 1
            words.append(query[position:end])
            position = end
        else:
            words += [letter] if letter in "()" else []
            position += 1
    return words


def _after(query: str, position: int, mark: str) -> int:
    end = query.find(mark, position)
    return len(query) if end < 0 else end + len(mark)
