"""Values in full-width letters and in digits of other scripts, and documents after their word in many languages."""

from __future__ import annotations

import pytest

from trainer.data.pii.find import families, find_all
from trainer.data.pii.fold import folded
from trainer.data.pii.scan import Scanner
from trainer.recipe.pii import Action, Pii

RULES = families(Pii().phone_regions)

WIDE = {
    "card": ("Kreditkartennummer ５５００ ００５５ ５５５５ ５５５９ gilt", "５５００ ００５５ ５５５５ ５５５９"),
    "phone": ("phone: ０９０－１２３４－５６７８", "０９０－１２３４－５６７８"),
    "phone in Japanese": ("電話：０９０－１２３４－５６７８です", "０９０－１２３４－５６７８"),
    "phone in Chinese": ("电话１３８１２３４５６７８，谢谢", "１３８１２３４５６７８"),
    "phone in Arabic": ("رقم هاتفي ٠٥٠ ١٢٣ ٤٥٦٧", "٠٥٠ ١٢٣ ٤٥٦٧"),
    "phone before its word": ("٠٥٠١٢٣٤٥٦٧ رقم الهاتف", "٠٥٠١٢٣٤٥٦٧"),
    "phone in Hindi": ("मेरा फ़ोन नंबर ९८७६५ ४३२१० है", "९८७६५ ४३२१०"),
    "email": ("メール：ａｎｎ＠ｃｏｒｐｍａｉｌ．ｄｅ まで", "ａｎｎ＠ｃｏｒｐｍａｉｌ．ｄｅ"),
    "iban": ("ＩＢＡＮ ＤＥ８９３７０４００４４０５３２０１３０００", "ＤＥ８９３７０４００４４０５３２０１３０００"),
    "record": ("患者番号：４８２９１７３５", "４８２９１７３５"),
}
DOCUMENTS = {
    "passport": (
        *("Passport number: {C7FK3P9XT}", "My passport is {C01X00T47}.", "Reisepassnummer: {C7FK3P9XT}"),
        *("Reisepass Nr. {C01X00T47}", "passeport n° {12AB34567}", "pasaporte número {AAA123456}"),
        *("numero passaporto: {YA1234567}", "паспорт {4509 123874}", "паспорт серии {4509 № 123874}"),
        *("旅券番号：{TK8291746}", "パスポート番号は{TK8291746}です", "護照號碼 {312845769}", "护照号码：{E12345678}"),
    ),
    "driver_license": (
        *("Führerscheinnummer: {K072TRE2I55}", "permis de conduire : {881172350218} est valable"),
        *("driver's license: {D1234567} and more", "Driver licence no. {WDP 1234}", "rijbewijsnummer {1234567890}"),
        *("The driver's license number is {D123-4567-8901} and mine", "運転免許証番号：{123456789012}"),
        *("водительское удостоверение № {7712 345678}", "permiso de conducir {12345678Z}"),
    ),
    "record_number": ("Patientennummer: {48291735}", "numéro de patient : {48291735}", "病历号：{48291735}"),
}
NO_DOCUMENTS = (
    *("Passport to Paris is a film of 1999.", "The passport office opens at 9.", "Passport valid 2024-2025"),
    *("The passport 20 countries visited in 1999", "permis de conduire en 2023", "Führerschein 2023-2024"),
    *("Führerschein Klasse B 2023", "a driver's license in 2023 and 2024", "паспорт 2023 года", "Patienten 2023"),
)


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("action", ["redact", "mask", "pseudonymise"])
def test_values_in_other_forms_of_letters_and_digits_are_replaced_and_nothing_around(kind: str, action: Action) -> None:
    text, value = WIDE[kind]
    before, after = text.split(value)
    scanned = Scanner(Pii(action=action))({"text": f"{text} | {text}"})
    assert scanned.record is not None
    first, second = scanned.record["text"].split(" | ")
    for new in (first, second):
        assert new.startswith(before) and new.endswith(after) and value not in new
    assert not any(
        value[-8:] in part or folded(value)[:-2] in part for part in (first, *(f.sample for f in scanned.findings))
    )


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in DOCUMENTS.items() for text in texts])
def test_numbers_of_documents_are_found_after_their_word(kind: str, text: str) -> None:
    value = text[text.index("{") + 1 : text.index("}")]
    plain = text.replace("{", "").replace("}", "")
    assert [(match.type, plain[match.start : match.end]) for match in find_all(plain, RULES)] == [(kind, value)]


@pytest.mark.parametrize("text", NO_DOCUMENTS)
def test_words_and_years_after_the_name_of_a_document_are_no_number(text: str) -> None:
    assert find_all(text, RULES) == []


def test_folding_keeps_every_place() -> None:
    text = "電話：０９０－１２３４（夜）、ＡＢＣ ٠٥ ९८"
    assert folded(text) == "電話：090-1234(夜)、ABC 05 98"
    assert folded("（夜），：") == "（夜），："


def test_an_address_inside_of_a_link_is_found() -> None:
    (match,) = find_all("mailto:ann%40corpmail.de?subject=x", RULES)
    assert match.type == "email"
    assert Scanner(Pii(action="mask"))({"text": "mailto:ann%40corpmail.de"}).record == {"text": "mailto:a***@c***.de"}
    assert Scanner(Pii(action="redact"))({"text": "mailto:ann%40example.com"}).counts == {}
