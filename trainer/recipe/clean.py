"""Define `data.clean`: what is put right in the text of rows before they are compared and trained on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.recipe.base import Section


class Clean(Section):
    """Repairs of text and turns; each is counted in the report, with samples before and after."""

    encoding: bool = True
    """Repair text that was decoded in the wrong encoding (`âœ”` for a check mark); never inside code."""
    unicode: Literal["nfc", "keep"] = "nfc"
    """Compose accents into one form (NFC); never inside code."""
    control_characters: bool = True
    """Remove control characters and terminal colours; line ends and tabs stay."""
    invisible_characters: bool = True
    """Remove zero-width space, byte order marks, soft hyphens, text hidden in Unicode tags and direction controls;
    joiners of scripts and emoji stay, and the marks of texts that run from right to left."""
    whitespace: bool = True
    """Line ends become \\n; remove empty lines around a text, and spaces at the ends of lines outside code."""
    html: bool = True
    """Turn `&amp;`, `<br>` and the like into text, only in rows that show no sign of code or markup."""
    special_tokens: bool = True
    """Remove end and begin tokens of chat templates at the ends of a turn (`</s>`, `###eos_token###`)."""
    extra_special_tokens: list[str] = Field(default_factory=list)
    """Further tokens that are removed at the ends of a turn."""
    turns: Literal["repair", "reject"] = "repair"
    """repair: leave out exchanges with an empty turn and turns after the last answer, join neighbours of one role;
    reject: leave the row out instead."""
