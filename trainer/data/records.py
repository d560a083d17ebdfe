"""One raw row, in any of the usual layouts, made canonical.

A canonical row is one of

    {"messages": [...], "tools"?, "chat_template_kwargs"?}
    {"prompt": [...], "chosen": [...], "rejected": [...], "tools"?, "chat_template_kwargs"?}
    {"text": "..."}

followed by "metadata" (every other column), "source" and "line".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, assert_never

from trainer.data.checks import check_record
from trainer.data.preference import split_pair
from trainer.data.reasons import RowError
from trainer.data.turns import Message, canonical_tools, canonical_turns, kind_of, shorten
from trainer.recipe.data import Format

Record = dict[str, Any]

TURN_COLUMNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = ("prompt", "question", "query", "input")
COMPLETION_COLUMNS = ("completion", "response", "answer", "output")
INPUT_COLUMNS = ("input", "context")
OUTPUT_COLUMNS = ("output", "response")
MAPPABLE = frozenset(
    {*TURN_COLUMNS, *PROMPT_COLUMNS, *COMPLETION_COLUMNS, *INPUT_COLUMNS, "instruction", "history", "system"}
    | {"chosen", "rejected", "text", "tools", "chat_template_kwargs"}
)
"""Names that `data.sources[].mapping` may give a column."""


class Parsed(NamedTuple):
    """A canonical row and the layout it came in."""

    format: Format
    record: Record


class Columns:
    """The columns of one row; remembers which were used, so that the others can be kept as metadata."""

    def __init__(self, raw: Mapping[str, Any], mapping: Mapping[str, str]) -> None:
        missing = [column for column in mapping.values() if column not in raw]
        if missing:
            raise RowError("unknown_format", f"no column {missing[0]!r}, which `mapping` names")
        mapped = {name: raw[column] for name, column in mapping.items()}
        rest = {name: value for name, value in raw.items() if name not in mapping.values()}
        self.values: dict[str, Any] = {**rest, **mapped}
        self.shadowed = {name: value for name, value in rest.items() if name in mapped}
        self.used: set[str] = set()

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def take(self, name: str) -> Any:
        """Return the column, or None, and mark it as used."""
        self.used.add(name)
        return self.values.get(name)

    def one_of(self, names: tuple[str, ...]) -> str:
        """Return the one of `names` that the row has; the first name wins, of the others only one may be there.

        Raises:
            RowError: none of them, or several.
        """
        found = [name for name in names if self.has(name)]
        if not found:
            raise RowError("unknown_format", f"none of {', '.join(names)} in a row with {self.described()}")
        if len(found) > 1 and found[0] != names[0]:
            raise RowError("unknown_format", f"both {' and '.join(found)}; say which by mapping: {{{names[0]}: ...}}")
        return found[0]

    def described(self) -> str:
        return shorten("columns " + ", ".join(map(str, self.values)), 200)

    def metadata(self) -> dict[str, Any]:
        """Return the columns that were not used; a `metadata` column is merged in, so that our own files read back."""
        rest = {
            name: value
            for name, value in self.values.items()
            if name not in self.used and not (value is None and name in MAPPABLE)
        }
        own = rest.pop("metadata") if isinstance(rest.get("metadata"), dict) else {}
        return {**own, **rest, **self.shadowed}


def parse_row(
    raw: object, *, source: str, line: int, format: Format = "auto", mapping: Mapping[str, str] | None = None
) -> Parsed:
    """Make one raw row canonical and check it.

    Args:
        raw: the row as read.
        source: name of its file, kept in the row.
        line: 1-based line or row number in the file.
        format: layout; auto tells it from the columns.
        mapping: our name -> column of the file.

    Raises:
        RowError: the row cannot be used; it says why.
    """
    if not isinstance(raw, dict):
        raise RowError("not_an_object", f"the row is {kind_of(raw)}, not an object")
    columns = Columns(raw, mapping or {})
    layout = detect_format(columns.values) if format == "auto" else format
    record = _parse_layout(columns, layout)
    if metadata := columns.metadata():
        record["metadata"] = metadata
    check_record(record)
    return Parsed(layout, {**record, "source": source, "line": line})


def detect_format(row: Mapping[str, Any]) -> Format:
    """Tell the layout of a row from its columns.

    Raises:
        RowError: no known layout, or columns that can be read in two ways: those are never guessed.
    """
    present = {name for name, value in row.items() if value is not None}
    if "input_ids" in present:
        raise RowError("unknown_format", "tokenised rows (`input_ids`) are not read; give the text")
    if {"chosen", "rejected"} <= present:
        return "preference"
    layout = _conversation_format(present)
    if layout and ("kto_tag" in present or isinstance(row.get("label"), bool)):
        raise RowError(
            "unknown_format", f"a true/false label beside the answer (KTO rows); set format: {layout} to train on all"
        )
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
        case "messages" | "sharegpt":
            record: Record = {"messages": _parse_turns(columns)}
        case "alpaca":
            record = {"messages": _parse_alpaca(columns)}
        case "prompt_completion":
            record = {"messages": _parse_prompt_completion(columns)}
        case "preference":
            record = _parse_preference(columns)
        case "text":
            return {"text": _parse_text(columns)}
        case "auto":
            raise AssertionError("the layout is settled before")
        case _:
            assert_never(layout)
    _add_extras(columns, record)
    return record


def _add_extras(columns: Columns, record: Record) -> None:
    opening = record["prompt" if "chosen" in record else "messages"]
    # A system turn of the conversation wins over the column, which then stays in the metadata (as LLaMA-Factory does).
    if columns.has("system") and opening and opening[0]["role"] != "system":
        system = columns.take("system")
        if not isinstance(system, str):
            raise RowError("unsupported_content", f"system: {kind_of(system)} where text is expected")
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


def _parse_preference(columns: Columns) -> Record:
    prompt, chosen, rejected = _preference_prompt(columns), columns.take("chosen"), columns.take("rejected")
    turns = split_pair(prompt, chosen, rejected)
    return dict(zip(("prompt", "chosen", "rejected"), turns, strict=True))


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
