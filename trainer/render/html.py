"""Set up HTML pages: templates, the one script with its policy, and the escaping of hostile text."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from trainer.render.metrics import write_difference, write_interval, write_value
from trainer.render.numbers import count_of, write_duration, write_number

_CODE = re.compile("`([^`\n]+)`")
# Characters that turn the direction of what follows: a text with them reads as another text than it is.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


@cache
def page_environment() -> Environment:
    """Return an environment that escapes everything: prompts and answers are not to be trusted."""
    environment = Environment(
        loader=PackageLoader("trainer.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters["prose"] = prose
    environment.globals.update(
        duration=write_duration,
        number=write_number,
        count_of=count_of,
        value=write_value,
        interval=write_interval,
        gain=write_difference,
        script=page_script,
        policy=script_policy,
        chart_style=chart_style,
    )
    return environment


def prose(text: object) -> Markup:
    """Write a sentence of ours: what stands between backticks is code, all of it is escaped."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def encodable(page: str) -> str:
    """Return a page that can be written as UTF-8, whatever a model has answered."""
    return page.encode("utf-8", "replace").decode("utf-8")


@cache
def page_script() -> Markup:
    """Return uPlot and our own script as the content of one script element."""
    return Markup(_static("uPlot.iife.min.js") + _static("page.js"))


@cache
def chart_style() -> Markup:
    """Return uPlot's style sheet."""
    return Markup(_static("uPlot.min.css"))


@cache
def script_policy() -> str:
    """Return the source of the content security policy that allows this one script and no other."""
    digest = hashlib.sha256(page_script().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _finalize(value: object) -> object:
    """Write out what would turn the direction of a text."""
    if not isinstance(value, str):
        return value
    visible = _TURNING.sub(lambda match: f"\u27e8U+{ord(match[0]):04X}\u27e9", value)
    return Markup(visible) if isinstance(value, Markup) else visible


def _static(name: str) -> str:
    return resources.files("trainer.render").joinpath("static", name).read_text(encoding="utf-8")
