"""Detect chat templates that print today's date, and replace it by a fixed date.

transformers gives templates a function `strftime_now`. Its date is in every prompt: rows are trained with the day on
which they were tokenized, and the model is served on other days.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from trainer.data.records.kinds import Record

ASKS_TODAY = re.compile(r"""strftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
DATE_VARIABLE = "date_string"
"""Variable of Llama's templates for a date in place of today's."""
LEFT, RIGHT = "\uf4f0", "\uf4f1"
"""Private-use characters around the format of a date."""
PRINTS_FORMATS = f"{{%- macro strftime_now(form) -%}}{LEFT}{{{{ form }}}}{RIGHT}{{%- endmacro -%}}"
"""Replaces the function in the template that follows."""

Render = Callable[..., str]
"""Renders a row with a `template`."""


def formats_of_today(render: Render, row: Record, template: str) -> list[str]:
    """Return the formats in which a template prints today's date into a row."""
    # a macro shadows the function, so calls inside loops, macros and conditions are found as they run
    text = render(row, template=PRINTS_FORMATS + template)
    return re.findall(f"{LEFT}(.*?){RIGHT}", text)


def takes_a_date(render: Render, row: Record, template: str) -> bool:
    """Tell whether a date in `date_string` keeps a template from printing today's."""
    variables = {**(row.get("chat_template_kwargs") or {}), DATE_VARIABLE: "1 Jan 2000"}
    return not formats_of_today(render, {**row, "chat_template_kwargs": variables}, template)


def with_fixed_date(template: str, today: datetime) -> str:
    """Return the template with a fixed date in place of each call for today's.

    Example:
        >>> with_fixed_date("{{ strftime_now('%d %b %Y') }}", datetime(2024, 7, 26))
        '{{ "26 Jul 2024" }}'
    """

    def date(match: re.Match[str]) -> str:
        text = today.strftime(match[1] if match[1] is not None else match[2])
        return f'"{text}"'

    return ASKS_TODAY.sub(date, template)
