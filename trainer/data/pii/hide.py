"""Personal data hidden in texts that are shown: in reports, messages and errors, whatever is done to the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainer.recipe.pii import Pii

if TYPE_CHECKING:
    from trainer.data.pii.scan import Scanner
    from trainer.data.records.kinds import Record


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
        return str(self.row({"text": text})["text"])

    def row(self, record: Record) -> Record:
        """Return a row with every value masked, those too that only another text of the row gives away."""
        masked = self._scan(record).record
        assert masked is not None
        return masked


def masked_names(names: Mapping[str, int], mask: Callable[[str], str]) -> Counter[str]:
    """Return name -> rows with values in the names masked; names that look the same then are counted together."""
    masked = Counter[str]()
    for name, count in names.items():
        masked[mask(name)] += count
    return masked


def hidden(text: str) -> str:
    """Mask a text for an error of a reader, which knows no recipe; compiling the rules takes a moment."""
    return Mask(Pii())(text)
