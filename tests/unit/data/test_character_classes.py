"""A search in the classes of characters finds what a pattern finds in the text."""

from __future__ import annotations

import random
import re

import pytest

from trainer.data.character_classes import CAPITALS, DIGITS, SMALL, class_table, classes_of
from trainer.data.duplicates.keys import CASED, normalise, normalise_exactly
from trainer.data.pii.detectors.rule import has_long_word
from trainer.data.pii.find import has_mixed_id, may_hold_a_value, num_digits

PIECES = (
    *(
        "Ab",
        "aB",
        "AB",
        "a1",
        "B2",
        "Mb2",
        "12",
        "99a123",
        "7",
        "```",
        "\n",
        "\n  x",
        "{",
        ";\n",
        "} \n",
        "ä",
        "Ж",
        "三",
        "٣",
    ),
    *("@", "(at", " dot ", " AT ", "word", "a_long-word0123456", "ABCDEFG", "H", "/+", " ", ". ", "\t", "\x1f"),
)


def texts() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices(PIECES, k=rng.randrange(1, 9))) for _ in range(4_000)]


def test_a_table_gives_each_character_its_class_and_a_dot_to_every_other_byte() -> None:
    table = class_table(A=CAPITALS, a=SMALL, d=DIGITS)
    assert classes_of("camelCase 3ä\ud800", table) == b"aaaaaAaaa.d" + b"." * 5


@pytest.mark.parametrize(
    ("finds", "pattern"),
    [
        (has_long_word, r"[A-Za-z0-9_-]{18}"),
        (has_mixed_id, r"\d(?:[ .]?\d){5}|[A-Z]{5}[A-Z\d]|\d\d[A-Za-z]\d{3}"),
        (may_hold_a_value, r"[\d@]|[A-Za-z0-9+/_-]{16}|[A-Z]{8}| dot | AT |[\[({<]at"),
        (num_digits, r"\d"),
    ],
    ids=["long_word", "mixed_id", "value", "digit"],
)
def test_a_look_at_classes_tells_what_the_pattern_tells(finds: object, pattern: str) -> None:
    assert callable(finds)
    wrong = [text for text in texts() if bool(finds(text)) != (re.search(pattern, text) is not None)]
    assert not wrong


def test_no_text_with_signs_of_code_is_folded_as_prose() -> None:
    cased = [
        text for text in texts() if CASED.search(text) and "".join(text.split()) != "".join(normalise(text).split())
    ]
    assert len(cased) > 100
    assert all(normalise_exactly(text) != normalise(text) for text in cased)
