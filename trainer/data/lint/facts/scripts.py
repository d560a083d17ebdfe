"""Find look-alikes of another script, words with spaces between their letters, and gibberish."""

from __future__ import annotations

import re

from trainer.data.character_classes import class_table, classes_of

FOREIGN = re.compile("[\u0370-\u052f\U0001d400-\U0001d7cb]")
"""Greek, Cyrillic, and the alphabets of formulas."""
MIXED = re.compile("[A-Za-z][\u0370-\u052f]|[\u0370-\u052f][A-Za-z]")
WORD, LATIN, NOT_LATIN = re.compile(r"[^\W\d_]+"), re.compile("[A-Za-z]"), re.compile("[\u0370-\u052f]")
MIN_WORD, MIN_LATIN = 3, 10
LOOK_LIKE_LATIN = frozenset("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο")
"""Cyrillic and Greek letters that print as Latin ones. Source: https://www.unicode.org/Public/security/latest
confusables.txt; without the Greek letters of formulas (alpha, nu, rho)."""
LOOK_LIKE_CYRILLIC = frozenset("aceopxyijsABCEHIJKMOPSTXY")
STYLED = re.compile("[\U0001d400-\U0001d7cb]{4}")
"""Letters of the mathematical alphabets as bold or cursive type. Formulas have single ones."""
SPACED = re.compile(r"(?<![^\W\d_])(?:[A-Za-z\u00c0-\u024f\u0400-\u04ff][ \t]{1,4}){14}")
MIN_SPACED_LETTERS = 6
CONSONANTS = re.compile("[bcdfghjklmnpqrstvwxz]{5,}")
CONSONANT_CLASSES = class_table(c="bcdfghjklmnpqrstvwxz")
MIN_GIBBERISH_CHARS = 24
HEAD_CHARS = 120
MAX_CONSONANT_SHARE = 0.25
"""Share of the letters in runs of five consonants or more.

Random letters have 52 %, English 0.07 %, German 0.9 %, the worst of 700 real answers in 15 languages 7 %.
"""


def has_look_alikes(text: str) -> bool:
    r"""Tell whether letters of another script look like those around them. `Δx` and `μm` are sound.

    Either all foreign letters of a Latin text are look-alikes, or all letters of one script in a word of two.

    Example:
        >>> has_look_alikes("The p\u0430yment failed"), has_look_alikes("Δx = 3 μm")
        (True, False)
    """
    if STYLED.search(text):
        return True
    foreign = NOT_LATIN.findall(text)
    if LOOK_LIKE_LATIN.issuperset(foreign) and len(LATIN.findall(text)) > MIN_LATIN * len(foreign) > 0:
        return True
    if not MIXED.search(text):
        return False
    return any(_is_disguised(word) for word in WORD.findall(text) if not word.isascii())


def _is_disguised(word: str) -> bool:
    latin = [letter for letter in word if letter.isascii()]
    foreign = NOT_LATIN.findall(word)
    if not latin or not foreign or len(word) < MIN_WORD:
        return False
    return LOOK_LIKE_LATIN.issuperset(foreign) or (len(foreign) >= MIN_WORD and LOOK_LIKE_CYRILLIC.issuperset(latin))


def has_letters_apart(text: str) -> bool:
    """Tell whether words are printed l e t t e r by l e t t e r, as in scans. `a b c d` is an alphabet."""
    # Among 14 letters is an e, Latin or Cyrillic. A substring costs a tenth of the search.
    if " e " not in text and (text.isascii() or " е " not in text):
        return False
    runs = [match[0].lower().split() for match in SPACED.finditer(text)]
    return any(len(set(letters)) >= MIN_SPACED_LETTERS and letters != sorted(letters) for letters in runs)


def is_gibberish(answer: str) -> bool:
    """Tell whether a lower-case answer is no language, by its runs of consonants. Hashes and codes have digits."""
    head = answer[:HEAD_CHARS]
    # Frequent words first: they cost less than the search.
    if (
        len(head) < MIN_GIBBERISH_CHARS
        or " the " in head
        or " a " in head
        or b"ccccc" not in classes_of(head, CONSONANT_CLASSES)
        or not head.isascii()
    ):
        return False
    letters = sum(map(str.islower, head))
    if letters < 0.75 * len(head) or any(map(str.isdigit, head)):
        return False
    return sum(map(len, CONSONANTS.findall(head))) > MAX_CONSONANT_SHARE * letters
