"""Expand one stored row into several rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainer.data.read.raw_row import RawRow
from trainer.data.records.reasons import RowError
from trainer.data.rows.columns import Columns
from trainer.data.rows.judged_answers import judged_prompt, ranked_pairs
from trainer.recipe.data import Format


def expand(rows: Iterator[RawRow], format: Format, mapping: Mapping[str, str]) -> Iterator[RawRow]:
    """Yield the rows that stored rows stand for; all of one keep its line.

    An article of SQuAD's own files holds many questions, and with the format `ranked_pairs` every two answers of which
    one is better are a pair.
    """
    for row in rows:
        value = row.value
        if format == "ranked_pairs" and isinstance(value, dict):
            yield from _pairs(row, value, mapping)
        elif isinstance(value, dict) and _is_article(value):
            yield from (RawRow(row.line, question) for question in _questions(value))
        else:
            yield row


def _pairs(row: RawRow, value: dict[str, object], mapping: Mapping[str, str]) -> Iterator[RawRow]:
    try:
        columns = Columns(value, mapping)
        pairs = list(ranked_pairs(columns))
        if not pairs:
            raise RowError("no_preference", "all answers have the same rank or score")
        prompt = judged_prompt(columns)
    except RowError as error:
        yield RawRow(row.line, None, error)
        return
    unused = {name: cell for name, cell in columns.values.items() if name not in columns.used}
    for better, worse in pairs:
        yield RawRow(row.line, {**unused, "prompt": prompt, "chosen": better, "rejected": worse})


def _is_article(value: dict[str, object]) -> bool:
    parts = value.get("paragraphs")
    return isinstance(parts, list) and bool(parts) and all(isinstance(part, dict) and "qas" in part for part in parts)


def _questions(article: dict[str, object]) -> Iterator[dict[str, object]]:
    title = {"title": article["title"]} if "title" in article else {}
    paragraphs = article["paragraphs"]
    for paragraph in paragraphs if isinstance(paragraphs, list) else []:
        for question in paragraph["qas"]:
            yield {**title, "context": paragraph.get("context"), **question}
