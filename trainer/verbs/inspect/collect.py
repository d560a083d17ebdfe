"""Add a row to a regression suite, so that its question is asked again after every training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from trainer import exact_json
from trainer.errors import DataError
from trainer.recipe.load import load_suite
from trainer.recipe.suite import ItemFile, Suite
from trainer.scoring.question import Question
from trainer.scoring.questions.suite import read_items
from trainer.verbs.inspect.rows import InspectedRow

NEW_SUITE = """\
# Rows that went wrong once, added by `trainer inspect RECIPE --row ID --add-to-suite FILE`.
suite_version: 1
name: {name}

sources:
  - path: {items}
"""


@dataclass(frozen=True)
class Added:
    """Where an item stands now."""

    id: str
    items: Path
    """JSONL file of the item."""
    is_new: bool
    """False where the suite had it already."""


def add_to_suite(row: InspectedRow, path: Path) -> Added:
    """Append a row to a suite's JSONL file; a suite that does not exist is made.

    Args:
        row: The turns before the last answer become the prompt, the answer the reference.
        path: The suite, YAML.

    Raises:
        DataError: The row has no answer to ask for, the suite has no file to append to, or another item has this id.
        RecipeError: The suite is wrong.
    """
    item = _item(row)
    if path.suffix not in (".yaml", ".yml"):
        raise DataError(f"{path} is no suite: its name must end in .yaml", hint=f"give {path.stem or 'failures'}.yaml")
    suite = load_suite(path) if path.exists() else None
    items = _items_file(suite, path) if suite is not None else path.with_suffix(".jsonl")
    if suite is None and items.exists():
        raise DataError(f"{items} exists, and the suite {path} does not", hint="give another name")
    questions = _questions_by_id(suite) if suite is not None else {}
    if item["id"] in questions:
        _check_same(questions[item["id"]], item, path)
        return Added(item["id"], items, is_new=False)
    if suite is None or not suite.graders or "tool_calls" in item:
        item["graders"] = [_grader(item)]
    try:
        _append(items, item)
        if suite is None:
            name = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).strip("-._")[:60] or "failures"
            path.write_text(NEW_SUITE.format(name=name, items=items.name), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}", hint="give a file in a folder of yours") from error
    return Added(item["id"], items, is_new=True)


def _item(row: InspectedRow) -> dict[str, Any]:
    """Return the keys of an item but its graders."""
    record = row.record
    messages = [*(record.get("prompt") or []), *(record.get("chosen") or record.get("messages") or [])]
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DataError(f"{row.position} does not end with an answer: nothing to ask for", hint="choose another row")
    answer = messages[-1]
    turns = [{key: value for key, value in turn.items() if key != "weight"} for turn in messages[:-1]]
    item = {"id": row.position, "messages": turns, "reference": answer.get("content") or ""}
    extras = {"tools": record.get("tools"), "tool_calls": answer.get("tool_calls")}
    return item | {key: value for key, value in extras.items() if value}


def _grader(item: dict[str, Any]) -> dict[str, str]:
    return {"kind": "tool_call", "key": "tool_calls"} if "tool_calls" in item else {"kind": "exact_match"}


def _items_file(suite: Suite, path: Path) -> Path:
    """Return the last whole JSONL source without graders of its own: what is added goes by the suite's."""
    files = [source for source in suite.sources if isinstance(source, ItemFile)]
    fitting = [Path(source.path) for source in files if not source.graders and source.max_items is None]
    if not fitting:
        raise DataError(
            f"{path} has no file to add to: none of its `sources` is without `graders` and `max_items`",
            hint=f"add this line to `sources`:   - path: {path.stem}-added.jsonl",
        )
    return fitting[-1]


def _questions_by_id(suite: Suite) -> dict[str, Question]:
    """Return the items that the suite has, by id; its file may still be missing or empty."""
    sources = [
        source
        for source in suite.sources
        if isinstance(source, ItemFile) and Path(source.path).is_file() and Path(source.path).stat().st_size
    ]
    if not suite.items and not sources:
        return {}
    questions = read_items(suite.model_copy(update={"sources": sources})).questions
    return {question.id.removeprefix(f"{suite.name}/"): question for question in questions}


def _check_same(question: Question, item: dict[str, Any], path: Path) -> None:
    """Refuse an id that stands for something else: rows of another file with the same name."""
    has_system = item["messages"][0]["role"] == "system"
    messages = question.messages if has_system else [turn for turn in question.messages if turn["role"] != "system"]
    if (messages, question.reference) != (item["messages"], item["reference"]):
        raise DataError(
            f"{path} has another item called {item['id']!r}", hint="rename that item, or add to another suite"
        )


def _append(path: Path, item: dict[str, Any]) -> None:
    """Write one more line; the file is whole at every moment."""
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        text += b"\n"
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_bytes(text + exact_json.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
    aside.replace(path)
