"""Language of an answer."""

from __future__ import annotations

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

_OTHER_CODES = {"zh-cn": "zh", "zh-tw": "zh", "nb": "no"}


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None for a text without a letter.

    Case is left out: the model has hardly seen texts in capital letters.
    """
    if not any(letter.isalpha() for letter in text):
        return None
    return str(_identifier().classify(" ".join(text.lower().split()))[0])


def is_in(text: str, code: str) -> bool:
    """Tell whether a text is in a language; a text without letters is in any, as IFEval has it."""
    found = language_of(text)
    return found is None or found == _OTHER_CODES.get(code.lower(), code.lower())
