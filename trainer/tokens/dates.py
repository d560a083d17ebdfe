"""Find out whether a chat template prints today's date, and write one that always prints the same.

transformers gives templates a function `strftime_now`. What they print with it is in every prompt: rows are trained
with the day on which they were tokenized, and the model is served on others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from trainer.tokens.encode import Row

ASKS_TODAY = re.compile(r"""strftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
DATE_VARIABLE = "date_string"
"""By which Llama's templates take a date in place of today's."""


def formats_of_today(render: Callable[[Row], str], row: Row) -> list[str]:
    """Return the formats in which a template prints today's date into a row.

    Args:
        render: Renders a row with the variables of its `chat_template_kwargs`.
        row: Any row.
    """
    formats: list[str] = []

    def strftime_now(form: str) -> str:
        formats.append(form)
        return datetime.now().strftime(form)

    render(_with_variables(row, strftime_now=strftime_now))
    return formats


def takes_a_date(render: Callable[[Row], str], row: Row) -> bool:
    """Tell whether a date in `date_string` keeps a template from asking for today's."""
    return not formats_of_today(render, _with_variables(row, **{DATE_VARIABLE: "1 Jan 2000"}))


def with_fixed_date(template: str, today: datetime) -> str:
    """Return the template with one day's date in place of each question for today's."""

    def date(match: re.Match[str]) -> str:
        text = today.strftime(match[1] if match[1] is not None else match[2])
        return f'"{text}"'

    return ASKS_TODAY.sub(date, template)


def _with_variables(row: Row, **variables: object) -> Row:
    return {**row, "chat_template_kwargs": {**(row.get("chat_template_kwargs") or {}), **variables}}
