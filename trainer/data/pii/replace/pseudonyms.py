"""Draw pseudonyms from a keyed hash: the same for the same value, in the form of the value, and nobody's data.

One key gives the same pseudonyms in every row, run and process. Without the key nobody can get back to the value.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence

from trainer.data.pii.allow import normalise
from trainer.data.pii.detectors.identity import NumericDetector
from trainer.data.pii.detectors.phone import PhoneDetector, e164
from trainer.data.pii.detectors.rule import Detector, Family, PiiRule, anything
from trainer.data.pii.find import find_all
from trainer.data.pii.fold import folded
from trainer.data.pii.record import Twin
from trainer.data.pii.replace.placeholders import Placeholders
from trainer.data.pii.types import SECRETS, record_named

MAX_TRIES = 256
"""Candidates until no rule accepts one. A rule accepts at most nine of ten."""


class Pseudonyms:
    """Draws pseudonyms.

    Args:
        key: of the keyed hash, 16 bytes or more.
        rules: must reject each pseudonym.
        words: placeholders for types without a form.
    """

    def __init__(self, key: bytes, rules: Sequence[Family], words: Placeholders) -> None:
        self._key = key
        self._rules = rules
        self._words = words
        detectors = [detector for family in rules for detector in family.detectors]
        self._single_rules = [rule for detector in detectors for rule in _rules_of(detector)]
        self._regions = next((detector.regions for detector in detectors if isinstance(detector, PhoneDetector)), ())

    def __repr__(self) -> str:
        return "Pseudonyms(key hidden)"

    def stand_in(self, type_: str, value: str) -> str:
        """Return the pseudonym of a value. Spellings of one value share it.

        The E.164 form identifies a telephone number, the result of `normalise` any other value.
        """
        value = folded(value)
        normal = (type_ == "phone" and e164(value, self._regions)) or normalise(type_, value)
        draw = self._stream(type_, normal)
        stand_in = record_named(type_).stand_in
        match stand_in:
            case None:
                return self._words.word(type_, draw(0).hex()[:8])
            case Twin():
                return self._invalid_twin(type_, value, draw, stand_in.num_kept)
            case _:
                return stand_in(value, draw(0))

    def _stream(self, type_: str, normal: str) -> Callable[[int], bytes]:
        """Return a function from a counter to 64 random bytes of this value."""
        name = f"{type_}\0{normal}".encode("utf-8", "surrogatepass")
        return lambda counter: hmac.digest(self._key, name + counter.to_bytes(2, "big"), "sha512")

    def _invalid_twin(self, type_: str, value: str, draw: Callable[[int], bytes], num_kept: int) -> str:
        """Draw digits and letters in the form of `value` until no check accepts them."""
        twins = (_redrawn(value, draw(counter), num_kept) for counter in range(MAX_TRIES))
        invalid = (twin for twin in twins if not self._is_valid(type_, twin))
        return next(invalid, None) or self._words.word(type_, draw(0).hex()[:8])

    def _is_valid(self, type_: str, twin: str) -> bool:
        # A rule that needs a word beside the value counts too: the row may hold that word.
        is_accepted = any(
            (candidate := rule.pattern.search(twin)) is not None and rule.valid(candidate[0])
            for rule in self._single_rules
            if rule.type == type_ or (rule.valid is not anything and rule.type not in SECRETS)
        )
        return is_accepted or bool(find_all(twin, self._rules) or find_all("card " + twin, self._rules))


def _rules_of(detector: Detector) -> Sequence[PiiRule]:
    if isinstance(detector, PiiRule):
        return (detector,)
    return detector.rules if isinstance(detector, NumericDetector) else ()


def _redrawn(value: str, noise: bytes, num_kept: int) -> str:
    """Replace digits by digits and letters by letters of the same case, after the first `num_kept` characters.

    Separators use up no noise, so that two spellings of a value get the same digits.
    """
    stretched = iter(noise + hashlib.sha512(noise).digest())
    return value[:num_kept] + "".join(_redraw(char, stretched) for char in value[num_kept:])


def _redraw(char: str, noise: Iterator[int]) -> str:
    if "0" <= char <= "9":
        return str(next(noise) % 10)
    if "a" <= char.lower() <= "z":
        letter = chr(ord("a") + next(noise) % 26)
        return letter.upper() if char.isupper() else letter
    return char
