"""Read rows of a file as questions, in any layout that a recipe may name; answers in the file are left out.

A row without an answer is read with a placeholder in its place, so that the readers of training rows, their checks and
their messages serve here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.read.raw_row import RawRow
from trainer.data.read.reader import read_rows
from trainer.data.records.kinds import Record
from trainer.data.records.reasons import RowError
from trainer.data.rows.columns import (
    COMPLETION_COLUMNS,
    DIALOG_COLUMNS,
    PROMPT_COLUMNS,
    RARE_COMPLETIONS,
    RARE_PROMPTS,
    REJECTED_COLUMNS,
    TURN_COLUMNS,
    Columns,
)
from trainer.data.rows.conversations import turns_column
from trainer.data.rows.parse import parse_row
from trainer.data.rows.system_prompt import apply_system_prompt, has_system_turn
from trainer.data.rows.turns import ROLES
from trainer.data.served_prompt import ServedSystem
from trainer.recipe.data import DataSection, Format

PLACEHOLDER = "answer"
SPOKEN_BY_MODEL = {written for written, role in ROLES.items() if role == "assistant"}
WRITTEN = frozenset({*COMPLETION_COLUMNS, *RARE_COMPLETIONS})
ANSWERS = WRITTEN | {"chosen", "rejected", *REJECTED_COLUMNS, "label", "kto_tag"}

Row = dict[str, Any]
Layout = tuple[Format, dict[str, str]]


@dataclass(frozen=True)
class InputRow:
    """One row of the input."""

    line: int
    """As in messages: the physical line or the number of the row, from 1."""
    raw: object
    """As it was read."""
    row: Record
    """`prompt` (turns), `tools`, `chat_template_kwargs`: what a renderer takes. Empty where there is a fault."""
    fault: tuple[str, str] | None = None
    """(reason, detail) where the row cannot be asked."""


def read_questions(path: Path, data: DataSection, system: ServedSystem) -> Iterator[InputRow]:
    """Yield the rows of a file in their order, those that cannot be asked with the reason.

    Args:
        path: JSON lines, JSON, CSV or parquet, packed or not.
        data: The recipe's section: its mappings are tried where their columns are there.
        system: What rows without a system turn are asked with.

    Raises:
        DataError: The file cannot be read.
    """
    layouts: list[Layout] = [(source.format, source.mapping) for source in data.sources if source.mapping]
    say_first = opening(data, system)
    for raw in read_rows(path):
        question = _input_row(path.name, raw, layouts, say_first)
        if question.fault is None and lacks_system(question.row, system):
            question = InputRow(raw.line, raw.value, {}, ("no_system_prompt", system.sentence))
        yield question


def opening(data: DataSection, system: ServedSystem) -> Callable[[Record], Record]:
    """Return what puts the system prompt of training in front of a row's turns, as the data stage does."""
    text, when = system.text, data.system_prompt.when if data.system_prompt else "missing"
    return lambda row: row if text is None else apply_system_prompt(row, text, when=when)


def lacks_system(row: Record, system: ServedSystem) -> bool:
    """Tell whether a question has no system turn although every training row had one, and nobody knows which."""
    return system.is_needed and not has_system_turn(row["prompt"])


def _input_row(name: str, raw: RawRow, layouts: list[Layout], say_first: Callable[[Record], Record]) -> InputRow:
    try:
        if raw.error is not None:
            raise raw.error
        row = say_first(_question(name, raw, layouts))
    except RowError as error:
        return InputRow(raw.line, raw.value, {}, (error.reason, error.render()))
    return InputRow(raw.line, raw.value, row)


def _question(name: str, raw: RawRow, layouts: list[Layout]) -> Record:
    if not isinstance(raw.value, dict):
        return _parsed(name, raw, raw.value, "auto", {})
    for format_, mapping in layouts:
        present = {ours: path for ours, path in mapping.items() if _has(raw.value, path)}
        if present and all(ours in present or ours in ANSWERS for ours in mapping):
            return _parsed(name, raw, raw.value, format_, present)
    return _parsed(name, raw, raw.value, "auto", {})


def _has(raw: Row, path: str) -> bool:
    try:
        return Columns(raw, {"there": path}).has("there")
    except RowError:
        return False


def _parsed(name: str, raw: RawRow, value: object, format_: Format, mapping: dict[str, str]) -> Record:
    """Return the question of a row.

    Raises:
        RowError: It is malformed, or no conversation.
    """
    if isinstance(value, dict):
        value = _answered(value, mapping)
    record = parse_row(value, source=name, line=raw.line, format=format_, mapping=mapping).record
    turns = record["prompt"] if "prompt" in record else record.get("messages")
    if turns is None:
        raise RowError("unknown_format", "plain text or token ids ask no question")
    if "prompt" not in record:
        turns = turns[:-1]
    if not turns:
        raise RowError("empty_messages", "no turn before the answer")
    if turns[-1]["role"] not in ("user", "tool"):
        raise RowError("bad_role_order", f"the question ends with a {turns[-1]['role']} turn, not with a user turn")
    question: Record = {"prompt": turns, "source": name, "line": raw.line}
    if "tools" in record:
        question["tools"] = record["tools"]
    if "chat_template_kwargs" in record:
        question["chat_template_kwargs"] = record["chat_template_kwargs"]
    return question


def _answered(raw: Row, mapping: Mapping[str, str]) -> Row:
    """Return a row with a placeholder where its layout wants an answer and there is none.

    Example:
        >>> _answered({"prompt": "2 + 2?"}, {})
        {'prompt': '2 + 2?', 'completion': 'answer'}
        >>> _answered({"messages": [{"role": "user", "content": "Hi"}]}, {})["messages"][-1]
        {'role': 'assistant', 'content': 'answer'}
    """
    present = {key for key, value in raw.items() if value is not None} | {
        ours for ours, path in mapping.items() if path
    }
    if isinstance(raw.get("body"), dict) and "response" not in present:  # a request of OpenAI's batch files
        return {**raw, "response": {"choices": [{"message": {"role": "assistant", "content": PLACEHOLDER}}]}}
    if "contents" in present:
        return _with_last_content(raw)
    if turns := present & set(TURN_COLUMNS):
        column = mapping.get(min(turns), min(turns))
        return _with_last_turn(raw, column) if "chosen" not in present else raw
    if "chosen" in present:
        return raw
    if "instruction" in present:
        return raw if present & WRITTEN else {**raw, "output": PLACEHOLDER}
    if present & {*PROMPT_COLUMNS, *RARE_PROMPTS}:
        return raw if present & WRITTEN else {**raw, "completion": PLACEHOLDER}
    for name in present & set(DIALOG_COLUMNS):
        if isinstance(raw.get(name), list) and len(raw[name]) % 2 and all(isinstance(text, str) for text in raw[name]):
            return {**raw, name: [*raw[name], PLACEHOLDER]}
    turns_key = turns_column(raw)
    return _with_last_turn(raw, turns_key) if turns_key else raw


def _with_last_content(raw: Row) -> Row:
    contents = raw["contents"]
    if not isinstance(contents, list) or not contents or contents[-1].get("role") == "model":
        return raw
    return {**raw, "contents": [*contents, {"role": "model", "parts": [{"text": PLACEHOLDER}]}]}


def _with_last_turn(raw: Row, column: str) -> Row:
    turns = raw.get(column)
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return raw
    if turns[-1].get("role", turns[-1].get("from")) in SPOKEN_BY_MODEL:
        return raw
    keys = ("from", "value") if "from" in turns[-1] else ("role", "content")
    return {**raw, column: [*turns, {keys[0]: "assistant", keys[1]: PLACEHOLDER}]}
