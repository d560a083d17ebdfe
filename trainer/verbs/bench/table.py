"""Print the result of a comparison as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

Result = dict[str, Any]

MIB = 2**20


def engines_table(result: Result) -> Table:
    """Return one line for each engine; of a row that does not count, why."""
    is_pairs = result["benchmark"] == "dpo"
    table = _table()
    table.add_column("engine")
    for title in _titles(result, is_pairs=is_pairs):
        table.add_column(title, justify="right")
    for name, engine in result["engines"].items():
        if "counted" in engine:
            table.add_row(name if engine["valid"] else f"{name} (invalid)", *_cells(result, name, engine))
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def _titles(result: Result, *, is_pairs: bool) -> list[str]:
    speeds = ["tokens/s", "supervised/s"]
    if is_pairs:
        speeds = [
            "pairs/s",
            "ours is",
            *(["without ref.", "ours is"] if "left_out" in result["ratios"] else []),
            *speeds,
        ]
    else:
        speeds += ["ours is"]
    return [*speeds, "peak MiB", "MFU", "start-up s", "final loss", "gradient"]


def _cells(result: Result, name: str, engine: Result) -> list[str]:
    counted = engine["counted"]
    speeds = [f"{counted['tokens_per_s']:,.0f}", f"{counted['supervised_tokens_per_s']:,.0f}"]
    if result["benchmark"] == "dpo":
        pairs = []
        for accounting, ratio_of in result["ratios"].items():
            pairs += [
                f"{engine[accounting]['rows_per_s']:.2f}" if accounting in engine else "",
                _times(ratio_of.get(name)),
            ]
        speeds = [*pairs, *speeds]
    else:
        speeds += [_times(result["ratios"]["counted"].get(name))]
    return [
        *speeds,
        f"{engine['peak_bytes'] / MIB:,.0f}",
        f"{counted['mfu']:.1%}",
        f"{engine['startup_s']:.1f}",
        f"{engine['final_loss']:.4f}",
        f"{engine['grad_norm']:.4f}",
    ]


def _times(ratio: float | None) -> str:
    return f"{ratio:.2f} x" if ratio is not None else "-"  # an empty cell shifts the eye by a column


def packers_table(result: Result) -> Table:
    """Return one line for each packer."""
    table = _table()
    table.add_column("packer")
    for title in ("rows", "cpu-s", "rows/s", "ours is", "packs", "filled", "peak MiB"):
        table.add_column(title, justify="right")
    for name, packer in result["engines"].items():
        if "rows" in packer:
            table.add_row(
                name if packer["valid"] else f"{name} (invalid)",
                f"{packer['rows']:,}",
                f"{packer['seconds']:.3f}",
                f"{packer['rows_per_s']:,.0f}",
                _times(result["ratios"].get(name)),
                f"{packer['packs']:,}",
                f"{packer['fill']:.2%}",
                f"{packer['peak_bytes'] / MIB:,.0f}",
            )
    return table


def notes(result: Result) -> list[str]:
    """Return lines below the table: what was measured, what does not count and why, what was not compared."""
    protocol = result["protocol"]
    lines = [f"{protocol['seconds']}, {protocol['threads']} thread, median of {protocol['rounds']} alternating rounds"]
    for name, engine in result["engines"].items():
        lines += [f"invalid: {name}: {problem}" for problem in engine["problems"]]
    return lines + [f"{name}: {why}" for name, why in result.get("not_compared", {}).items()]
