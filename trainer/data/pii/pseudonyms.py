"""Stand-ins that look like the value, are nobody's, and are the same for the same value.

They come from a keyed hash, so the same key gives the same stand-ins in every row, run and process, and nobody without
the key can tell which value is behind one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence

from trainer.data.pii.allow import normalise
from trainer.data.pii.fold import folded
from trainer.data.pii.identity import NumericDetector
from trainer.data.pii.phone import PhoneDetector, e164
from trainer.data.pii.placeholders import Placeholders
from trainer.data.pii.rule import Detector, Family, PiiRule, anything
from trainer.data.pii.rules import SECRETS, find_all
from trainer.data.pii.types import Twin, record_named

MAX_TRIES = 256
"""Candidates drawn until no rule accepts one; each is refused with a chance of one in ten or better."""


class Pseudonyms:
    """Draws stand-ins.

    Args:
        key: of the keyed hash, 16 bytes or more.
        rules: with which a stand-in is checked to be no valid value.
        words: placeholders for types without a form of their own.
    """

    def __init__(self, key: bytes, rules: Sequence[Family], words: Placeholders) -> None:
        self._key = key
        self._rules = rules
        self._words = words
        detectors = [detector for family in rules for detector in family.detectors]
        own: dict[str, list[PiiRule]] = {}
        for rule in (rule for detector in detectors for rule in _rules_of(detector)):
            own.setdefault(rule.type, []).append(rule)
        self._own = own
        self._checked = [
            rule for group in own.values() for rule in group if rule.valid is not anything and rule.type not in SECRETS
        ]
        self._regions = next((found.regions for found in detectors if isinstance(found, PhoneDetector)), ())

    def __repr__(self) -> str:
        return "Pseudonyms(key hidden)"

    def stand_in(self, type_: str, value: str) -> str:
        """Return the stand-in of a value, in the value's own form; spellings of one value get the same stand-in.

        Telephone numbers are compared by their international form, all others by `normalise`.
        """
        value = folded(value)
        normal = (type_ == "phone" and e164(value, self._regions)) or normalise(type_, value)
        draw = self._stream(type_, normal)
        stand_in = record_named(type_).stand_in
        match stand_in:
            case None:
                return self._words.of(type_, draw(0).hex()[:8])
            case Twin():
                return self._invalid_twin(type_, value, draw, stand_in.kept)
            case _:
                return stand_in(value, draw(0))

    def _stream(self, type_: str, normal: str) -> Callable[[int], bytes]:
        name = f"{type_}\0{normal}".encode("utf-8", "surrogatepass")

        def draw(counter: int) -> bytes:
            return hmac.digest(self._key, name + counter.to_bytes(2, "big"), "sha512")

        return draw

    def _invalid_twin(self, type_: str, value: str, draw: Callable[[int], bytes], kept: int) -> str:
        """Draw digits and letters in the form of `value` until the check of its type fails."""
        for counter in range(MAX_TRIES):
            twin = _redrawn(value, draw(counter), kept)
            if not self._is_valid(type_, twin):
                return twin
        return self._words.of(type_, draw(0).hex()[:8])

    def _is_valid(self, type_: str, twin: str) -> bool:
        # Also by rules that would need a word beside it: the row may hold that word.
        rules = (*self._own.get(type_, ()), *self._checked)
        return bool(
            any((found := rule.pattern.search(twin)) and rule.valid(found[0]) for rule in rules)
            or find_all(twin, self._rules)
            or find_all("card " + twin, self._rules)
        )


def _rules_of(detector: Detector) -> Sequence[PiiRule]:
    if isinstance(detector, PiiRule):
        return (detector,)
    return detector.rules if isinstance(detector, NumericDetector) else ()


def _redrawn(value: str, noise: bytes, kept: int) -> str:
    """Replace each digit by a digit and each letter by a letter of the same case, after the first `kept` characters.

    Separators stay, and do not use up noise: two spellings of a value get the same digits.
    """
    stretched = iter(noise + hashlib.sha512(noise).digest())
    return value[:kept] + "".join(_redraw(char, stretched) for char in value[kept:])


def _redraw(char: str, noise: Iterator[int]) -> str:
    if "0" <= char <= "9":
        return str(next(noise) % 10)
    if "a" <= char.lower() <= "z":
        letter = chr(ord("a") + next(noise) % 26)
        return letter.upper() if char.isupper() else letter
    return char
