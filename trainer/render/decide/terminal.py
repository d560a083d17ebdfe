"""Show a decision on the terminal: the arms, the verdict and its reasons."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainer.render.decide.rows import arm_rows, write_confidence
from trainer.render.numbers import count_of
from trainer.shapes.decision import Decision

COLUMNS = ("quality", "prompt\ntokens", "answer\ntokens", "p50", "p95")
COST_COLUMNS = ("per\n1,000", "per\naccepted")


def decide_summary(decision: Decision) -> Group:
    """Return the arms as a table, and the verdict in one line with the reasons below it."""
    prices = decision["assumptions"]["prices"]
    basis = f"costs in {prices['currency']}, prices of {prices['as_of']}" if prices else "no prices in the recipe"
    return Group(
        _arms(decision),
        Text(""),
        Text(f"{decision['metric']} on {count_of(decision['heldout_rows'], 'row')}; {basis}", style="dim"),
        Text(""),
        Text(decision["headline"], style="bold"),
        *(Text(f"  {sentence}") for sentence in decision["because"]),
        Text(f"  {write_confidence(decision)}", style="dim"),
    )


def _arms(decision: Decision) -> Table:
    has_prices = decision["assumptions"]["prices"] is not None
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("arm", overflow="fold")  # the only column that gives way: a figure is never cut
    for name in COLUMNS + (COST_COLUMNS if has_prices else ()):
        table.add_column(name, justify="right", no_wrap=True)
    for row in arm_rows(decision):
        quality = Text.assemble(row.quality, (f" [{row.interval}]" if row.interval else "", "dim"))
        arm = Text.assemble(row.name, (f"\n{row.retriever}" if row.retriever else "", "dim"))
        table.add_row(arm, quality, *row.tokens, *row.latency, *(row.costs if has_prices else ()))
    return table
