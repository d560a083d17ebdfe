"""Render the data as a page of its own, so that it can be read before anything is trained."""

from __future__ import annotations

from trainer.render.data.findings import count_findings
from trainer.render.data.view import data_view
from trainer.render.html import encodable, page_environment
from trainer.shapes.report import DataReport


def render_data_page(report: DataReport, previous: DataReport | None, *, name: str, trainer_version: str) -> str:
    """Render data/report.json as one self-contained HTML page.

    Args:
        report: data/report.json.
        previous: The report of the data's previous version, None where there is none.
        name: Name of the run.
        trainer_version: Version of this package.
    """
    view = data_view(report, previous)
    page = page_environment().get_template("data_page.html.j2")
    text = page.render(view=view, name=name, trainer_version=trainer_version, verdict=count_findings(view.findings))
    return encodable(text)
