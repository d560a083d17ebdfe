"""Choose the fix of a finding, never a setting that the recipe has already."""

from __future__ import annotations

import math
from dataclasses import replace

from trainer.data.lint.finding import Finding
from trainer.recipe.clean import Clean
from trainer.recipe.data import DataSection, Split
from trainer.recipe.lint import Lint


def advised(finding: Finding, data: DataSection) -> Finding:
    """Return a finding with a fix for this recipe. The rule's own fix stays where none is better."""
    if finding.fix is not None:
        return finding
    return replace(finding, fix=_fix(finding.rule, data))


def _fix(rule: str, data: DataSection) -> str | None:
    match rule:
        case "F003":
            return _layout(data)
        case "F019" | "Q004" | "Q005" | "Q006" | "Q007" | "Q019":
            return _cleaning(rule, data.clean)
        case "S001" | "S002" | "S003" | "S004":
            return "leave these rows out: set data.contamination.action: drop"
        case "S005":
            return _share(data.split, data.lint)
        case "S007":
            return _rows(data.split, data.lint)
        case "B001" if data.lint.min_rows != Lint().min_rows:
            return f"add rows: data.lint.min_rows is {data.lint.min_rows}"
        case "B002" | "B013":
            return _system(data)
        case _:
            return None


def _layout(data: DataSection) -> str | None:
    if any(source.format == "auto" and not source.mapping for source in data.sources):
        return None
    keys = "mapping" if any(source.mapping for source in data.sources) else "format"
    return f"correct data.sources[].{keys}: these rows have other columns"


def _cleaning(rule: str, clean: Clean) -> str:
    """Return the cleaning step that is off, else the advice to clean at the source: steps skip doubtful cases."""
    steps = {
        "F019": (clean.special_tokens, "special_tokens: true", "take them out of the rows"),
        "Q004": (clean.encoding, "encoding: true", "read the file as it is coded"),
        "Q005": (clean.invisible_characters, "invisible_characters: true", "remove them at the source"),
        "Q019": (clean.invisible_characters, "invisible_characters: true", "remove them at the source"),
        "Q006": (clean.html, "html: true", "strip the tags at the source"),
        "Q007": (clean.whitespace, "whitespace: true", "trim the texts at the source"),
    }
    is_on, setting, at_source = steps[rule]
    if rule == "Q005" and is_on and clean.unicode != "nfc":
        is_on, setting = False, "unicode: nfc"
    return at_source if is_on else f"set data.clean.{setting}, or {at_source}"


def _share(split: Split, lint: Lint) -> str:
    if split.heldout_path:
        return "add rows to data.split.heldout_path"
    if split.heldout < lint.min_heldout_share:
        return f"set data.split.heldout: {lint.min_heldout_share:g}, or give data.split.heldout_path"
    if split.by:
        return f"bring rows of more values of {split.by!r}, or choose a finer field: data.split.by divides none"
    return "bring more different rows, or give data.split.heldout_path: rows alike stay on one side"


def _rows(split: Split, lint: Lint) -> str:
    if split.heldout_path or not split.heldout:
        return "add rows to data.split.heldout_path"
    needed = math.ceil(lint.min_heldout_rows / split.heldout)
    return f"bring more rows: of {needed} in all, {lint.min_heldout_rows} are held out"


def _system(data: DataSection) -> str | None:
    if data.system_prompt is None:
        return None
    if data.system_prompt.when == "missing":
        return "set data.system_prompt.when: replace"
    return "give data.system_prompt and data.lint.serving_system_prompt one text"
