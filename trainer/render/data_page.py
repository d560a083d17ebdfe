"""The data as a page of its own, so that it can be read before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.render.data import data_view, verdict_of
from trainer.render.page import encodable, page_environment


def render_data_page(
    report: Mapping[str, Any], previous: Mapping[str, Any] | None, *, name: str, trainer_version: str
) -> str:
    """Render data/report.json as one self-contained HTML page.

    Args:
        report: data/report.json, see `trainer.render.data`.
        previous: the report of the data's previous version, None where there is none.
        name: name of the run.
        trainer_version: version of this package.
    """
    view = data_view(report, previous)
    page = page_environment().get_template("data_page.html.j2")
    text = page.render(view=view, name=name, trainer_version=trainer_version, verdict=verdict_of(view.findings))
    return encodable(text)
