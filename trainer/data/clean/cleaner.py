"""Clean rows before they are compared and trained on; count every change by its id, and keep samples.

Cleaning a clean row changes nothing: the steps are repeated until none of them finds anything to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from trainer.data.clean import text as steps
from trainer.data.clean.special_tokens import SpecialTokens
from trainer.data.clean.strings import SPOKEN, Repairs, Sample, Step
from trainer.data.clean.turns import repair_turns
from trainer.data.records.kinds import TURN_LISTS, Record, turns_of_row
from trainer.data.records.reasons import RowError
from trainer.data.rows.checks import check_record
from trainer.recipe.clean import Clean

MAX_ROUNDS = 8
"""Each round undoes one layer (text decoded wrongly twice, an entity of an entity); the last one finds nothing."""
INSIDE = "special_token_inside"


class Cleaned(NamedTuple):
    """A row put right, or why it cannot be."""

    record: Record | None
    """The same object where nothing changed; None where the row is rejected."""
    changes: dict[str, int]
    """Id of a change -> strings (or turns) changed."""
    samples: list[Sample]
    """The first of each change. They hold clear text of the row: scan them before they are written anywhere."""
    flags: dict[str, int]
    """Id of a fault that is only counted -> strings that have it."""
    error: RowError | None = None


class Cleaner:
    """Clean rows as the recipe's `data.clean` says; no call depends on another."""

    def __init__(self, section: Clean) -> None:
        self.section = section
        self.tokens = SpecialTokens(section.extra_special_tokens)
        self.data = _chosen(
            (section.encoding, "encoding", steps.outside_code(steps.fix_encoding)),
            (section.control_characters, "control_characters", steps.drop_control),
            (section.invisible_characters, "invisible_characters", steps.drop_invisible),
            (section.invisible_characters, "hidden_characters", steps.drop_hidden),
            (section.unicode == "nfc", "unicode_form", steps.outside_code(steps.compose)),
        )
        self.spoken = self.data + _chosen(
            (section.whitespace, "line_ends", steps.unify_line_ends),
            (section.special_tokens, "special_tokens", self.tokens.strip),
            (section.whitespace, "trailing_space", steps.outside_code(steps.drop_trailing_space)),
        )
        # A turn has ends of its own; raw text may be a piece of a longer one.
        self.ends = _chosen((section.whitespace, "outer_space", steps.drop_outer_space))
        self.html = _chosen((section.html, "html", steps.outside_code(steps.drop_html)))

    def __reduce__(self) -> tuple[type[Cleaner], tuple[Clean]]:
        """Travel to other processes as the section alone: the steps are functions without a name."""
        return type(self), (self.section,)

    def __call__(self, record: Record) -> Cleaned:
        """Clean a canonical row and check it: what was parsed unchecked may be right now."""
        if "input_ids" in record:
            return Cleaned(record, {}, [], {})
        repairs = Repairs(self.data)
        for _ in range(MAX_ROUNDS):
            before = record
            repairs.num_rounds += 1
            record = self._round(record, repairs)
            if record is before:
                break
        try:
            check_record(record)
        except RowError as error:
            return Cleaned(None, dict(repairs.changes), repairs.samples, {}, error)
        return Cleaned(record, dict(repairs.changes), repairs.samples, self._flags(record))

    def _round(self, record: Record, repairs: Repairs) -> Record:
        record = repair_turns(record, repairs.changes) if self.section.turns == "repair" else record
        spoken = self.spoken + self.html if self.html and _has_residue(record) else self.spoken
        turn = spoken + self.ends
        cleaned = record
        for name in TURN_LISTS:
            if name in record and (turns := repairs.turns(record[name], turn)) is not record[name]:
                cleaned = {**cleaned, name: turns}  # type: ignore[misc]  # mypy does not expand the names
        if "text" in record and (text := repairs.text(record["text"], spoken)) is not record["text"]:
            cleaned = {**cleaned, "text": text}
        return cleaned

    def _flags(self, record: Record) -> dict[str, int]:
        count = sum(self.tokens.is_inside(text) for text in _spoken_texts(record))
        return {INSIDE: count} if count else {}


def _chosen(*offered: tuple[bool, str, Callable[[str], str]]) -> list[Step]:
    return [(change, repair) for is_on, change, repair in offered if is_on]


def _has_residue(record: Record) -> bool:
    texts = _spoken_texts(record)
    return any(map(steps.has_residue, texts)) and not steps.may_hold_markup(texts)


def _spoken_texts(record: Record) -> list[str]:
    if "text" in record:
        return [record["text"]]
    return [text for turn in turns_of_row(record) for name in SPOKEN if isinstance(text := turn.get(name), str)]
