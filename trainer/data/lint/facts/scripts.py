"""Tell letters that are not what they look like: look-alikes of another script, letters set apart, no words at all."""

from __future__ import annotations

import re

from trainer.data.character_classes import class_table, classes_of

FOREIGN = re.compile("[\u0370-\u052f\U0001d400-\U0001d7cb]")
"""Greek, Cyrillic, and the alphabets of formulas."""
MIXED = re.compile("[A-Za-z][\u0370-\u052f]|[\u0370-\u052f][A-Za-z]")
WORD, LATIN, OTHER = re.compile(r"[^\W\d_]+"), re.compile("[A-Za-z]"), re.compile("[\u0370-\u052f]")
MIN_WORD, MIN_LATIN = 3, 10
LOOK_LIKE_LATIN = frozenset("аеорсухіјѕһԁԛԝАВЕКМНОРСТУХІЈЅ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο")
"""Cyrillic and Greek letters that print as Latin ones. Source: https://www.unicode.org/Public/security/latest
confusables.txt; without the Greek letters of formulas (alpha, nu, rho)."""
LOOK_LIKE_CYRILLIC = frozenset("aceopxyijsABCEHIJKMOPSTXY")
STYLED = re.compile("[\U0001d400-\U0001d7cb]{4}")
"""Letters of the mathematical alphabets, used as bold or cursive type; formulas use them one at a time."""
SPACED = re.compile(r"(?<![^\W\d_])(?:[A-Za-z\u00c0-\u024f\u0400-\u04ff][ \t]{1,4}){14}")
MIN_SPACED_LETTERS = 6
CONSONANTS = re.compile("[bcdfghjklmnpqrstvwxz]{5,}")
CONSONANT_CLASSES = class_table(c="bcdfghjklmnpqrstvwxz")
MIN_GIBBERISH_CHARS = 24
HEAD_CHARS = 120
MAX_CONSONANT_SHARE = 0.25
"""Of the letters, in runs of five consonants and more: 52 % of drawn letters, 0.07 % of English, 0.9 % of German; of
700 real answers in 15 languages the worst has 7 %."""


def has_look_alikes(text: str) -> bool:
    """Tell letters of another script that print as letters of the one around them; `Δx` and `μm` are none.

    In a word of two scripts all letters of one of them are look-alikes; in a Latin text every foreign letter is.
    """
    if STYLED.search(text):
        return True
    others = OTHER.findall(text)
    if LOOK_LIKE_LATIN.issuperset(others) and len(LATIN.findall(text)) > MIN_LATIN * len(others) > 0:
        return True
    if not MIXED.search(text):
        return False
    return any(_is_disguised(word) for word in WORD.findall(text) if not word.isascii())


def _is_disguised(word: str) -> bool:
    latin = [letter for letter in word if letter.isascii()]
    other = OTHER.findall(word)
    if not latin or not other or len(word) < MIN_WORD:
        return False
    return LOOK_LIKE_LATIN.issuperset(other) or (len(other) >= MIN_WORD and LOOK_LIKE_CYRILLIC.issuperset(latin))


def has_letters_apart(text: str) -> bool:
    """Tell words printed l e t t e r by l e t t e r, as scanned pages give them; `a b c d` is an alphabet."""
    # 14 letters of a text hold an e, of Latin or Cyrillic script: a substring costs a tenth of the search.
    if " e " not in text and (text.isascii() or " е " not in text):
        return False
    runs = [match[0].lower().split() for match in SPACED.finditer(text)]
    return any(len(set(letters)) >= MIN_SPACED_LETTERS and letters != sorted(letters) for letters in runs)


def is_gibberish(answer: str) -> bool:
    """Tell a lower-case answer that no language writes, by its runs of consonants; hashes and codes have digits."""
    head = answer[:HEAD_CHARS]
    # Words that are everywhere cost less than the search.
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
