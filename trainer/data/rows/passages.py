"""Put passages before a question: one template for rows, for the arms of `eval` and for `predict`."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data.records.kinds import Message
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.values import Notes, kind_of, parse_json

TEXT_KEYS = ("text", "passage_text", "content", "contents", "passage", "document", "page_content", "snippet", "body")
SENTENCE_KEYS = ("sentences", "paragraphs")
TITLE_KEYS = ("title", "name", "heading")


def with_passages(messages: Sequence[Message], passages: Sequence[str]) -> list[Message]:
    """Put passages before what was asked last; rows whose system turn says all get them as their only question."""
    turns = [message.copy() for message in messages]
    listed = "\n\n".join(f"[{number}] {passage}" for number, passage in enumerate(passages, start=1))
    listed = f"Use these passages if they help.\n\n{listed}"
    last = max((index for index, message in enumerate(turns) if message["role"] == "user"), default=None)
    if last is None:
        return [{"role": "user", "content": listed}, *turns]
    turns[last]["content"] = f"{listed}\n\n{turns[last]['content']}"
    return turns


def passages_of(value: object, where: str, notes: Notes) -> list[str]:
    """Return the passages of a column: one text, a list of texts or of objects, or an object of lists.

    Args:
        value: `"..."`, `["...", ...]`, `[{"title": ..., "text": ...}, ...]` or `{"title": [...], "text": [...]}`.
        where: name of the column, for messages.
        notes: ids of what was done to values are added.

    Raises:
        RowError: it is none of these.
    """
    if isinstance(value, str):
        listed = parse_json(value, notes) if value.lstrip()[:1] in ("[", "{") else None
        # A text may merely begin with a bracket.
        value = listed if isinstance(listed, (list, dict)) else value
    if isinstance(value, dict):
        value = _rows_of(value)
    items = value if isinstance(value, list) else [value]
    return [text for item in items if (text := _text_of(item, where).strip())]


def _rows_of(value: dict[str, object]) -> list[object]:
    """Turn an object of lists into a list of objects; one passage stays one."""
    columns = {name: cells for name, cells in value.items() if isinstance(cells, list)}
    if not columns or any(isinstance(value.get(name), str) for name in TEXT_KEYS):
        return [value]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=False)]


def _text_of(item: object, where: str) -> str:
    if isinstance(item, str):
        return item
    if item is None:
        return ""
    if isinstance(item, list) and all(isinstance(part, str) for part in item):
        return " ".join(part.strip() for part in item)
    if not isinstance(item, dict):
        raise RowError("unsupported_content", f"`{where}` holds {kind_of(item)} where a passage is expected")
    title = next((item[name] for name in TITLE_KEYS if isinstance(item.get(name), str)), "")
    for name in (*TEXT_KEYS, *SENTENCE_KEYS):
        if isinstance(item.get(name), (str, list)):
            text = _text_of(item[name], where)
            return f"{title}\n{text}" if title else text
    raise RowError(
        "unsupported_content", f"`{where}` holds an object without text: keys {mark_text(', '.join(map(str, item)))}"
    )
