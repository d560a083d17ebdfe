"""Hide personal data in reports, messages and errors, whatever the recipe does to the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainer.recipe.pii import Pii

if TYPE_CHECKING:
    from trainer.data.pii.scan import Scanner
    from trainer.data.records.kinds import Record


def scanner(section: Pii) -> Scanner:
    """Return the scanner of a recipe. Its import compiles many patterns, which `check` mostly needs not.

    Raises:
        HardwareError: The key of the pseudonyms is missing.
    """
    from trainer.data.pii.scan import Scanner  # noqa: PLC0415  see above

    return Scanner(section)


class Mask:
    """Masks every value in a text, except values that the recipe allows."""

    def __init__(self, section: Pii) -> None:
        regions, allowed = section.phone_regions, section.allow
        self._scan = scanner(
            Pii(action="mask", secrets="mask", on_residual="report", phone_regions=regions, allow=allowed)
        )

    def __call__(self, text: str) -> str:
        """Return the text with every value masked."""
        return str(self.row({"text": text})["text"])

    def row(self, record: Record) -> Record:
        """Return a row with every value masked, also values that only another text of the row identifies."""
        masked = self._scan(record).record
        assert masked is not None
        return masked


def masked_names(names: Mapping[str, int], mask: Callable[[str], str]) -> Counter[str]:
    """Mask the names, and add up the counts of names that look the same then."""
    masked = Counter[str]()
    for name, count in names.items():
        masked[mask(name)] += count
    return masked


def hidden(text: str) -> str:
    """Mask a text for an error of a reader, which has no recipe. Compiling the rules takes a moment."""
    return Mask(Pii())(text)
