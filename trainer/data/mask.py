"""Personal data hidden in texts that are shown: in reports, messages and errors, whatever is done to the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.recipe.pii import Pii

if TYPE_CHECKING:
    from trainer.data.pii.scan import Scanner


def scanner(section: Pii) -> Scanner:
    """Return the scanner of a recipe; its many patterns compile on import, and `check` mostly needs none of them.

    Raises:
        HardwareError: The key of the pseudonyms is not there.
    """
    from trainer.data.pii.scan import Scanner  # noqa: PLC0415  see above

    return Scanner(section)


class Mask:
    """Masks every value that the rules find; what the recipe allows may be shown."""

    def __init__(self, section: Pii) -> None:
        regions, allowed = section.phone_regions, section.allow
        shown = Pii(action="mask", secrets="mask", on_residual="report", phone_regions=regions, allow=allowed)
        self._scan = scanner(shown)

    def __call__(self, text: str) -> str:
        """Return the text with every value masked."""
        record = self._scan({"text": text}).record
        assert record is not None
        return str(record["text"])
