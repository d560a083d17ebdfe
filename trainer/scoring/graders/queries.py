"""Grade queries by their rows: both run on SQLite, read-only, in a process that is limited and can be replaced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import DataError
from trainer.recipe.executed import Sql
from trainer.scoring.graders.expected import expected_texts, field
from trainer.scoring.graders.failures import excerpt, without_answer
from trainer.scoring.graders.programs import code_in
from trainer.scoring.isolated.worker import IsolatedWorker, Reply, Request
from trainer.scoring.question import Answer, Grade, Question

MEMORY_MIB = 1024
DATABASE_TYPES = (".sqlite", ".sqlite3", ".db")
SCRIPT_TYPES = (".sql",)
_START = r"(?:SELECT\b|WITH\s+(?:RECURSIVE\s+)?[\w\"`]+\s*(?:\([^()]*\)\s*)?AS\b|VALUES\s*\()"
_QUERY = re.compile(rf"\b{_START}.*", re.DOTALL | re.IGNORECASE)
_STARTS = re.compile(rf"\s*{_START}", re.IGNORECASE)


def check_sql(grader: Sql, questions: Sequence[Question]) -> None:
    """Run all expected queries.

    Raises:
        DataError: One does not run, or the tables hold no rows: then no query could be told from another.
    """
    with IsolatedWorker("queries", memory_mib=MEMORY_MIB) as worker:
        for question in questions:
            for expected in expected_texts(grader, question):
                _raise_fault(grader, question, worker.ask(_request(grader, question, expected, None), grader.timeout_s))


def grade_sql(grader: Sql, answers: Sequence[Answer], questions: Sequence[Question]) -> list[Grade]:
    """Mark whether the query of each answer gives the rows of the expected one.

    Raises:
        DataError: The tables cannot be made, or an expected query does not run.
    """
    with IsolatedWorker("queries", memory_mib=MEMORY_MIB) as worker:
        return [_grade(grader, *pair, worker) for pair in zip(answers, questions, strict=True)]


def _grade(grader: Sql, answer: Answer, question: Question, worker: IsolatedWorker) -> Grade:
    query = query_in(answer.text)
    if query is None:
        return Grade(0.0, f"no query in {excerpt(answer.text)}", without_answer(answer))
    reply: Reply = {}
    for expected in expected_texts(grader, question):
        reply = worker.ask(_request(grader, question, expected, query), grader.timeout_s)
        _raise_fault(grader, question, {key: value for key, value in reply.items() if key == "fault"})
        if reply.get("equal"):
            return Grade(1.0)
    reason = str(reply.get("error") or reply["reason"]).replace("interrupted", "it takes too long")
    return Grade(0.0, f"{excerpt(query)}: {reason}", "knowledge" if answer.finished else "other")


def query_in(text: str) -> str | None:
    """Return the query of an answer, from a fence or from where it begins; None where there is none."""
    code = code_in(text, {"sql", "sqlite", "postgresql", "mysql"}, "select").strip()
    if not _STARTS.match(code):
        start = _QUERY.search(_without_comments(code))
        code = start[0] if start else ""
        code = code.split("\n\n")[0]
    return code.strip().rstrip(";").strip() or None


def _without_comments(code: str) -> str:
    return re.sub(r"^\s*--[^\n]*$", "", code, flags=re.MULTILINE).strip()


def _request(grader: Sql, question: Question, expected: str, answer: str | None) -> Request:
    source = grader.database if grader.database is not None else str(field(grader, question, grader.tables))
    return {
        **_database(grader, question, source),
        "expected": expected.strip().rstrip(";"),
        "answer": answer,
        "order": grader.order,
        "columns": grader.columns,
        "rel_tolerance": grader.rel_tolerance,
    }


def _database(grader: Sql, question: Question, source: str) -> dict[str, str | None]:
    """Return the database for the child: a file, or the statements that make tables."""
    is_path = "\n" not in source and source.lower().endswith((*DATABASE_TYPES, *SCRIPT_TYPES))
    if not is_path and grader.database is None:
        return {"script": source, "path": None}
    path = Path(source).absolute()
    try:
        with path.open("rb") as file:
            is_database = file.read(16) == b"SQLite format 3\0"
        return {"script": None, "path": str(path)} if is_database else {"script": path.read_text(), "path": None}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{question.id}: metric {grader.title} cannot read {source}: {error}",
            hint="name a SQLite file, or a file of SQL statements, in `database` or in the row's field",
        ) from error


def _raise_fault(grader: Sql, question: Question, reply: Reply) -> None:
    fault = reply.get("fault") or reply.get("error")
    if fault is not None:
        raise DataError(
            f"{question.id}: metric {grader.title} cannot run the expected query: {fault}",
            hint="correct the query or the tables (CREATE TABLE and INSERT for SQLite), or limit the metric by `when`",
        )
