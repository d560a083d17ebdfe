from __future__ import annotations

from io import StringIO

from rich.console import Console

from tests.unit.render.facts import SCORES, scores
from trainer.render.scores.terminal import scores_table


def written(renderable: object, *, colour: bool = False) -> str:
    console = Console(file=StringIO(), width=120, force_terminal=colour, color_system="standard" if colour else None)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_has_a_row_for_each_metric_in_its_unit() -> None:
    lines = [" ".join(line.split()) for line in written(scores_table(SCORES)).splitlines()]
    assert lines == [
        "metric base tuned difference",
        "exact match 61.0% 58.0 to 64.0 84.5% 82.2 to 86.7 +23.5 points +20.6 to +26.3",
        "loss (nats/token) 1.214 1.180 to 1.250 0.498 0.480 to 0.517 \u22120.716",
        "latency p50 (s) 0.38 0.41 +0.03",
    ]


def test_intervals_are_dim() -> None:
    assert "\x1b[2m  58.0 to 64.0" in written(scores_table(SCORES), colour=True)


def test_a_table_without_scores_is_only_its_head() -> None:
    assert len(written(scores_table(scores())).splitlines()) == 1
