"""Say where a template opens an answer differently from its generation prompt, and what makes both the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainer.errors import DataError
from trainer.tokens.encode import Row, place
from trainer.tokens.reasoning import shared_opening

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Template variables by which families choose whether an answer begins with reasoning."""
SHOWN = 40
"""Characters of either text in a message."""


def prompt_differs(render: Callable[..., str], row: Row, messages: list[Row], index: int) -> DataError:
    """Return the error for a turn that does not follow the prompt which a served model is given.

    Args:
        render: Renders messages of a row; with `prompt=True` as what a model is asked to go on with.
        row: The row.
        messages: Its turns.
        index: The turn.
    """
    prompt, whole = render(row, messages[:index], prompt=True), render(row, messages[: index + 1])
    shared = len(shared_opening(prompt, whole))
    ends, goes_on = prompt[shared : shared + SHOWN], whole[shared : shared + SHOWN]
    way = next(_ways(render, row, messages, index), None)
    return DataError(
        f"{place(row)}: the chat template opens turn {index} differently from its generation prompt, so the answer "
        "would be trained after another prompt than the model will see: "
        f"the prompt ends in {ends!r}, where the row has {goes_on!r}",
        hint=way or f"give a template in model.chat_template whose generation prompt does not end in {ends!r}",
    )


def _ways(render: Callable[..., str], row: Row, messages: list[Row], index: int) -> Iterator[str]:
    """Yield the template variables with which the turn follows its prompt."""
    given = row.get("chat_template_kwargs") or {}
    for name, value in ((name, value) for name in THINKING_SWITCHES for value in (False, True)):
        tried = {**row, "chat_template_kwargs": {**given, name: value}}
        if render(tried, messages[: index + 1]).startswith(render(tried, messages[:index], prompt=True)):
            where = "chat_template_kwargs of the row" if name in given else "model.chat_template_kwargs"
            yield f"set {where}: {{{name}: {str(value).lower()}}}, or give another template in model.chat_template"
