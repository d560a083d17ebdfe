"""One raw row, in any of the usual layouts, made canonical.

A canonical row is one of

    {"messages": [...], "tools"?, "chat_template_kwargs"?}
    {"prompt": [...], "chosen": [...], "rejected": [...], "tools"?, "chat_template_kwargs"?}
    {"prompt": [...], "completion": [...], "label": true | false, "tools"?, "chat_template_kwargs"?}
    {"text": "..."}
    {"input_ids": [...], "labels": [...]}

followed by "metadata" (every other column), "source" and "line".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, assert_never

from trainer.data.checks import check_record
from trainer.data.columns import (
    COMPLETION_COLUMNS,
    INPUT_COLUMNS,
    OUTPUT_COLUMNS,
    PROMPT_COLUMNS,
    TURN_COLUMNS,
    Columns,
)
from trainer.data.labelled import parse_verdict, split_answer
from trainer.data.preference import split_pair
from trainer.data.reasons import RowError
from trainer.data.shape import check_shape
from trainer.data.token_rows import parse_tokens
from trainer.data.turns import Message, canonical_tools, canonical_turns, kind_of, shorten, text_of
from trainer.recipe.data import Format

Record = dict[str, Any]


class Parsed(NamedTuple):
    """A canonical row and the layout it came in."""

    format: Format
    record: Record


def parse_row(
    raw: object,
    *,
    source: str,
    line: int,
    format: Format = "auto",
    mapping: Mapping[str, str] | None = None,
    check: bool = True,
) -> Parsed:
    """Make one raw row canonical and check it.

    Args:
        raw: the row as read.
        source: name of its file, kept in the row.
        line: 1-based line or row number in the file.
        format: layout; auto tells it from the columns.
        mapping: our name -> column of the file, or a dotted path into it.
        check: False leaves the check of the turns to the cleaning that follows, which may put them right.

    Raises:
        RowError: the row cannot be used; it says why.
    """
    if not isinstance(raw, dict):
        raise RowError("not_an_object", f"the row is {kind_of(raw)}, not an object")
    check_shape(raw)
    columns = Columns(raw, mapping or {})
    layout = detect_format(columns.values) if format == "auto" else format
    record = _parse_layout(columns, layout)
    if metadata := columns.metadata():
        record["metadata"] = metadata
    if check:
        check_record(record)
    return Parsed(layout, {**record, "source": source, "line": line})


def detect_format(row: Mapping[str, Any]) -> Format:
    """Tell the layout of a row from its columns.

    Raises:
        RowError: no known layout, or columns that can be read in two ways: those are never guessed.
    """
    present = {name for name, value in row.items() if value is not None}
    if "input_ids" in present:
        return "tokens"
    if {"chosen", "rejected"} <= present or ("rejected_response" in present and _conversation_format(present)):
        return "preference"
    layout = _conversation_format(present)
    if layout and ("kto_tag" in present or isinstance(row.get("label"), bool)):
        return "kto"
    if layout:
        return layout
    if "text" in present and not present & {"label", "labels"}:
        return "text"
    raise RowError("unknown_format", _unknown_detail(row))


def _conversation_format(present: set[str]) -> Format | None:
    if "messages" in present:
        return "messages"
    if present & {"conversations", "conversation"}:
        return "sharegpt"
    if "instruction" in present and present & set(OUTPUT_COLUMNS):
        return "alpaca"
    if present & set(PROMPT_COLUMNS) and present & set(COMPLETION_COLUMNS):
        return "prompt_completion"
    return None


def _unknown_detail(row: Mapping[str, Any]) -> str:
    names = shorten(", ".join(map(str, row)), 120)
    if "text" in row:
        return f"columns {names}: set format: text, or mapping: {{prompt: text, completion: label}}"
    return f"columns {names}: set mapping, such as {{prompt: COLUMN, completion: COLUMN}}"


def _parse_layout(columns: Columns, layout: Format) -> Record:
    """Build the canonical row of a layout, without metadata.

    Raises:
        RowError: a column is missing or broken.
    """
    match layout:
        case "messages" | "sharegpt" | "alpaca" | "prompt_completion":
            record: Record = {"messages": _PARSERS[layout](columns)}
        case "preference":
            record = _parse_preference(columns)
        case "kto":
            record = _parse_kto(columns)
        case "text":
            return {"text": _parse_text(columns)}
        case "tokens":
            return parse_tokens(columns)
        case "auto":
            raise AssertionError("the layout is settled before")
        case _:
            assert_never(layout)
    _add_extras(columns, record)
    return record


def _add_extras(columns: Columns, record: Record) -> None:
    opening = record["prompt" if "prompt" in record else "messages"]
    # A system turn of the conversation wins over the column, which then stays in the metadata (as LLaMA-Factory does).
    if columns.has("system") and opening and opening[0]["role"] != "system":
        system = text_of(columns.take("system"), "system")
        if system.strip():
            opening.insert(0, {"role": "system", "content": system})
    if columns.has("tools") and (tools := canonical_tools(columns.take("tools"))):
        record["tools"] = tools
    if columns.has("chat_template_kwargs") and isinstance(columns.values["chat_template_kwargs"], dict):
        record["chat_template_kwargs"] = columns.take("chat_template_kwargs")


def _parse_turns(columns: Columns) -> list[Message]:
    name = columns.one_of(TURN_COLUMNS)
    return canonical_turns(columns.take(name), name)


def _turns_of(value: object, role: str, place: str) -> list[Message]:
    """Read a column that holds one turn's text, or turns."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, (dict, list)):
        return canonical_turns(value, place)
    raise RowError("unsupported_content", f"{place}: {kind_of(value)} where text is expected")


def _parse_prompt_completion(columns: Columns) -> list[Message]:
    prompt, completion = columns.one_of(PROMPT_COLUMNS), columns.one_of(COMPLETION_COLUMNS)
    opening = _turns_of(columns.take(prompt), "user", prompt)
    return opening + _turns_of(columns.take(completion), "assistant", completion)


def _parse_alpaca(columns: Columns) -> list[Message]:
    output = columns.one_of(OUTPUT_COLUMNS)
    return _alpaca_prompt(columns) + _turns_of(columns.take(output), "assistant", output)


def _alpaca_prompt(columns: Columns) -> list[Message]:
    """Read instruction, input and history: earlier turns, then one user turn.

    Raises:
        RowError: a history that is not a list of pairs, or a column that is not text.
    """
    parts = [columns.take("instruction")]
    if any(columns.has(name) for name in INPUT_COLUMNS):
        parts.append(columns.take(columns.one_of(INPUT_COLUMNS)))
    if not all(part is None or isinstance(part, str) for part in parts):
        raise RowError("unsupported_content", "instruction or input is not text")
    return [*_history_turns(columns.take("history")), {"role": "user", "content": "\n".join(p for p in parts if p)}]


def _history_turns(history: object) -> list[Message]:
    turns: list[Message] = []
    for pair in history if isinstance(history, list) else []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError("unknown_format", "history is not a list of [question, answer]")
        turns += [*_turns_of(pair[0], "user", "history"), *_turns_of(pair[1], "assistant", "history")]
    return turns


def _parse_kto(columns: Columns) -> Record:
    verdict = parse_verdict(columns)
    layout = _conversation_format({name for name in columns.values if columns.has(name)})
    if layout is None:
        raise RowError("unknown_format", f"no answer to judge in a row with {columns.described()}")
    prompt, completion = split_answer(_PARSERS[layout](columns))
    return {"prompt": prompt, "completion": completion, "label": verdict}


def _parse_preference(columns: Columns) -> Record:
    if columns.has("rejected_response") and not columns.has("rejected"):  # ms-swift: the other answer is the good one
        return _parse_second_answer(columns)
    prompt, chosen, rejected = _preference_prompt(columns), columns.take("chosen"), columns.take("rejected")
    turns = split_pair(prompt, chosen, rejected)
    return dict(zip(("prompt", "chosen", "rejected"), turns, strict=True))


def _parse_second_answer(columns: Columns) -> Record:
    layout = _conversation_format({name for name in columns.values if columns.has(name)})
    if layout is None:
        raise RowError("unknown_format", f"no chosen answer in a row with {columns.described()}")
    prompt, chosen = split_answer(_PARSERS[layout](columns))
    rejected = _turns_of(columns.take("rejected_response"), "assistant", "rejected_response")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _preference_prompt(columns: Columns) -> list[Message] | None:
    """Return the prompt that the row states, or None where it is part of chosen and rejected."""
    for name in ("prompt", "question", "query"):
        if columns.has(name):
            return _turns_of(columns.take(name), "user", name)
    if any(columns.has(name) for name in TURN_COLUMNS):
        return _parse_turns(columns)
    return _alpaca_prompt(columns) if columns.has("instruction") else None


def _parse_text(columns: Columns) -> str:
    text = columns.take("text")
    if not isinstance(text, str):
        raise RowError("unknown_format", f"`text` is {kind_of(text)} in a row with {columns.described()}")
    return text


_PARSERS: dict[Format, Callable[[Columns], list[Message]]] = {
    "messages": _parse_turns,
    "sharegpt": _parse_turns,
    "alpaca": _parse_alpaca,
    "prompt_completion": _parse_prompt_completion,
}
"""The layouts of one conversation."""
