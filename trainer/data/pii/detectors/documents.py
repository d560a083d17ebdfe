"""Find numbers of documents and records, and dates of birth, by the words before them."""

from __future__ import annotations

import re

from trainer.data.pii.detectors.identity import has_four_digits
from trainer.data.pii.detectors.rule import PiiRule, names_any, words
from trainer.data.pii.fold import digits_in
from trainer.data.pii.record import PiiRecord
from trainer.recipe.pii import PiiType

_LINK = (
    r"(?:[ -]?(?:num(?:ber|mer|er|éro|ero)|número|номер|nr\.?|no\.?|n[°º]\.?|№|id|#|号码|號碼|番号|번호|号|號))?"
    r"(?: is| was| ist| est| es| è|は|是)?\s?[:#=：]?\s?"
)

_LICENCE_NUMBER = (
    r"(?P<value>(?!(?:19|20)\d\d(?:[ -](?:19|20)\d\d)?(?![A-Z0-9]))(?=[A-Z0-9 -]{5})"
    r"(?:(?-i:[A-Z]{1,5})[ -]?)?[A-Z0-9]*\d[A-Z0-9]*(?:[ -][A-Z0-9]*\d[A-Z0-9]*){0,4})(?![A-Za-z0-9_])"
)
"""Groups of letters and digits. Each but the first has a digit, so that no following word is taken. No years."""
DRIVER_LICENSE = re.compile(
    r"(?:(?<![a-z])(?:driv(?:er['’]?s?|ing) licen[cs]e|führerschein|fahrerlaubnis|permis de conduire|patente di guida"
    r"|(?:licencia|permiso|carn[eé]t?) de conduc(?:ir|ción)|carta de condução|cnh|rijbewijs|prawo jazdy)"
    rf"|водительск\w+ удостоверени\w+|驾驶证|驾照|駕駛執照|駕照|運転免許証?|운전면허(?:증)?){_LINK}{_LICENCE_NUMBER}",
    re.IGNORECASE,
)
PASSPORT = re.compile(
    r"(?:(?<![a-z])(?:passport|passeport|pasaporte|passaporto|passaporte|reisepass|paspoort|paszport)"
    rf"|паспорт\w*(?: сери[ия])?|护照|護照|旅券|パスポート|여권){_LINK}"
    r"(?P<value>\d\d ?\d\d (?:№ ?)?\d{6}|(?=[A-Z0-9]{6,11}(?![A-Z0-9]))[A-Z]{0,5}\d[A-Z0-9]{3,9}"
    r"|\d\d[A-Z]{2}\d{5})(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
RECORD = re.compile(
    r"(?:(?<![a-z])(?:mrn|medical record|health record|patient (?:id|number|no)|chart|hospital number"
    r"|health (?:card|insurance)|medicare|medicaid|krankenversicherten|versicherten|patienten|num[ée]ro de patient"
    r"|número de paciente|historia clínica|numero paziente|patiënt|patient(?=nummer|nr))"
    rf"|номер пациента|病历|病歷|病歴|カルテ|患者){_LINK}"
    r"(?P<value>(?:[A-Z]{0,4}-?)?\d(?:[ -]?[A-Z0-9]){4,13})(?![A-Za-z0-9_])",
    re.IGNORECASE,
)


def is_passport_number(value: str) -> bool:
    """Tell whether a number has three digits or more: German ones mix digits and consonants."""
    return len(digits_in(value)) >= 3


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
"""Without `born on`, which is frequent in biographies."""

DOCUMENT_RULES = (
    PiiRule("driver_license", DRIVER_LICENSE, has_four_digits),
    PiiRule("passport", PASSPORT, is_passport_number),
    PiiRule("record_number", RECORD, has_four_digits),
    PiiRule("date_of_birth", BIRTH),
)
RECORDS: dict[PiiType, PiiRecord] = {rule.type: PiiRecord(stand_in=None) for rule in DOCUMENT_RULES}

ASCII_NAMES = words(
    "licen|passport|passeport|pasaporte|passaport|reisepass|paspoort|paszport|permis|patente|conduc|cnh"
    "|rijbewijs|prawo jazdy|fahrerlaubnis|mrn|record|patient|paziente|paciente|chart|hospital|health|medica"
    "|versichert|birth|dob|d.o.b|geb|naissance|nacimiento|nasci|geboorte|urodzenia"
)
UNICODE_NAMES = words(
    "паспорт|护照|護照|旅券|パスポート|여권|führerschein|condução|водительск|驾|駕|免許|운전면허|historia clínica"
    "|patiënt|пациент|患者|病|カルテ|födelse|fødsel|doğum|рождения|出生|生年|생년"
)


def names_a_document(text: str) -> bool:
    """Tell whether a text names a document, a record or a birth."""
    return names_any(text, ASCII_NAMES, UNICODE_NAMES)
