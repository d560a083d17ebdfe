"""Make the rows of a comparison: seeded random words, or a JSONL file. Imports no torch."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from trainer.data.records.reasons import RowError
from trainer.data.rows.parse import parse_row
from trainer.errors import DataError
from trainer.verbs.bench.shapes import BenchKind

NUM_WORDS = 4000
PROMPT_WORDS = {"sft": (20, 150), "dpo": (40, 150)}
ANSWER_WORDS = (5, 60)

Row = dict[str, Any]


class Words:
    """A made-up language of 4,000 words of two to nine letters."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = ["".join(self.random.choices(letters, k=self.random.randint(2, 9))) for _ in range(NUM_WORDS)]

    def text(self, low: int, high: int) -> str:
        """Return between `low` and `high` words."""
        return " ".join(self.random.choices(self.words, k=self.random.randint(low, high)))


def random_rows(kind: BenchKind, count: int, *, seed: int) -> list[Row]:
    """Make rows; the answers of `sft` are about 30 % of all tokens.

    Args:
        kind: Conversations of two turns, or preference pairs.
        count: Number of rows.
        seed: Seed of words and lengths.
    """
    words = Words(seed)
    rows = []
    for _ in range(count):
        prompt = [{"role": "user", "content": words.text(*PROMPT_WORDS[kind])}]
        answers = [[{"role": "assistant", "content": words.text(*ANSWER_WORDS)}] for _ in range(1 + (kind == "dpo"))]
        if kind == "sft":
            rows.append({"messages": prompt + answers[0]})
        else:
            rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    return rows


def read_rows(path: Path, kind: BenchKind) -> list[Row]:
    """Read a JSONL file in any layout that `data.sources` takes; for `sft` a pair is its prompt and chosen answer.

    Raises:
        DataError: The file is missing, a row cannot be read, or is not of the kind that is compared.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", hint=f"trainer bench {kind} --rows FILE.jsonl")
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            rows.append(_read_row(line, path, number, kind))
    if not rows:
        raise DataError(f"{path} has no rows", hint=f"trainer bench {kind} --rows FILE.jsonl")
    return rows


def _read_row(line: bytes, path: Path, number: int, kind: BenchKind) -> Row:
    try:
        record = parse_row(orjson.loads(line), source=path.name, line=number).record
    except (RowError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path}:{number}: {error}", hint="correct or remove the row") from error
    is_pair = "chosen" in record
    if kind == "dpo" and not is_pair:
        raise DataError(f"{path}:{number}: no preference pair", hint="trainer bench sft --rows, or a file of pairs")
    if kind == "dpo":
        return {name: record[name] for name in ("prompt", "chosen", "rejected")}
    if not is_pair and "messages" not in record:
        raise DataError(
            f"{path}:{number}: a row of `{next(iter(record))}`: engines are compared on conversations",
            hint="give rows of messages, of a prompt and its answer, or pairs",
        )
    return {"messages": record["prompt"] + record["chosen"] if is_pair else record["messages"]}


def texts(rows: list[Row]) -> list[str]:
    """Return what is said in the rows, for the training of a tokenizer."""
    return [turn["content"] or "" for row in rows for turns in row.values() for turn in turns]
