"""Refuse templates that drop or rewrite part of a row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator

from trainer.data.records.kinds import Message, Record
from trainer.errors import DataError
from trainer.tokens.content import unguarded
from trainer.tokens.encode import location

THINK_TAG = re.compile(r"</?think>")
RENDERS_ALL = "give a template that renders it in model.chat_template, for example recipes/templates/chatml-tools.jinja"


def check_nothing_dropped(
    render: Callable[..., str], row: Record, messages: list[Message], text: str, trained: Collection[int]
) -> None:
    """Search the text for every turn, in order; only a system turn may be elsewhere.

    Args:
        render: Renders messages of a row.
        row: The row.
        messages: Its turns.
        text: The turns as rendered.
        trained: Indices of turns that are trained.

    Raises:
        DataError: The template drops part of the row.
    """
    start = 0
    for index, message in enumerate(messages):
        is_system = message["role"] == "system"
        ends = [start]
        for part in _parts(message, with_reasoning=index in trained):
            end = _find(part, text, 0 if is_system else start)
            if end is None:
                _refuse(render, row, messages, index, part, is_trained=index in trained)
            else:
                ends.append(end)
        # templates may print the system turn anywhere; all others must follow each other
        start = start if is_system else max(ends)
    for tool in row.get("tools") or []:
        name = str(tool.get("function", tool).get("name", ""))
        if name not in text:
            raise DataError(f"{location(row)}: the chat template drops the tool {unguarded(name)!r}", hint=RENDERS_ALL)


def _refuse(
    render: Callable[..., str], row: Record, messages: list[Message], index: int, part: str, *, is_trained: bool
) -> None:
    """Raise, unless the template only shortens its history (earlier reasoning) and that turn is not trained."""
    role = messages[index]["role"]
    if role == "assistant" and index < len(messages) - 1 and part in render(row, messages[: index + 1]):
        if is_trained:
            raise rewritten(row, index)
        return
    raise DataError(
        f"{location(row)}: the chat template drops part of the {role} turn {index}: {unguarded(part)!r:.60}",
        hint=RENDERS_ALL,
    )


def rewritten(row: Record, index: int) -> DataError:
    """Return the error for a turn that the template writes otherwise once later turns follow."""
    return DataError(
        f"{location(row)}: the chat template writes turn {index} differently once the conversation goes on, "
        "so the trained tokens of that turn are not what the model will see",
        hint="set pack.loss_on: last_turn, or give a template that keeps its history in model.chat_template",
    )


def content_parts(message: Message) -> list[str]:
    """Return the texts of a turn, cut at reasoning tags: templates may lay out reasoning and content anew.

    Example:
        >>> content_parts({"role": "assistant", "content": "<think>So?</think>Yes."})
        ['', 'So?', 'Yes.']
    """
    content = message.get("content")
    return [part.strip() for part in THINK_TAG.split(content)] if isinstance(content, str) else []


def _parts(message: Message, *, with_reasoning: bool) -> Iterator[str]:
    """Yield the parts of a turn that must be in the rendered text."""
    yield from content_parts(message)
    for call in message.get("tool_calls") or []:
        yield call["function"]["name"]
    for key in ("reasoning_content", "thinking"):
        if with_reasoning and message.get(key):
            yield message[key].strip()


def _find(part: str, text: str, start: int) -> int | None:
    """Return the end of a part in the text; some templates write tool results as JSON strings."""
    for form in (part, json.dumps(part, ensure_ascii=False)[1:-1]):
        position = text.find(form, start)
        if position >= 0:
            return position + len(form)
    return None
