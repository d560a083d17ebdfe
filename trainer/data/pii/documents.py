"""Find what only the words before it tell: numbers of documents and records, and dates of birth."""

from __future__ import annotations

import re

from trainer.data.pii.identity import has_four_digits
from trainer.data.pii.rule import Rule, names_any

_LINK = r"(?: (?:number|no\.?|id|#))?(?: is| was)?\s?[:#=：]?\s?"

DRIVER_LICENSE = re.compile(
    rf"(?<![a-z])driv(?:er['’]?s?|ing) licen[cs]e{_LINK}"
    r"(?P<value>[A-Z0-9](?:[A-Z0-9 -]{3,17})[A-Z0-9])(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
PASSPORT = re.compile(
    r"(?:(?<![a-z])passport|passeport|pasaporte|passaporto|reisepass|паспорт|护照|パスポート|여권)"
    rf"(?:nummer|号码|号|番号|번호)?{_LINK}(?P<value>[A-Z]{{0,3}}\d[A-Z0-9]{{4,8}})(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
RECORD = re.compile(
    r"(?<![a-z])(?:mrn|medical record|health record|patient (?:id|number|no)|chart|hospital number"
    r"|health (?:card|insurance)|medicare|medicaid|krankenversicherten|versicherten|病历|病歴|カルテ)"
    rf"(?:nummer|号码|号|番号)?{_LINK}(?P<value>(?:[A-Z]{{0,4}}-?)?\d(?:[ -]?[A-Z0-9]){{4,13}})(?![A-Za-z0-9_])",
    re.IGNORECASE,
)

_MONTH = (
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mär|mai|okt|dez|janv|févr|avr|juin|juil|août|déc|ene|abr|ago|dic"
    r"|gen|mag|giu|lug|set|ott|fev|out|maj)[a-zéûçäó]{0,8}\.?"
)
DATE = (
    r"(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)?\d\d|(?:19|20)\d\d[./-]\d{1,2}[./-]\d{1,2}|(?:19|20)\d\d年\d{1,2}月\d{1,2}日"
    rf"|\d{{1,2}}\.? (?:de |of )?{_MONTH},?(?: de)? (?:19|20)\d\d|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? (?:19|20)\d\d)"
)
BIRTH = re.compile(
    r"(?:(?<![a-z])(?:date of birth|birth ?date|d\.?o\.?b\.?|birthday|geburtsdatum|geb\.|date de naissance"
    r"|fecha de nacimiento|data di nascita|data de nascimento|geboortedatum|födelsedatum"
    r"|fødselsdato|data urodzenia|doğum tarihi)|дата рождения|出生日期|生年月日|생년월일)"
    rf"(?: is| was| ist| est| es)?\s?[:=：]?\s?(?P<value>{DATE})(?!\d)",
    re.IGNORECASE,
)
"""`born on` is left out: biographies are no personal data of a user."""

DOCUMENT_RULES = (
    Rule("driver_license", DRIVER_LICENSE, has_four_digits),
    Rule("passport", PASSPORT, has_four_digits),
    Rule("record_number", RECORD, has_four_digits),
    Rule("date_of_birth", BIRTH),
)

ASCII_NAMES = (
    *("licen", "passport", "passeport", "pasaporte", "passaporto", "reisepass", "mrn", "record", "patient", "chart"),
    *("hospital", "health", "medica", "versichert", "birth", "dob", "d.o.b", "geb", "naissance", "nacimiento", "nasci"),
    *("geboorte", "urodzenia"),
)
OTHER_NAMES = (
    *("паспорт", "护照", "パスポート", "여권", "病", "カルテ", "födelse", "fødsel", "doğum", "рождения"),
    *("出生", "生年", "생년"),
)


def names_a_document(text: str) -> bool:
    """Tell whether a text speaks of a document, a record or a birth."""
    return names_any(text, ASCII_NAMES, OTHER_NAMES)
