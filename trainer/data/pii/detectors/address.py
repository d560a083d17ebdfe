"""Find postal addresses by an unambiguous form: street, number and post code."""

from __future__ import annotations

import re

from trainer.data.pii.detectors.rule import PiiRule
from trainer.data.pii.record import PiiRecord, three_stars
from trainer.recipe.pii import PiiType

RECORDS: dict[PiiType, PiiRecord] = {"address": PiiRecord(three_stars, None, "P007", is_titled=True, rank=102)}

_STATES = (
    "A[AEKLPRSZ]|C[AOT]|D[CE]|F[LM]|G[AU]|HI|I[ADLN]|K[SY]|LA|M[ADEHINOPST]|N[CDEHJMVY]|O[HKR]|P[ARW]|RI|S[CD]|T[NX]|UT"
    "|V[AIT]|W[AIVY]"
)
_WORD = r"[^\W\d_][\w.'’-]{0,30}"
_TYPES = (
    "street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|square|sq|terrace|ter|parkway|pkwy"
    "|highway|hwy|circle|cir|crescent|close|trail|trl|way|plaza|alley|mews|row|gardens|grove|turnpike|pike|loop"
)
_UNIT = r"(?:[,\s]{1,4}(?:apt|apartment|suite|ste|unit|flat|floor|#)\.?\s?#?\w{1,6})?"
_EDGE = r"(?<![A-Za-z0-9_])"
_GAP = r"[,\s]{1,6}"
_US_END = rf"{_GAP}(?:{_WORD}[ ]){{0,3}}{_WORD}{_GAP}(?:{_STATES}),? \d{{5}}(?:-\d{{4}})?(?![A-Za-z0-9_])"
_UK_POSTCODE = (
    r"(?:GIR ?0AA|[A-PR-UWYZ](?:\d{1,2}|[A-HK-Y]\d{1,2}|\d[A-HJKPS-UW]|[A-HK-Y]\d[ABEHMNPRV-Y])"
    r" ?\d[ABD-HJLNP-UW-Z]{2})(?![A-Za-z0-9_])"
)
"""Source: Royal Mail, Programmers' guide to the Postcode Address File."""
_GERMAN_STREET = (
    rf"[A-ZÄÖÜ](?:[\w.-]{{0,30}}(?:str(?:aße|asse|\.)|weg|platz|allee|gasse|ring|damm|ufer)"
    rf"|{_WORD} (?:Straße|Strasse|Weg|Platz|Allee))"
)


_NAME = r"[^\W\d_][\w.'’-]{0,30}(?: [\w.'’-]{1,30}){0,4}"
_TOWN = r"[A-ZÀ-Ý][\w'’-]{1,40}(?: [A-ZÀ-Ý][\w'’-]{1,30})?"

STREETS = {
    "US": rf"(?i)(?<![\w.,$-])\d{{1,6}}[A-Z]? (?:{_WORD} ){{1,5}}(?:{_TYPES})\b\.?(?: [NSEW]{{1,2}}\b)?"
    rf"{_UNIT}{_US_END}",
    "GB": rf"(?i)(?<![\w.,£-])\d{{1,4}}[A-Za-z]? (?:{_WORD} ){{1,4}}(?:{_TYPES})\b\.?"
    rf"(?:{_GAP}{_WORD}(?: {_WORD}){{0,2}}){{0,3}}{_GAP}{_UK_POSTCODE}",
    "DE": rf"{_EDGE}{_GERMAN_STREET} \d{{1,4}} ?[a-z]?{_GAP}(?:D-)?\d{{5}} {_WORD}"
    rf"(?: (?:am|im|an der) {_WORD})?(?![A-Za-z0-9_])",
    "FR": rf"{_EDGE}\d{{1,4}}(?: ?(?:bis|ter))?,?"
    rf" (?i:rue|avenue|av\.|boulevard|bd\.?|place|chemin|allée|impasse|quai|route) {_NAME}{_GAP}(?:F-)?\d{{5}} {_TOWN}",
    "IT": rf"{_EDGE}(?:Via|Viale|Piazza|Piazzale|Corso|Largo|Vicolo) {_NAME},?"
    rf" \d{{1,4}}(?:/?[A-Za-z])?{_GAP}\d{{5}} {_TOWN}",
    "ES": rf"{_EDGE}(?:Calle|C/|Avenida|Avda\.?|Plaza|Paseo|Ronda|Carrer) {_NAME},? (?:n[.º°]{{1,2}} ?)?\d{{1,4}}"
    rf"(?:,? \d{{1,2}}[º°]?(?: ?[A-Z])?)?{_GAP}\d{{5}} {_TOWN}",
    "NL": rf"{_EDGE}[A-Z][\w.'-]{{0,30}}(?:straat|weg|laan|plein|gracht|kade|singel|dijk|hof|steeg|dreef|markt)"
    rf" \d{{1,4}} ?[a-zA-Z]?{_GAP}\d{{4}} ?[A-Z]{{2}} {_TOWN}",
    "AU": rf"(?i){_EDGE}\d{{1,5}} (?:{_WORD} ){{1,4}}(?:{_TYPES})\b\.?{_GAP}(?:{_WORD}[ ]){{0,2}}{_WORD},?"
    r" (?:NSW|VIC|QLD|SA|WA|TAS|NT|ACT),? \d{4}(?![A-Za-z0-9_])",
    "CA": rf"(?i){_EDGE}\d{{1,5}} (?:{_WORD} ){{1,4}}(?:{_TYPES})\b\.?(?: [NSEW]{{1,2}}\b)?{_UNIT}{_GAP}"
    rf"(?:{_WORD}[ ]){{0,2}}{_WORD},?"
    r" (?:ON|QC|BC|AB|MB|SK|NS|NB|NL|PE|YT|NT|NU),? [A-Z]\d[A-Z] ?\d[A-Z]\d(?![A-Za-z0-9_])",
}
"""Country -> pattern of a street address."""

BOXES = (
    rf"(?i){_EDGE}(?:(?:PSC|Unit|CMR) \d{{1,5}},? Box \d{{1,5}}|US(?:NV|NS|S|CGC) {_WORD}){_GAP}"
    r"(?:APO|FPO|DPO),? A[AEP] \d{5}(?:-\d{4})?(?![A-Za-z0-9_])",
    rf"(?i){_EDGE}P\.? ?O\.? Box \d{{1,6}}{_US_END}",
)
"""Addresses of the US army, and post office boxes."""

POST_CODE = re.compile(r"\d(?:\d{4}(?!\d)|[A-Za-z]{2}(?![A-Za-z0-9_])|\d{3} ?[A-Z]{2} |[A-Z] ?\d[A-Z]\d)")
FOUR_DIGITS = re.compile(r"\d{4}")
STATE = re.compile(r"(?:NSW|VIC|QLD|SA|WA|TAS|NT|ACT)\Z", re.IGNORECASE)
"""States of Australia, tried before four digits only: a search for the names takes ten times as long."""


def has_post_code(text: str) -> bool:
    """Tell whether a text holds a post code, which all forms end with."""
    return POST_CODE.search(text) is not None or any(
        STATE.search(text[max(0, code.start() - 5) : code.start() - 1].removesuffix(","))
        for code in FOUR_DIGITS.finditer(text)
        if text[code.start() - 1 : code.start()] == " "
    )


STREET_RULES = tuple(PiiRule("address", re.compile(pattern)) for pattern in STREETS.values())
BOX_RULES = tuple(PiiRule("address", re.compile(pattern)) for pattern in BOXES)


def names_a_box(text: str) -> bool:
    """Tell whether a text may hold a post office box, civil or of the army."""
    lowered = text.lower()
    return "box" in lowered or "po a" in lowered
