"""Explain where a template opens an answer otherwise than its generation prompt, and suggest a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainer.data.records.kinds import Message, Record
from trainer.errors import DataError
from trainer.tokens.encode import location
from trainer.tokens.reasoning import shared_opening

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Template variables that switch reasoning on or off."""
MESSAGE_CHARACTERS = 40
"""Characters of either text in a message."""


def prompt_differs(render: Callable[..., str], row: Record, messages: list[Message], index: int) -> DataError:
    """Return the error for a turn that does not begin with its prompt in serving.

    Args:
        render: Renders messages of a row; with `prompt=True` a prompt, up to the opening of the answer.
        row: The row.
        messages: Its turns.
        index: The turn.
    """
    prompt, text = render(row, messages[:index], prompt=True), render(row, messages[: index + 1])
    shared = len(shared_opening(prompt, text))
    ends, goes_on = prompt[shared : shared + MESSAGE_CHARACTERS], text[shared : shared + MESSAGE_CHARACTERS]
    remedy = next(_remedies(render, row, messages, index), None)
    return DataError(
        f"{location(row)}: the chat template opens turn {index} differently from its generation prompt, so the answer "
        "would be trained after another prompt than the model will see: "
        f"the prompt ends in {ends!r}, where the row has {goes_on!r}",
        hint=remedy or f"give a template in model.chat_template whose generation prompt does not end in {ends!r}",
    )


def _remedies(render: Callable[..., str], row: Record, messages: list[Message], index: int) -> Iterator[str]:
    """Yield template variables with which the turn begins with its prompt."""
    variables = row.get("chat_template_kwargs") or {}
    for name, value in ((name, value) for name in THINKING_SWITCHES for value in (False, True)):
        changed = {**row, "chat_template_kwargs": {**variables, name: value}}
        if render(changed, messages[: index + 1]).startswith(render(changed, messages[:index], prompt=True)):
            where = "chat_template_kwargs of the row" if name in variables else "model.chat_template_kwargs"
            yield f"set {where}: {{{name}: {str(value).lower()}}}, or give another template in model.chat_template"
