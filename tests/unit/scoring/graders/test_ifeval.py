"""Kwargs are those of rows of the published IFEval data (Apache-2.0, google-research/instruction_following_eval)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.scoring.graders.make import answer, mark, metric, question
from trainer.errors import DataError
from trainer.scoring.graders.ifeval.checks import CHECKS, follows, follows_loosely
from trainer.scoring.graders.segments import split_sentences

REPEAT = "Write a song about a corgi named Chester who loves to play fetch."
GERMAN = "Das Wetter ist heute sehr schön und wir gehen mit den Kindern in den Park."
BULGARIAN = "Днес времето е много хубаво и ние отиваме с децата в парка."
ENGLISH = "The weather is very nice today and we are going to the park with the children."
TWO = "The first answer.\n******\nThe second answer."
HIGHLIGHTS = "A *summer* in the **country**."
DAYS = "\n".join(f"Day {n}\nWe walk." for n in range(1, 8))

# (instruction, kwargs, an answer that follows it, one that does not)
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["festival", "river"]}, "A Festival by the RIVER.", "A festival by the sea."),
    ("keywords:frequency", {"relation": "at least", "keyword": "fiesta", "frequency": 2}, "Fiesta! fiesta!", "fiesta"),
    ("keywords:forbidden_words", {"forbidden_words": ["mileage", "fuel"]}, "It is refueled.", "It needs Fuel."),
    ("keywords:letter_frequency", {"let_relation": "less than", "letter": "w", "let_frequency": 2}, "Wait", "Wow"),
    ("keywords:letter_frequency", {"let_relation": "at least", "letter": "n", "let_frequency": 3}, "Nanny", "any"),
    ("language:response_language", {"language": "bg"}, BULGARIAN, ENGLISH),
    ("language:response_language", {"language": "de"}, GERMAN, ENGLISH),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 4},
        "A b. C d! E f? G.",
        "A b. C.",
    ),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 26}, "A b.", "A b. " * 26),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 4}, "a\n***\nb\n***\nc\n***\nd", "a\n\nb\n\nc\n\nd"),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 151}, "word " * 150, "word " * 151),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 400}, "word " * 400, "word " * 399),
    (
        "length_constraints:nth_paragraph_first_word",
        {"first_word": "elm", "num_paragraphs": 4, "nth_paragraph": 4},
        "a\n\nb\n\nc\n\n'Elm, a tree",
        "a\n\nb\n\nelm c\n\nd",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] in [city]", "[name] in town"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\n\nP.S. Write soon", "Bye. PS write soon"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\n\nP. P. S more", "Bye.\n\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "* a\n- b\n * c", "* a\n* b\n* c\n* d"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, HIGHLIGHTS, "A *summer* in ** **."),
    ("detectable_format:multiple_sections", {"section_spliter": "Day", "num_sections": 7}, DAYS, DAYS[:40]),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "Here: {}"),
    ("detectable_format:title", {}, "<<Summers>>\nLong ago", "<Summers>\nLong ago << >>"),
    ("combination:two_responses", {}, TWO, "The same.\n******\nThe same."),
    ("combination:repeat_prompt", {"prompt_to_repeat": REPEAT}, f"{REPEAT}\n\nOh Chester", f"Sure! {REPEAT}"),
    (
        "startend:end_checker",
        {"end_phrase": "Naomi thanks you for reading."},
        "Bye. Naomi thanks you for reading.",
        "Bye.",
    ),
    ("startend:quotation", {}, '"All of it."', '"All" of it.'),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_capital", {}, ENGLISH.upper(), GERMAN.upper()),
    ("change_case:english_lowercase", {}, ENGLISH.lower(), ENGLISH),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 3},
        "NASA and the USA won BIG.",
        "NASA and the Usa won BIG.",
    ),
    ("punctuation:no_comma", {}, "No pause", "A pause, here"),
]


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES)
def test_each_instruction_is_verified(name: str, arguments: dict[str, Any], right: str, wrong: str) -> None:
    assert follows(right, name, arguments) and not follows(wrong, name, arguments)
    assert follows_loosely(right, name, arguments)


def test_all_25_kinds_are_covered() -> None:
    assert {name for name, *_ in CASES} == set(CHECKS) and len(CHECKS) == 25


def test_an_empty_answer_follows_nothing() -> None:
    assert not any(follows(" \n", name, arguments) for name, arguments, *_ in CASES)


def test_the_loose_verdict_leaves_out_first_and_last_lines_and_asterisks() -> None:
    for text in ("Sure, here it is:\nplain text", "plain text\nBye, bye", "Sure,\nplain text\nBye,"):
        assert not follows(text, "punctuation:no_comma", {}) and follows_loosely(text, "punctuation:no_comma", {})
    assert follows_loosely('*"All of it."*', "startend:quotation", {})


def test_a_prompt_needs_all_its_instructions_and_kwargs_that_are_null_do_not_count() -> None:
    item = question(
        instruction_id_list=["punctuation:no_comma", "startend:quotation"], kwargs=[{"num_words": None}, {}]
    )
    assert mark(metric("ifeval"), '"All of it"', item).score == 1
    grade = mark(metric("ifeval"), '"All, of it"', item)
    assert grade.score == 0 and grade.failure == "format" and grade.reason == "not followed: punctuation:no_comma"
    assert mark(metric("ifeval", level="instruction"), '"All, of it"', item).score == 0.5
    assert mark(metric("ifeval"), answer("a, b", finished=False), item).failure == "other"


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["punctuation:none"], [{}]),
        (["punctuation:no_comma"], []),
        ([], []),
        (["keywords:existence"], [{}]),
        (["punctuation:no_comma"], [{"num_words": 3}]),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "at most"}]),
    ],
)
def test_instructions_that_cannot_be_read_are_errors(names: Any, arguments: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7"):
        mark(metric("ifeval"), "text", question(instruction_id_list=names, kwargs=arguments))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Smith paid $3.50 at 5 p.m. on Friday. He left.", 2),
        ("Wait... what? Yes!", 2),
        ('"Stop!" she said. J. R. R. Tolkien wrote it, e.g. in 1937.', 2),
        ("1. First item\n2. Second item.", 1),
        ("He works at Acme Inc. She does not.", 2),
        ("no end", 1),
        ("你好。再见！", 2),
        ("", 0),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, count: int) -> None:
    assert len(split_sentences(text)) == count
