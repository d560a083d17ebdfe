from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import sentence_chrf

from tests.unit.scoring.graders.make import answer, mark, metric, question
from trainer.errors import DataError, HardwareError
from trainer.scoring.graders import GraderServices, auto_metrics, grade


@pytest.mark.parametrize(
    ("kind", "keys", "text", "reference", "score"),
    [
        ("exact_match", {}, " yes\n", "yes", 1),
        ("exact_match", {}, "Yes", "yes", 0),
        ("normalised_match", {}, "ＹＥＳ  sir", "yes sir", 1),
        ("normalised_match", {}, "yes!", "yes", 0),
        ("normalised_match", {"punctuation": True}, "yes!", "yes", 1),
        ("normalised_match", {"articles": True}, "the cat", "cat", 1),
        ("normalised_match", {"numbers": True}, "1,000.50 kg", "1000.5 kg", 1),
        ("normalised_match", {"numbers": True, "punctuation": True}, "-5", "5", 0),
        ("contains", {}, "It is Paris.", "paris", 1),
        ("contains", {"ignore_case": False}, "It is Paris.", "paris", 0),
        ("contains", {"values": ["a1", "b2"], "mode": "all"}, "a1 only", "", 0),
        ("contains", {"values": ["a1", "b2"]}, "a1 only", "", 1),
        *[("contains", {}, text, "18", 1) for text in ("It is 18.", "18kg", "**18**", "$18", "(18)", "18, 19", "a-18")],
        *[("contains", {}, text, "18", 0) for text in ("180", "118", "18.5", "1.18", "1,018", "-18", "A18", "18,5")],
        *[
            ("contains", {}, text, "18", 0)
            for text in (
                "the 18th",
                "18e3",
                "18ème",
                "v18",
                "v1.18",
                "v_18",
                ".18",
                "it is .18",
                "18:30",
                "at 6:18",
                "18'000",
                "18 000",
                "18.x",
                "18B2",
                "18½",
                "1'018",
                "18_000",
                "−18",
            )
        ],
        *[
            ("contains", {}, text, "18", 1)
            for text in (
                "18%",
                "18 %",
                "18°C",
                "No.18",
                "=18",
                "18-20",
                "_18_",
                "18\n",
                "(18)",
                "18/20",
                "18.",
                "3-18",
                "€18",
            )
        ],
        *[
            ("contains", {}, text, "C", 0)
            for text in ("Use C++.", "Use C#", "C++11", "vitamin C-rich", "R&C", "my_C", "C_1")
        ],
        *[
            ("contains", {}, text, "C", 1)
            for text in ("Use C.", "C/C++", "**C**", "*C*", "(C)", "C, not C++", "C's", "`C`", "C: yes", "_C_", "C+D")
        ],
        *[("contains", {}, text, "C++", 1) for text in ("C++", "Use C++.", "In C++17", "(C++)")],
        ("contains", {}, "a B+ or an A-", "B", 0),
        ("contains", {}, "a B+ or an A-", "A-", 1),
        ("contains", {}, "They can't", "can", 0),
        ("contains", {}, "It's the cat's", "cat", 1),
        ("contains", {}, "on .NET 8", "NET", 0),
        ("contains", {}, "on .NET 8", ".NET", 1),
        ("contains", {}, "df.groupby('a')", "groupby", 1),
        ("contains", {}, "my_cat", "cat", 0),
        ("contains", {}, "Code F32.0", "F32", 0),
        ("contains", {}, "Code F32.A", "F32", 0),
        ("contains", {}, "Code F32.", "F32", 1),
        ("contains", {}, "Code F32A", "F32", 0),
        ("contains", {}, "H2O", "H2", 0),
        ("contains", {}, "10-5", "-5", 0),
        ("contains", {}, "1.5", ".5", 0),
        ("contains", {}, "$50", "$5", 0),
        ("contains", {}, "US$5", "$5", 1),
        ("contains", {}, "concatenate", "cat", 0),
        ("contains", {}, "A Cat!", "cat", 1),
        ("contains", {}, "我住在东京都", "东京", 1),
        ("contains", {"whole": False}, "180", "18", 1),
        ("contains", {"values": ["C++", "-5"], "mode": "all"}, "In C++: -5", "", 1),
        ("not_contains", {"values": ["18"]}, "180", "", 1),
        ("not_contains", {"values": ["sorry", "as an AI"]}, "Sorry, no", "", 0),
        ("not_contains", {"values": ["sorry"]}, "Fine", "", 1),
        ("regex", {"pattern": r"^[A-Z]\d{2}"}, "A09 it is", "", 1),
        ("regex", {"pattern": r"answer: (\w+)", "group": 1}, "answer: cat", "cat", 1),
        ("regex", {"pattern": r"answer: (?P<x>\w+)", "group": "x", "expected": "dog"}, "answer: cat", "cat", 0),
        ("numeric", {}, "3 + 4 makes $1,007.", "1007", 1),
        ("numeric", {}, "It is −3", "-3", 1),
        ("numeric", {}, "5-3", "3", 1),
        ("numeric", {"abs_tolerance": 0.5}, "2.4", "2", 1),
        ("numeric", {"rel_tolerance": 0.1}, "89", "100", 0),
        ("numeric", {"pattern": r"####\s*(.+)"}, "7 and 8\n#### 72\nsee page 9", "48+24=72\n#### 72", 1),
        ("numeric", {"expected": 1200.0}, "1.2e3", "", 1),
        ("length", {"max": 3}, "one two three four", "", 0),
        ("length", {"min": 2, "unit": "sentences"}, "It is 3.5 m. Dr. Who said so.", "", 1),
        ("token_f1", {}, "The cat sat", "cat sat down", 0.8),
    ],
)
def test_an_answer_gets_its_mark(kind: str, keys: dict[str, Any], text: str, reference: str, score: float) -> None:
    assert mark(metric(kind, **keys), text, question(reference)).score == pytest.approx(score)


def test_one_of_reads_the_accepted_texts_of_the_row() -> None:
    assert mark(metric("one_of"), "Seven.", question("7", accepted=["7", "seven"])).score == 1
    assert mark(metric("one_of", values=["8"]), "Seven.", question("7", accepted=["7", "seven"])).score == 0


@pytest.mark.parametrize(
    ("text", "finished", "failure"),
    [
        ("", True, "other"),
        ("It is the capital of", False, "other"),
        ("I'm sorry, but I can't help with that.", True, "refusal"),
        ("paris.", True, "style"),
        ("Paris, which lies on the Seine", True, "style"),
        ("London", True, "knowledge"),
    ],
)
def test_failures_are_sorted(text: str, finished: bool, failure: str) -> None:
    assert mark(metric("exact_match"), answer(text, finished=finished), question("Paris")).failure == failure


def test_a_text_in_place_of_json_is_a_failure_of_format_and_json_in_a_fence_one_of_style() -> None:
    item = question('{"a": 1}')
    assert mark(metric("exact_match"), "a is 1", item).failure == "format"
    assert mark(metric("exact_match"), 'Sure:\n```json\n{"a": 1.0}\n```', item).failure == "style"
    assert mark(metric("exact_match"), '{"a": 2}', item).failure == "knowledge"


def test_a_label_outside_the_set_is_a_failure_of_format_and_a_wrong_one_of_knowledge() -> None:
    items = [question(label) for label in ("spam", "ham", "spam", "ham")]
    answers = [answer(text) for text in ("spam", "spam", "eggs", "The label is ham")]
    marks = grade(metric("label"), answers, items, GraderServices())
    assert [(result.score, result.failure) for result in marks if result] == [
        (1, None), (0, "knowledge"), (0, "format"), (0, "style"),
    ]  # fmt: skip


def test_a_metric_reads_its_key_and_looks_only_at_its_rows() -> None:
    rows = [question("x", code="A1", part="test"), question("x", code="A1", part="train")]
    marks = grade(metric("exact_match", key="code", when={"part": "test"}), [answer("A1")] * 2, rows, GraderServices())
    assert marks[0] is not None and marks[0].score == 1 and marks[1] is None


def test_a_missing_field_is_named_with_the_row_and_the_fields_there_are() -> None:
    with pytest.raises(
        DataError, match=r"rows\.jsonl:7: metric codes needs the field `codes`; the row has: code, part"
    ):
        mark(metric("exact_match", key="codes", name="codes"), "A1", question("x", code="A1", part="test"))


def test_no_reference_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="the row has none"):
        mark(metric("exact_match"), "A1", question(None))


@pytest.mark.parametrize(
    "keys",
    [
        {"kind": "regex", "pattern": "("},
        {"kind": "regex", "pattern": "a", "group": 1},
        {"kind": "regex", "pattern": "a", "expected": "a"},
        {"kind": "numeric", "pattern": r"\d+"},
        {"kind": "length"},
        {"kind": "length", "min": 3, "max": 2},
        {"kind": "exact_match", "caseless": True},
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        metric(**keys)


TEXTS = [
    ("the cat sat on the mat", "a cat was sitting on the mat"),
    ("Ünïcode texts — with marks!", "unicode text with marks"),
    ("completely different", "nothing alike here"),
    ("The quick brown foxes jumped", "The quick brown fox jumps over it"),
]


@pytest.mark.parametrize(("text", "reference"), TEXTS)
def test_rouge_and_chrf_are_those_of_their_libraries(text: str, reference: str) -> None:
    item = question(reference)
    for stemmer in (False, True):
        expected = RougeScorer(["rougeL"], use_stemmer=stemmer).score(reference, text)["rougeL"].fmeasure
        assert mark(metric("rouge_l", stemmer=stemmer), text, item).score == pytest.approx(expected, abs=1e-12)
    for order in (0, 2):
        expected = sentence_chrf(text, [reference], word_order=order).score / 100
        assert mark(metric("chrf", word_order=order), text, item).score == pytest.approx(expected, abs=1e-12)


def test_semantic_is_the_cosine_and_an_empty_answer_is_unlike_everything() -> None:
    vectors = {"a": [1, 0], "b": [0.6, 0.8], "": [1, 0]}

    def load(model: str) -> Any:
        assert model == "folder"
        return lambda texts: np.array([vectors[text] for text in texts], np.float32)

    items = [question("a"), question("a"), question("a")]
    marks = grade(
        metric("semantic", model="folder"), [answer(text) for text in "ab"] + [answer("")], items, GraderServices(load)
    )
    assert [result.score for result in marks if result] == pytest.approx([1, 0.6, 0])


@pytest.mark.parametrize("kind", ["semantic", "llm_judge", "multiple_choice"])
def test_a_missing_helper_is_an_error_with_a_way_out(kind: str) -> None:
    with pytest.raises(HardwareError, match=f"metric {kind} needs") as error:
        mark(metric(kind), "a", question("a", choices=["a", "b"]))
    assert "kind:" in error.value.hint or "judge" in error.value.hint


def test_clean_stop_wants_an_end_and_some_text() -> None:
    assert mark(metric("clean_stop"), "done", question()).score == 1
    assert mark(metric("clean_stop"), answer("and so", finished=False), question()).failure == "other"
    assert mark(metric("clean_stop"), " ", question()).score == 0


@pytest.mark.parametrize(
    ("references", "kinds"),
    [
        (["spam", "ham"], ["exact_match", "token_f1"]),
        (['{"a": 1}', '{"a": 2}'], ["exact_match", "json_fields", "valid_json"]),
        (['{"a": 1}', '{"a": 2}', "no"], ["exact_match", "valid_json"]),
        (["12", "$3.50"], ["exact_match", "numeric"]),
        (["48 + 24 = 72\n#### 72", "so\n#### 1,000"], ["numeric", "rouge_l"]),
        ([r"\frac{1}{2}", r"So \boxed{3}"], ["math", "exact_match"]),
        (['[{"code": "A", "confidence": 0.9}]', "[]"], ["json_fields", "confidence", "valid_json"]),
        (["word " * 20] * 3, ["rouge_l", "chrf", "token_f1", "exact_match"]),
        ([], []),
    ],
)
def test_auto_chooses_what_fits_the_references(references: list[str], kinds: list[str]) -> None:
    result = auto_metrics(references, [question(reference) for reference in references])
    assert [grader.kind for grader in result] == kinds


@pytest.mark.parametrize(
    "value",
    [
        metric("regex", pattern=r"(a|aa)+$"),
        metric("numeric", pattern=r"((?:a|aa)+)$"),
        metric("refusal", expected="refuse", patterns=[r"(a|aa)+$"]),
    ],
    ids=lambda value: value.kind,
)
def test_an_expression_that_takes_too_long_is_wrong_and_the_next_answer_is_marked(value: Any) -> None:
    before = time.process_time()
    slow, quick = grade(value, [answer("a" * 40 + "!"), answer("aaa")], [question("1")] * 2, GraderServices())
    assert time.process_time() - before < 10
    assert slow is not None and slow.score == 0 and quick is not None
    assert "takes longer than 1 s" in slow.reason and slow.failure == "other"


def test_texts_are_contained_however_their_letters_are_composed() -> None:
    assert mark(metric("contains", values=["Z\u00fcrich"]), "Zu\u0308rich is it", question("")).score == 1
