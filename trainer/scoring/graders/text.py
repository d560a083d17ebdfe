"""Grade the wording of an answer."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from trainer.errors import DataError
from trainer.recipe.metrics import (
    CleanStop,
    Contains,
    ExactMatch,
    Label,
    Length,
    NormalisedMatch,
    NotContains,
    OneOf,
    Regex,
)
from trainer.scoring.graders.expected import expected_texts, field
from trainer.scoring.graders.expressions import search
from trainer.scoring.graders.failures import excerpt, wrong
from trainer.scoring.graders.normalise import bare, normalise, words
from trainer.scoring.graders.segments import split_sentences, stands_whole_in
from trainer.scoring.question import Answer, Grade, Question

RIGHT = Grade(1.0)


def exact_match(answer: str, reference: str) -> bool:
    """Tell whether the answer is the reference, outer white space aside."""
    return answer.strip() == reference.strip()


def grade_exact(grader: ExactMatch, answer: Answer, question: Question) -> Grade:
    """Mark equality, outer white space aside."""
    texts = expected_texts(grader, question)
    return RIGHT if any(exact_match(answer.text, text) for text in texts) else wrong(answer, texts)


def grade_normalised(grader: NormalisedMatch, answer: Answer, question: Question) -> Grade:
    """Mark equality after normalisation."""

    def form(text: str) -> str:
        return normalise(text, punctuation=grader.punctuation, articles=grader.articles, numbers=grader.numbers)

    texts = expected_texts(grader, question)
    return RIGHT if form(answer.text) in map(form, texts) else wrong(answer, texts)


def grade_one_of(grader: OneOf, answer: Answer, question: Question) -> Grade:
    """Mark whether the answer is one of the accepted texts."""
    texts = grader.values if grader.values is not None else field(grader, question, grader.key)
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{question.id}: `{grader.key}` is no list of accepted texts", hint="give at least one text")
    form: Callable[[str], str] = bare if grader.normalise else str.strip
    accepted = [str(text) for text in texts]
    return RIGHT if form(answer.text) in map(form, accepted) else wrong(answer, accepted)


def _present(grader: Contains | NotContains, answer: Answer, question: Question) -> tuple[bool, list[str], list[str]]:
    """Return whether the texts count as contained, those in the answer, and all of them."""
    texts = grader.values or expected_texts(grader, question)

    def form(text: str) -> str:
        composed = unicodedata.normalize("NFC", text)
        return composed.casefold() if grader.ignore_case else composed

    stands_in = stands_whole_in if grader.whole else str.__contains__
    present = [text for text in texts if stands_in(form(answer.text), form(text))]
    return (bool(present) if grader.mode == "any" else len(present) == len(texts)), present, texts


def grade_contains(grader: Contains, answer: Answer, question: Question) -> Grade:
    """Mark whether the texts stand in the answer."""
    is_present, present, texts = _present(grader, answer, question)
    missing = ", ".join(excerpt(text) for text in texts if text not in present)
    return RIGHT if is_present else wrong(answer, texts, f"does not contain {missing}")


def grade_not_contains(grader: NotContains, answer: Answer, question: Question) -> Grade:
    """Mark whether the texts are absent from the answer."""
    is_present, present, _ = _present(grader, answer, question)
    return Grade(0.0, f"contains {', '.join(map(excerpt, present))}", "style") if is_present else RIGHT


def grade_regex(grader: Regex, answer: Answer, question: Question) -> Grade:
    """Mark a match, or what a group of it captured."""
    match = search(grader.pattern, answer.text, ignore_case=grader.ignore_case)
    if match is None:
        is_late = not answer.text.strip() or not answer.finished
        return Grade(0.0, f"the pattern {grader.pattern} is not found", "other" if is_late else "format")
    if grader.group is None:
        return RIGHT
    captured = (match[grader.group] or "").strip()
    texts = [grader.expected] if grader.expected is not None else expected_texts(grader, question)
    form: Callable[[str], str] = str.casefold if grader.ignore_case else str
    if any(form(captured) == form(text.strip()) for text in texts):
        return RIGHT
    return Grade(0.0, f"expected {excerpt(texts[0])}, captured {excerpt(captured)}", "knowledge")


def grade_labels(grader: Label, answers: Sequence[Answer], questions: Sequence[Question]) -> list[Grade]:
    """Mark labels of a closed set: by default all expected ones."""
    expected = [expected_texts(grader, question) for question in questions]
    allowed = grader.labels or sorted({text for texts in expected for text in texts})
    return [_grade_label(grader, *pair, allowed) for pair in zip(answers, expected, strict=True)]


def _grade_label(grader: Label, answer: Answer, expected: list[str], allowed: list[str]) -> Grade:
    form: Callable[[str], str] = normalise if grader.ignore_case else str.strip
    label = form(answer.text)
    if label in map(form, expected):
        return RIGHT
    if label in map(form, allowed):
        return Grade(0.0, f"expected {excerpt(expected[0])}, got {excerpt(label)}", "knowledge")
    failure = wrong(answer, expected).failure
    reason = f"expected {excerpt(expected[0])}, got {excerpt(answer.text)}, which is none of the {len(allowed)} labels"
    return Grade(0.0, reason, "format" if failure == "knowledge" else failure)


def grade_length(grader: Length, answer: Answer, question: Question) -> Grade:
    """Mark whether the length lies within the limits."""
    count = measured_length(answer, grader.unit)
    if grader.min is not None and count < grader.min:
        return Grade(0.0, f"{count} {grader.unit}, fewer than {grader.min}", "style" if count else "other")
    if grader.max is not None and count > grader.max:
        return Grade(0.0, f"{count} {grader.unit}, more than {grader.max}", "style")
    return RIGHT


def measured_length(answer: Answer, unit: str) -> int:
    """Return the length of an answer in words, characters, sentences or tokens."""
    if unit == "tokens":
        return answer.num_tokens
    if unit == "characters":
        return len(answer.text.strip())
    return len(answer.text.split() if unit == "words" else split_sentences(answer.text))


def grade_clean_stop(grader: CleanStop, answer: Answer, question: Question) -> Grade:
    """Mark whether the answer ended by itself and is not empty."""
    if not answer.text.strip() and not answer.tool_calls:
        return Grade(0.0, "empty", "other")
    return RIGHT if answer.finished else Grade(0.0, f"cut off after {answer.num_tokens} tokens", "other")


def token_f1(answer: str, reference: str) -> float:
    """Return F1 over the words that two texts share, counted as often as they occur in both.

    Source: Rajpurkar et al., SQuAD, https://arxiv.org/abs/1606.05250, section 6.1.

    Example: two of three words shared on either side.
        >>> round(token_f1("in old Rome", "Rome in Italy"), 3)
        0.667
    """
    actual, expected = Counter(words(answer)), Counter(words(reference))
    if not actual or not expected:
        return float(actual == expected)
    return 2 * (actual & expected).total() / (actual.total() + expected.total())
