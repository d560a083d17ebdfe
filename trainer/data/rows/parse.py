"""Convert one raw row, in any of the usual layouts, to its canonical form.

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
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple, assert_never

from trainer.data.records.kinds import Message, Record
from trainer.data.records.reasons import RowError
from trainer.data.rows import conversations
from trainer.data.rows.checks import check_record
from trainer.data.rows.columns import (
    IMAGE_COLUMNS,
    REASONING_COLUMNS,
    REJECTED_COLUMNS,
    SYSTEM_COLUMNS,
    TOOL_COLUMNS,
    TURN_COLUMNS,
    Columns,
    plain_names,
)
from trainer.data.rows.images import refuse_images
from trainer.data.rows.judged_answers import parse_ranked, parse_two_answers
from trainer.data.rows.labelled import parse_verdict, split_answer
from trainer.data.rows.layouts import conversation_format, detect_format, two_outputs
from trainer.data.rows.nesting import check_shape
from trainer.data.rows.pairs import split_pair
from trainer.data.rows.token_rows import parse_tokens
from trainer.data.rows.tool_calls import canonical_tools
from trainer.data.rows.turns import canonical_turns, lost_keys, text_of
from trainer.data.rows.values import kind_of
from trainer.recipe.data import Format

__all__ = ["Parsed", "Record", "detect_format", "parse_row"]


class Parsed(NamedTuple):
    """A canonical row and the layout it came in."""

    format: Format
    record: Record
    used: list[str]
    """Columns that the row is made of, as the file names them."""
    unused: list[str]
    """Columns that hold something and are kept as metadata only, and keys of turns that are lost."""
    notes: set[str]
    """Ids of what was done to values, see `usage.NOTES`."""


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
        mapping: our name -> column of the file, or a dotted path into it; empty for no column.
        check: False leaves the check of the turns to the cleaning that follows, which may put them right.

    Raises:
        RowError: the row cannot be used; it says why.
    """
    if not isinstance(raw, dict):
        raise RowError("not_an_object", f"the row is {kind_of(raw)}, not an object")
    check_shape(raw)
    columns, layout = _layout_of(raw, mapping or {}, format)
    record = _parse_layout(columns, layout)
    if columns.first_of(IMAGE_COLUMNS):
        refuse_images(record, columns)
    used, unused = columns.used_names(), columns.unused()
    if metadata := columns.metadata():
        record["metadata"] = metadata
    if check:
        check_record(record)
    return Parsed(layout, {**record, "source": source, "line": line}, used, unused, columns.notes)


def _layout_of(raw: dict[str, object], mapping: Mapping[str, str], format: Format) -> tuple[Columns, Format]:
    """Return the columns of a row and their layout; where none fits, names in capitals are tried as ours.

    Raises:
        RowError: no layout fits.
    """
    columns = Columns(raw, mapping)
    if format != "auto":
        return columns, format
    try:
        return columns, detect_format(columns.visible())
    except RowError:
        if names := plain_names(raw, mapping):
            renamed = Columns(raw, {**mapping, **names})
            with suppress(RowError):
                return renamed, detect_format(renamed.visible())
        raise


def _parse_layout(columns: Columns, layout: Format) -> Record:
    """Build the canonical row of a layout, without metadata.

    Raises:
        RowError: a column is missing or broken.
    """
    match layout:
        case "messages" | "sharegpt" | "dialog" | "gemini" | "openai_batch" | "alpaca" | "prompt_completion" | "rag":
            record: Record = {"messages": _PARSERS[layout](columns)}
        case "preference" | "ranked_pairs":
            record = _parse_preference(columns)
        case "openai_preference":
            record = _parse_openai_preference(columns)
        case "two_answers":
            record = _pair(columns, *parse_two_answers(columns))
        case "ranked":
            record = _pair(columns, *parse_ranked(columns))
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
    """Add what columns beside the turns say: system prompt, reasoning, tools, settings of the template."""
    opening = record["prompt" if "prompt" in record else "messages"]
    # A system turn of the conversation wins over the column, which then stays in the metadata (as LLaMA-Factory does).
    if opening and opening[0]["role"] != "system":
        system = _system_of(columns)
        if system.strip():
            opening.insert(0, {"role": "system", "content": system})
    _add_reasoning(columns, record)
    if _has_called_text(record):
        columns.notes.add("calls_as_text")
    name = columns.first_of(TOOL_COLUMNS)
    if name and (tools := canonical_tools(columns.take(name), columns.notes)):
        record["tools"] = tools
    if columns.has("chat_template_kwargs") and isinstance(kwargs := columns.values["chat_template_kwargs"], dict):
        columns.take("chat_template_kwargs")
        record["chat_template_kwargs"] = kwargs


def _has_called_text(record: Record) -> bool:
    """Whether a tool answers a call that is written as text."""
    turns = [*record.get("prompt", ()), *(record.get("messages") or record.get("chosen") or ())]
    return any(
        after["role"] == "tool" and "tool_calls" not in before and before["role"] == "assistant"
        for before, after in pairwise(turns)
    )


def _system_of(columns: Columns) -> str:
    name = columns.first_of(SYSTEM_COLUMNS)
    if name in ("systemInstruction", "system_instruction"):
        return conversations.gemini_system(columns)
    return text_of(columns.take(name), name, columns.notes) if name else ""


def _add_reasoning(columns: Columns, record: Record) -> None:
    """Give the last answer the reasoning that stands in a column of its own."""
    answer = record.get("messages") or record.get("completion") or []
    name = columns.first_of(REASONING_COLUMNS)
    if not name or not answer or answer[-1]["role"] != "assistant":
        return
    reasoning = columns.values[name]
    if isinstance(reasoning, str) and reasoning.strip() and not {"reasoning_content", "thinking"} & answer[-1].keys():
        columns.take(name)
        answer[-1]["reasoning_content"] = reasoning


def _parse_kto(columns: Columns) -> Record:
    verdict = parse_verdict(columns)
    prompt, completion = split_answer(_parse_conversation(columns, "no answer to judge"))
    return {"prompt": prompt, "completion": completion, "label": verdict}


def _parse_conversation(columns: Columns, missing: str) -> list[Message]:
    """Read the conversation of a row that holds more than that.

    Raises:
        RowError: `missing`, where there is none.
    """
    layout = conversation_format({name: value for name, value in columns.present().items() if name not in columns.used})
    if layout is None:
        raise RowError("unknown_format", f"{missing} in a row with {columns.described()}")
    return _PARSERS[layout](columns)


def _parse_preference(columns: Columns) -> Record:
    if not columns.has("rejected"):
        if name := columns.first_of(REJECTED_COLUMNS):  # ms-swift: the other answer is the good one
            return _parse_second_answer(columns, name)
        if outputs := two_outputs(columns.present()):
            name, better, worse = outputs
            columns.take(name)
            return _pair(columns, conversations.alpaca_prompt(columns), better, worse)
    prompt, chosen, rejected = _preference_prompt(columns), columns.take("chosen"), columns.take("rejected")
    return _pair(columns, prompt, chosen, rejected)


def _pair(columns: Columns, prompt: list[Message] | None, chosen: object, rejected: object) -> Record:
    shared, better, worse = split_pair(prompt, chosen, rejected, columns.notes)
    return {"prompt": shared, "chosen": better, "rejected": worse}


def _parse_second_answer(columns: Columns, name: str) -> Record:
    """Read a worse answer beside a conversation that ends with the better one; it may repeat what comes before."""
    value = columns.take(name)
    if name == "rejected_messages":
        columns.lost_keys |= lost_keys(value, name)
        rejected = canonical_turns(value, name, columns.notes)
    else:
        rejected = conversations.turns_of(value, "assistant", name, columns.notes)
    turns = _parse_conversation(columns, "no chosen answer")
    if rejected[0]["role"] != "assistant":
        system = turns[:1] if turns[0]["role"] == "system" != rejected[0]["role"] else []
        return _pair(columns, None, turns, [*system, *rejected])
    prompt, chosen = split_answer(turns)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _parse_openai_preference(columns: Columns) -> Record:
    """Read OpenAI's pairs, whose prompt and tools stand in `input`.

    Raises:
        RowError: `input` holds no messages.
    """
    request = columns.take("input")
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        raise RowError("unknown_format", "`input` holds no `messages`")
    columns.lost_keys |= {f"input.{name}" for name in request if name not in ("messages", *TOOL_COLUMNS)}
    columns.values |= {name: request[name] for name in TOOL_COLUMNS if name in request and name not in columns.values}
    prompt = canonical_turns(request["messages"], "input.messages", columns.notes)
    return _pair(columns, prompt, columns.take("preferred_output"), columns.take("non_preferred_output"))


def _preference_prompt(columns: Columns) -> list[Message] | None:
    """Return the prompt that the row states, or None where it is part of chosen and rejected."""
    for name in ("prompt", "question", "query"):
        if columns.has(name):
            return conversations.turns_of(columns.take(name), "user", name, columns.notes)
    if any(columns.has(name) for name in TURN_COLUMNS):
        return conversations.parse_turns(columns)
    if columns.has("instruction"):
        return conversations.alpaca_prompt(columns)
    rare = columns.first_of(("input", "inputs"))
    return conversations.turns_of(columns.take(rare), "user", rare, columns.notes) if rare else None


def _parse_text(columns: Columns) -> str:
    text = columns.take("text")
    if text is None:
        raise RowError("empty_content", "`text` is null")
    if not isinstance(text, str):
        raise RowError("unknown_format", f"`text` is {kind_of(text)} in a row with {columns.described()}")
    return text


_PARSERS: dict[Format, Callable[[Columns], list[Message]]] = {
    "messages": conversations.parse_turns,
    "sharegpt": conversations.parse_turns,
    "dialog": conversations.parse_dialog,
    "gemini": conversations.parse_gemini,
    "openai_batch": conversations.parse_batch,
    "alpaca": conversations.parse_alpaca,
    "prompt_completion": conversations.parse_prompt_completion,
    "rag": conversations.parse_rag,
}
"""The layouts of one conversation."""
