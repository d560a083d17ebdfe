"""Personal data is found in the languages and forms of many countries; what only looks like it stays."""

from __future__ import annotations

import random

import pytest

from tests.unit.data.pii.person_rows import BARE, IN_SENTENCES_WITHOUT_SPACES, LOOKALIKES, SENTENCES, number_of
from trainer.data.pii.find import families, find_all
from trainer.recipe.pii import Pii

RULES = families(Pii().phone_regions)
NUM_DRAWS = 21


def is_found(text: str, value: str) -> bool:
    start = text.index(value)
    return any(match.start <= start and start + len(value) <= match.end for match in find_all(text, RULES))


@pytest.mark.parametrize("region", SENTENCES)
def test_national_numbers_are_found_in_sentences_of_their_country(region: str) -> None:
    rng = random.Random(region)
    for index in range(NUM_DRAWS):
        number = number_of(rng, region)
        text = SENTENCES[region][index % len(SENTENCES[region])].format(number)
        assert is_found(text, number), text


@pytest.mark.parametrize("region", BARE)
def test_the_form_of_the_country_is_enough_where_no_word_says_telephone(region: str) -> None:
    rng = random.Random(region)
    for _ in range(NUM_DRAWS):
        number = number_of(rng, region)
        assert is_found(BARE[region].format(number), number), number


@pytest.mark.parametrize("case", IN_SENTENCES_WITHOUT_SPACES)
def test_a_value_inside_text_without_spaces_is_found_and_nothing_around_it(case: str) -> None:
    text, value = IN_SENTENCES_WITHOUT_SPACES[case]
    assert [text[match.start : match.end] for match in find_all(text, RULES)] == [value]


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_what_only_looks_like_personal_data_is_flagged_in_under_one_percent(kind: str) -> None:
    write, wrong_type = LOOKALIKES[kind]
    rng = random.Random(kind)
    texts = [write(rng) for _ in range(1_000)]
    flagged = [text for text in texts if any(match.type == wrong_type for match in find_all(text, RULES))]
    assert len(flagged) < 10, flagged[:5]


@pytest.mark.parametrize(
    "text",
    [
        "ann [at] corp [dot] com",
        "ann.lee(at)corp.co.uk",
        "ann at corp dot com",
        "ann AT corp DOT org",
        "ann{at}corp{dot}net",
    ],
)
def test_an_address_that_is_spelled_out_is_found(text: str) -> None:
    assert is_found(f"Write to {text} today", text)


def test_a_leaked_address_with_its_password_is_still_an_address() -> None:
    assert is_found("ann.lee@corp.com:hunter2", "ann.lee@corp.com")


@pytest.mark.parametrize(
    "address",
    [
        "742 Evergreen Terrace, Springfield, IL 62704",
        "10 Downing Street, London SW1A 2AA",
        "Hauptstraße 12, 10115 Berlin",
        "12 bis rue de la Paix, 75002 Paris",
        "Via Garibaldi 8, 00153 Roma",
        "Calle Mayor, 15, 28013 Madrid",
        "Keizersgracht 123, 1015 CJ Amsterdam",
        "12 Smith Street, Fitzroy VIC 3065",
        "455 Granville Street, Vancouver, BC V6C 1T1",
    ],
    ids=["US", "GB", "DE", "FR", "IT", "ES", "NL", "AU", "CA"],
)
def test_addresses_of_the_covered_countries_are_found(address: str) -> None:
    assert is_found(f"She lives at {address} now.", address)


@pytest.mark.parametrize(
    "text",
    [
        "The 12 road tests of 75002 cars ended in Paris",
        "Via the 12 main routes 00153 packets went out",
        "Chapter 3 rue the day, 12345 words",
        "Section 4 of VIC 3065 is repealed",
    ],
)
def test_sentences_with_numbers_are_no_addresses(text: str) -> None:
    assert [match for match in find_all(text, RULES) if match.type == "address"] == []


def test_a_number_whose_place_the_tables_lack_is_no_identity_number_and_stops_nothing() -> None:
    assert find_all("resident identity 110001199003070016", RULES) == []


HARMLESS = (
    "The frequency is 2400000000 Hz and the period 416 ps.",
    "RGB 255 128 064, hex #a1b2c3, CMYK 10 20 30 40.",
    "NPI 1234567893; NDC 0002-8215-01; CPT 99213",
    "2023-11-14T22:13:20.123456+00:00 INFO request 17000000001234 done",
    "Die Auftragsnummer ist 1234567890 und die Losgröße 500.",
)
LABELS = (
    *("Text: ", "Message: ", "Messages:\n", "# Text:\n", "**Message:** ", "The text: ", "Answer: ", "Call: ", "Ring: "),
    *(
        "Work: ",
        "Reach: ",
        "Mensaje: ",
        "Llamada: ",
        "Standard : ",
        "Appel : ",
        "Anruf: ",
        "Bel: ",
        "Звонок: ",
        "致电：",
    ),
)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_before_a_text_does_not_make_its_numbers_telephone_numbers(label: str) -> None:
    flagged = [text for text in HARMLESS if any(match.type == "phone" for match in find_all(label + text, RULES))]
    assert flagged == []


@pytest.mark.parametrize("text", ["The answer is 2400000000.", "Answer: 1234567890", "the text 2400000000 ends"])
def test_answers_and_texts_are_no_calls(text: str) -> None:
    assert find_all(text, RULES) == []


@pytest.mark.parametrize(
    "text",
    [
        *("text me at {}", "Text us on {} now", "message me on {}", "Send a text to {}", "Please message {}"),
        *("Text me: {}", "Message: call me on {}", "Call: {}", "**Call:** {}", "Ring: {}", "Work: {}", "Anruf: {}"),
        *("Leave a message at {}", "Contact: Ann Lee, {}", "Звоните: {}", "致电：{}", "Fax: {}", "Appel : {}"),
    ],
)
def test_words_that_ask_to_call_or_write_name_the_number_after_them(text: str) -> None:
    assert is_found(text.format("07911123456"), "07911123456")
