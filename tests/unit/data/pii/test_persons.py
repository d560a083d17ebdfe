"""Personal data is found in the languages and forms of many countries; what only looks like it stays."""

from __future__ import annotations

import random

import pytest

from tests.unit.data.pii.person_rows import BARE, IN_SENTENCES_WITHOUT_SPACES, LOOKALIKES, SENTENCES, number_of
from trainer.data.pii.rules import families, find_all
from trainer.recipe.pii import Pii

RULES = families(Pii().phone_regions)
NUM_DRAWS = 40


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
