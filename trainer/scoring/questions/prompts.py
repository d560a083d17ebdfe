"""From an arm and a question to the conversation that the model is given.

system prompt   the arm's own, else the row's
shots           fixed examples, then the most similar ones, the most similar last
question        passages of documents, then what was asked
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from trainer.data.duplicates.shingles import normalise_words
from trainer.data.rows.passages import with_passages
from trainer.errors import DataError
from trainer.recipe.arms import Arm, Documents, Prompt, Shots
from trainer.scoring.question import Message, PromptRequest, Question
from trainer.scoring.questions.from_rows import conversation, last_user_text
from trainer.scoring.questions.retrieval import NearCopyFilter, Retriever, retriever_of

SPARE_CANDIDATES = 8
"""Further neighbours looked at, in place of those that give the question away."""
MIN_LEAK_CHARS = 12
"""A shorter question may stand in a prompt by chance."""
DOCUMENT_TYPES = (".txt", ".md", ".jsonl")
PARAGRAPH = re.compile(r"\n\s*\n")


def build(
    arm: Arm,
    questions: Sequence[Question],
    *,
    train_rows: Callable[[], Sequence[dict[str, Any]]],
    read_rows: Callable[[Path], Sequence[dict[str, Any]]],
    seed: int,
    fits: Callable[[PromptRequest], bool],
) -> list[PromptRequest]:
    """Return what the arm sends for each question.

    Args:
        arm: Its prompt, shots and documents.
        questions: Held-out questions.
        train_rows: Gives the rows that dynamic and seeded shots come from.
        read_rows: Reads `shots.path`.
        seed: Of the choice of fixed shots.
        fits: Tells whether a prompt leaves room for the answer; dynamic shots are left out, the least similar first,
            until it does.

    Raises:
        DataError: The prompt or a fixed example gives away a question, a file cannot be used, or the prompt is too
            long for the model.
    """
    system = _system_prompt(arm.prompt, questions)
    fixed = _fixed_shots(arm.shots, questions, train_rows, read_rows, seed)
    dynamic = _dynamic_shots(arm.shots, questions, train_rows)
    passages = _passages(arm.documents, questions)
    found = []
    for place, question in enumerate(questions):
        shots = dynamic[place]
        asked = _asked(question, system, [*fixed, *shots], passages[place])
        while shots and not fits(asked):
            shots = shots[1:]
            asked = _asked(question, system, [*fixed, *shots], passages[place])
        if not arm.is_plain and not fits(asked):
            raise DataError(
                f"the prompt of the arm {arm.name} for {question.id} leaves no room for an answer",
                hint="fewer fixed shots, fewer or shorter passages, or a shorter prompt",
            )
        found.append(asked)
    return found


def _asked(
    question: Question, system: str | None, shots: Sequence[list[Message]], passages: Sequence[str]
) -> PromptRequest:
    own = [message for message in question.messages if message["role"] == "system"]
    rest: list[Any] = [message for message in question.messages if message["role"] != "system"]
    head = own if system is None else [{"role": "system", "content": system}]
    if passages:
        rest = with_passages(rest, passages)
    return PromptRequest(
        [*head, *(message for shot in shots for message in shot), *rest],
        question.row.get("tools") or [],
        question.row.get("chat_template_kwargs") or {},
    )


# The prompt


def _system_prompt(prompt: Prompt | None, questions: Sequence[Question]) -> str | None:
    if prompt is None:
        return None
    text = prompt.text if prompt.path is None else Path(prompt.path).read_text(encoding="utf-8").strip()
    assert text is not None
    said = f" {normalise_words(text)} "
    for question in questions:
        asked = normalise_words(last_user_text(question.messages))
        if len(asked) >= MIN_LEAK_CHARS and f" {asked} " in said:
            raise _leak(f"the prompt {prompt.path or ''}".strip(), question)
    return text


def _leak(where: str, question: Question) -> DataError:
    return DataError(
        f"{where} holds the held-out question {question.id} ({last_user_text(question.messages)!r:.80}): "
        "the arm would be shown what it is tested on",
        hint="take another example, from data/train.jsonl of the run",
    )


def without_reasoning(text: str, tag: str | None) -> str:
    """Cut what an answer says inside `<tag>`; reasoning that was never closed is all there is."""
    if tag is None:
        return text
    closed = re.sub(rf"<{tag}>.*?</{tag}>", "", text, flags=re.DOTALL)
    return re.sub(rf"<{tag}>.*\Z", "", closed, flags=re.DOTALL).strip()


# Examples


def _shot(row: dict[str, Any]) -> list[Message] | None:
    """Return a row as an example without its system turn; None for rows that are no conversation."""
    messages = conversation(row)
    if messages is None:
        return None
    return [
        {key: value for key, value in message.items() if key != "weight"}
        for message in messages
        if message["role"] != "system"
    ]


def _shots_of(rows: Sequence[dict[str, Any]]) -> list[list[Message]]:
    return [shot for shot in map(_shot, rows) if shot and shot[-1]["role"] == "assistant"]


def _fixed_shots(
    shots: Shots | None,
    questions: Sequence[Question],
    train_rows: Callable[[], Sequence[dict[str, Any]]],
    read_rows: Callable[[Path], Sequence[dict[str, Any]]],
    seed: int,
) -> list[list[Message]]:
    if shots is None or not shots.fixed:
        return []
    if shots.path is not None:
        pool = _shots_of(read_rows(Path(shots.path)))
        chosen = pool[: shots.fixed]
        _refuse_leaks(chosen, questions, shots.path)
    else:
        pool = _shots_of(train_rows())
        chosen = random.Random(seed).sample(pool, min(shots.fixed, len(pool)))
        chosen = [shot for shot, leaked in zip(chosen, _leaks(chosen, questions), strict=True) if leaked is None]
    if not chosen:
        raise DataError("there is no row to take examples from", hint="correct shots.path, or leave `shots` out")
    return chosen


def _refuse_leaks(shots: Sequence[list[Message]], questions: Sequence[Question], where: str) -> None:
    for number, question in enumerate(_leaks(shots, questions), start=1):
        if question is not None:
            said = last_user_text(shots[number - 1])
            raise _leak(f"example {number} of {where} ({said!r:.80})", question)


def _leaks(shots: Sequence[list[Message]], questions: Sequence[Question]) -> list[Question | None]:
    """Return for each example the question that it nearly repeats."""
    asked = [last_user_text(question.messages) for question in questions]
    copies = NearCopyFilter(asked)
    return [next(_repeated(shot, asked, questions, copies), None) for shot in shots]


def _repeated(
    shot: Sequence[Message], asked: Sequence[str], questions: Sequence[Question], copies: NearCopyFilter
) -> Iterator[Question]:
    for text in _user_texts(shot):
        which = copies.of(text, asked)
        if which.any():
            yield questions[int(which.argmax())]


def _user_texts(shot: Sequence[Message]) -> list[str]:
    """Return all that is asked in an example: an earlier turn gives a question away as well as the last."""
    said = (message.get("content") for message in shot if message["role"] == "user")
    return [text for text in said if isinstance(text, str)]


def _dynamic_shots(
    shots: Shots | None, questions: Sequence[Question], train_rows: Callable[[], Sequence[dict[str, Any]]]
) -> list[list[list[Message]]]:
    """Return for each question its nearest examples, the nearest last; never the question itself or a near copy."""
    if shots is None or not shots.dynamic:
        return [[] for _ in questions]
    pool = _shots_of(train_rows())
    if not pool:
        raise DataError("there are no training rows to take examples from", hint="leave `shots.dynamic` out")
    texts, said = [last_user_text(shot) for shot in pool], [_user_texts(shot) for shot in pool]
    asked = [last_user_text(question.messages) for question in questions]
    places = retriever_of(shots.retriever, texts).nearest(asked, shots.dynamic + SPARE_CANDIDATES)
    copies = NearCopyFilter(asked)
    found = []
    for query, near in zip(asked, places, strict=True):
        turns = [(place, text) for place in near for text in said[place]]
        is_copy = copies.of(query, [text for _, text in turns])
        leaking = {place for (place, _), leaks in zip(turns, is_copy, strict=True) if leaks}
        kept = [place for place in near if place not in leaking][: shots.dynamic]
        found.append([pool[place] for place in reversed(kept)])
    return found


# Documents


def _passages(documents: Documents | None, questions: Sequence[Question]) -> list[list[str]]:
    if documents is None:
        return [[] for _ in questions]
    texts = read_passages(Path(documents.path), documents.passage_words)
    retriever: Retriever = retriever_of(documents.retriever, texts)
    near = retriever.nearest([last_user_text(question.messages) for question in questions], documents.num_passages)
    return [[texts[place] for place in places] for places in near]


def read_passages(path: Path, max_words: int) -> list[str]:
    """Cut documents into passages at paragraphs, none longer than `max_words`.

    Raises:
        DataError: There is no document, or one cannot be read.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in DOCUMENT_TYPES)
    passages = [passage for file in files for text in _documents(file) for passage in _cut(text, max_words)]
    if not passages:
        raise DataError(
            f"no documents in {path}", hint=f"give a file or a folder of {', '.join(DOCUMENT_TYPES)} in documents.path"
        )
    return passages


def _documents(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".jsonl":
            return [text]
        return [str(orjson.loads(line)["text"]) for line in text.split("\n") if line.strip()]
    except (UnicodeDecodeError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as documents: {error}", hint="UTF-8 text, or JSONL rows with the key `text`"
        ) from error


def _cut(text: str, max_words: int) -> list[str]:
    """Join paragraphs up to the limit; a longer one is cut between words."""
    passages: list[str] = []
    held: list[str] = []
    for paragraph in PARAGRAPH.split(text):
        words = paragraph.split()
        if held and len(held) + len(words) > max_words:
            passages.append(" ".join(held))
            held = []
        held += words
        while len(held) > max_words:
            passages.append(" ".join(held[:max_words]))
            held = held[max_words:]
    return passages + ([" ".join(held)] if held else [])
