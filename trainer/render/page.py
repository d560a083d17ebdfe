"""The templates of every HTML page."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from trainer.render.format import write_duration, write_number
from trainer.render.metrics import write_difference, write_interval, write_value


def page_environment() -> Environment:
    """Return an environment that escapes everything: prompts and answers are not to be trusted."""
    environment = Environment(
        loader=PackageLoader("trainer.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        duration=write_duration, number=write_number, value=write_value, interval=write_interval, gain=write_difference
    )
    return environment
