"""Rows for the tests of the linter, as the data stage makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer.data.lint.facts.row import row_facts
from trainer.data.lint.finding import Finding, LintContext
from trainer.data.lint.run import Linter
from trainer.recipe.lint import Lint

PROSE = "The library opens at nine in the morning and closes at six, except on Sundays when nobody is there. "
ENOUGH = LintContext(rows_read=1000, rows_train=800, rows_heldout=200)


def chat(prompt: str, answer: str, *, system: str | None = None, line: int = 1, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    head = [{"role": "system", "content": system}] if system is not None else []
    return {"messages": [*head, *turns], **more, "source": "a.jsonl", "line": line}


def pair(prompt: str, chosen: str, rejected: str, *, line: int = 1) -> dict[str, Any]:
    turns = {"prompt": ("user", prompt), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    row = {name: [{"role": role, "content": text}] for name, (role, text) in turns.items()}
    return {**row, "source": "a.jsonl", "line": line}


def linted(rows: Sequence[dict[str, Any]], context: LintContext = ENOUGH, **section: Any) -> list[Finding]:
    linter = Linter(Lint(**section))
    for number, row in enumerate(rows, start=1):
        placed = {**row, "line": number}
        linter.add(f"a.jsonl:{number}", row_facts(placed))
    return linter.finish(context)


def of_rule(findings: Sequence[Finding], rule: str) -> list[Finding]:
    return [finding for finding in findings if finding.rule == rule]
