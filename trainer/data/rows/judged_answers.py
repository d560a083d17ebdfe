"""Make preference pairs of judged answers: two answers with a verdict, or several with ranks or scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from trainer.data.records.kinds import Message
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.columns import Columns
from trainer.data.rows.conversations import turns_of
from trainer.data.rows.pairs import transcript_turns
from trainer.data.rows.values import parse_json

PROMPTS = ("prompt", "instruction", "question", "query", "input", "history", "context")
"""Columns that hold what was asked; `history` is SHP's, `context` HelpSteer3's."""


class TwoAnswers(NamedTuple):
    """Columns of two answers, and what the verdict calls each of them."""

    first: str
    second: str
    names: tuple[str, str]


_PAIRS_OF_COLUMNS = (
    *(("response_1", "response_2"), ("response1", "response2"), ("response_0", "response_1")),
    *(("response_a", "response_b"), ("response_A", "response_B"), ("answer_0", "answer_1")),
    *(("answer_1", "answer_2"), ("answer_a", "answer_b"), ("output_1", "output_2"), ("output_a", "output_b")),
    *(("completion_a", "completion_b"), ("human_ref_A", "human_ref_B"), ("conversation_a", "conversation_b")),
)
TWO_ANSWERS = tuple(
    TwoAnswers(first, second, (first[-1].lower(), second[-1].lower())) for first, second in _PAIRS_OF_COLUMNS
)
STRENGTHS = ("preference_strength", "overall_preference")
"""Below 0 the first answer is better, above 0 the second. Source: cards of HelpSteer2-Preference and HelpSteer3."""
VERDICTS = (
    *("winner", "preferred", "better", "better_response_id"),
    *("preference", "choice", "preferred_response", "label"),
)
TIES = ("tie", "both", "equal", "same", "neither", "none", "draw")
ANSWER_LISTS = ("completions", "responses", "answers", "candidates", "generations", "outputs")
SCORE_LISTS, RANK_LISTS = ("scores", "ratings", "rewards"), ("ranks", "ranking", "rank")
TEXT_KEYS = ("response", "answer", "text", "content", "output", "completion")
SCORE_KEYS, RANK_KEYS = ("overall_score", "score", "rating", "reward", "fine-grained_score"), ("rank", "ranking")


def two_answers(row: dict[str, object]) -> TwoAnswers | None:
    """Return which columns hold two answers with a verdict on them, None for a row of another layout."""
    for answers in TWO_ANSWERS:
        if answers.first in row and answers.second in row and _verdict_columns(row, answers):
            return answers
    return None


def _verdict_columns(row: dict[str, object], answers: TwoAnswers) -> list[str]:
    """Return the columns that say which of two answers is better."""
    if answers.first == "human_ref_A":
        return [name for name in ("labels",) if name in row]
    verdicts = [name for name in (*STRENGTHS, *VERDICTS) if name in row]
    if not verdicts and {"winner_model_a", "winner_model_b"} <= row.keys():
        return ["winner_model_a", "winner_model_b"]
    return verdicts or _score_columns(row, answers)


def _score_columns(row: dict[str, object], answers: TwoAnswers) -> list[str]:
    for stem in ("score", "rating", "reward"):
        names = [f"{stem}_{suffix}" for suffix in answers.names]
        if all(name in row for name in names):
            return names
    return []


def parse_two_answers(columns: Columns) -> tuple[list[Message] | None, object, object]:
    """Return the prompt (None where the answers carry it), the better and the worse answer.

    Raises:
        RowError: the verdict is a tie, or none that is known.
    """
    row = columns.present()
    answers = two_answers(row)
    if answers is None:
        raise RowError("unknown_format", f"no two answers with a verdict in a row with {columns.described()}")
    first, second = columns.take(answers.first), columns.take(answers.second)
    names = _verdict_columns(row, answers)
    if len(names) > 1 and names[0] in (*STRENGTHS, *VERDICTS):
        names = names[:1]
    better = _better([columns.take(name) for name in names], names, answers)
    prompt = None if answers.first == "conversation_a" else judged_prompt(columns)
    return (prompt, first, second) if better == 0 else (prompt, second, first)


def _better(values: list[object], names: list[str], answers: TwoAnswers) -> int:
    """Return 0 or 1: which answer is better.

    Raises:
        RowError: neither is, or the verdict is none that is known.
    """
    verdict = f"{' and '.join(names)}: {mark_text(', '.join(map(str, values)))}"
    numbers = [_number(value) for value in values]
    if len(values) == 2 and None not in numbers:
        first, second = numbers
        numbers = [(second > first) - (second < first)]  # type: ignore[operator]
    if names[0] in STRENGTHS or len(values) == 2:
        sign = numbers[0]
    elif names[0] == "labels":  # SHP: 1 where A is better
        sign = None if numbers[0] not in (0, 1) else 1 - 2 * int(numbers[0] or 0)
    else:
        sign = _named_sign(values[0], answers)
    if sign is None:
        raise RowError("invalid_label", f"{verdict}: none of {', '.join(answers.names)} and tie")
    if sign == 0:
        raise RowError("no_preference", f"{verdict}: neither answer is better")
    return 0 if sign < 0 else 1


def _named_sign(verdict: object, answers: TwoAnswers) -> int | None:
    """Read a verdict that names an answer: -1 for the first, 1 for the second, 0 for a tie, None for another word."""
    word = str(verdict).strip().lower()
    if word.startswith(TIES):
        return 0
    tail = word.rsplit("_", 1)[-1].rsplit(" ", 1)[-1]
    for sign, column, name in ((-1, answers.first, answers.names[0]), (1, answers.second, answers.names[1])):
        if word == column.lower() or tail == name:
            return sign
    return None


def _number(value: object) -> int | float | None:
    """Return a score that can be compared; whole numbers as they are, since a double holds no more than 309 digits."""
    if isinstance(value, int):
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def judged_prompt(columns: Columns) -> list[Message]:
    """Return what the answers answer.

    Raises:
        RowError: there is nothing.
    """
    name = columns.one_of(PROMPTS[:1], PROMPTS[1:])
    value = columns.take(name)
    if isinstance(value, dict) and isinstance(value.get("full_text"), str):  # WebGPT's questions
        value = value["full_text"]
    if not isinstance(value, str) or not (turns := transcript_turns(value)):
        return turns_of(value, "user", name, columns.notes)
    return turns[:-1] if not turns[-1]["content"] else turns


class Judged(NamedTuple):
    """An answer and how good it is."""

    score: float
    answer: object


def has_ranked(row: dict[str, object]) -> bool:
    """Whether a row holds several answers with ranks or scores."""
    return _ranked(Columns(row, {})) != []


def ranked_answers(columns: Columns) -> list[Judged]:
    """Return the answers of a row, the best first.

    Raises:
        RowError: there are no two answers with ranks or scores.
    """
    answers = sorted(_ranked(columns), key=lambda judged: -judged.score)
    if len(answers) < 2:
        raise RowError("unknown_format", f"no two answers with ranks or scores in a row with {columns.described()}")
    return answers


def _ranked(columns: Columns) -> list[Judged]:
    for name in ANSWER_LISTS:
        value = columns.values.get(name)
        value = parse_json(value, set()) if isinstance(value, str) and value[:1] == "[" else value
        if isinstance(value, list) and len(value) > 1:
            answers = _scored_objects(value) or _scored_beside(columns, value)
            if answers:
                columns.take(name)
                return answers
    return []


def _scored_objects(items: list[object]) -> list[Judged]:
    """Read answers that carry their own score; none where one of them has none."""
    answers = []
    for item in items:
        if not isinstance(item, dict):
            return []
        score = _score_of(item)
        text = next((item[key] for key in TEXT_KEYS if isinstance(item.get(key), str)), None)
        if score is None or text is None:
            return []
        answers.append(Judged(score, text))
    return answers


def _score_of(item: dict[str, object]) -> float | None:
    scores = [number for key in SCORE_KEYS if (number := _number(item.get(key))) is not None]
    ranks = [-number for key in RANK_KEYS if (number := _number(item.get(key))) is not None]
    return next(iter(ranks + scores), None)


def _scored_beside(columns: Columns, answers: list[object]) -> list[Judged]:
    """Read answers whose scores or ranks stand in a list of their own."""
    if not all(isinstance(answer, str) for answer in answers):
        return []
    for sign, names in ((1, SCORE_LISTS), (-1, RANK_LISTS)):
        for name in names:
            values = columns.values.get(name)
            numbers = [_number(value) for value in values] if isinstance(values, list) else []
            if len(numbers) == len(answers) and None not in numbers:
                columns.take(name)
                return [Judged(sign * (number or 0), answer) for number, answer in zip(numbers, answers, strict=True)]
    return []


def parse_ranked(columns: Columns) -> tuple[list[Message], object, object]:
    """Return the prompt, the best and the worst answer.

    Raises:
        RowError: all answers are equally good.
    """
    answers = ranked_answers(columns)
    columns.notes.add("best_and_worst")
    if answers[0].score == answers[-1].score:
        raise RowError("no_preference", f"all {len(answers)} answers have the same rank or score")
    return judged_prompt(columns), answers[0].answer, answers[-1].answer


def ranked_pairs(columns: Columns) -> Iterator[tuple[object, object]]:
    """Yield every better answer with every worse one."""
    for better, worse in combinations(ranked_answers(columns), 2):
        if better.score > worse.score:
            yield better.answer, worse.answer
