"""Refuse templates that drop part of a row."""

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
RENDERS_TOOLS = (
    "set model.chat_template_prefix: recipes/templates/tools-as-text.jinja, which writes tools, calls and results as "
    "text for any chat template"
)


def check_nothing_dropped(
    render: Callable[..., str], row: Record, messages: list[Message], text: str, trained: Collection[int]
) -> None:
    """Search the text for every turn, in order; only a system turn may be elsewhere.

    Reasoning may be left out of turns that are not trained: many templates do so once a question follows.

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
            if end is not None:
                ends.append(end)
            elif index in trained or not _is_shortened(render, row, messages, index, part):
                raise DataError(
                    f"{location(row)}: the chat template drops part of the {message['role']} turn {index}: "
                    f"{unguarded(part)!r:.60}",
                    hint=RENDERS_TOOLS if _is_of_tools(message) else RENDERS_ALL,
                )
        start = start if is_system else max(ends)
    for tool in row.get("tools") or []:
        name = str(tool.get("function", tool).get("name", ""))
        if name not in text:
            raise DataError(
                f"{location(row)}: the chat template drops the tool {unguarded(name)!r}", hint=RENDERS_TOOLS
            )


def way_out(row: Record, messages: Collection[Message], error: str) -> str:
    """Say what keeps a row that the template refuses."""
    if row.get("tools") or any(map(_is_of_tools, messages)):
        return RENDERS_TOOLS
    if any(message["role"] == "system" for message in messages) and "system" in error.lower():
        return (
            "set model.chat_template_prefix: recipes/templates/system-as-user.jinja, which puts the system turn before "
            "the first question"
        )
    return "remove or change the row, or give a template that takes it in model.chat_template"


def _is_of_tools(message: Message) -> bool:
    return bool(message.get("tool_calls")) or message["role"] == "tool"


def _is_shortened(render: Callable[..., str], row: Record, messages: list[Message], index: int, part: str) -> bool:
    """Tell whether the template writes an answer whole until later turns follow."""
    is_answer = messages[index]["role"] == "assistant" and index < len(messages) - 1
    return is_answer and part in render(row, messages[: index + 1])


def holds(message: Message, text: str) -> bool:
    """Tell whether a text has all parts of a turn, its reasoning included."""
    return all(_find(part, text, 0) is not None for part in _parts(message, with_reasoning=True))


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
    parts = content_parts(message)
    yield from parts if with_reasoning or message["role"] != "assistant" else parts[-1:]
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
