"""Personal data hidden in texts that are shown: in reports, messages and errors, whatever is done to the rows."""

from __future__ import annotations

from trainer.data.pii.scan import Scanner
from trainer.recipe.pii import Pii


class Mask:
    """Masks every value that the rules find; what the recipe allows may be shown."""

    def __init__(self, section: Pii) -> None:
        regions, allowed = section.phone_regions, section.allow
        shown = Pii(action="mask", secrets="mask", on_residual="report", phone_regions=regions, allow=allowed)
        self._scan = Scanner(shown)

    def __call__(self, text: str) -> str:
        """Return the text with every value masked."""
        record = self._scan({"text": text}).record
        assert record is not None
        return str(record["text"])
