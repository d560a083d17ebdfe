"""Postal addresses, only where their form leaves no doubt: a street with its number and a post code."""

from __future__ import annotations

import re

from trainer.data.pii.rule import Rule

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

US_ADDRESS = re.compile(
    rf"(?<![\w.,$-])\d{{1,6}}[A-Z]? (?:{_WORD} ){{1,5}}(?:{_TYPES})\b\.?(?: [NSEW]{{1,2}}\b)?{_UNIT}{_US_END}",
    re.IGNORECASE,
)
MILITARY_ADDRESS = re.compile(
    rf"(?<![A-Za-z0-9_])(?:(?:PSC|Unit|CMR) \d{{1,5}},? Box \d{{1,5}}|US(?:NV|NS|S|CGC) {_WORD}){_GAP}"
    r"(?:APO|FPO|DPO),? A[AEP] \d{5}(?:-\d{4})?(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
PO_BOX = re.compile(rf"(?<![A-Za-z0-9_])P\.? ?O\.? Box \d{{1,6}}{_US_END}", re.IGNORECASE)
UK_ADDRESS = re.compile(
    rf"(?<![\w.,£-])\d{{1,4}}[A-Za-z]? (?:{_WORD} ){{1,4}}(?:{_TYPES})\b\.?"
    rf"(?:{_GAP}{_WORD}(?: {_WORD}){{0,2}}){{0,3}}{_GAP}{_UK_POSTCODE}",
    re.IGNORECASE,
)
GERMAN_ADDRESS = re.compile(
    rf"(?<![A-Za-z0-9_]){_GERMAN_STREET} \d{{1,4}} ?[a-z]?{_GAP}(?:D-)?\d{{5}} {_WORD}"
    rf"(?: (?:am|im|an der) {_WORD})?(?![A-Za-z0-9_])"
)

ADDRESS_GATE = re.compile(r"\d(?:\d{4}(?!\d)|[A-Za-z]{2}(?![A-Za-z0-9_]))")
"""Every form ends with a post code: five digits, or a British inward code."""

STREET_RULES = tuple(Rule("address", pattern) for pattern in (US_ADDRESS, UK_ADDRESS, GERMAN_ADDRESS))
BOX_RULES = tuple(Rule("address", pattern) for pattern in (MILITARY_ADDRESS, PO_BOX))


def names_a_box(text: str) -> bool:
    """Tell whether a text speaks of a post office, of the army or not."""
    lowered = text.lower()
    return "box" in lowered or "po a" in lowered
