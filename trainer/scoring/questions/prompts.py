"""Build the conversation that an arm sends for a question.

system prompt   the arm's own, else the row's
shots           fixed examples, then the most similar ones, the most similar last
question        passages of documents, then what was asked
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson

from trainer.data.duplicates.shingles import normalise_words
from trainer.data.records.kinds import Message, Record
from trainer.data.rows.passages import with_passages
from trainer.errors import DataError
from trainer.recipe.arms import Arm, Documents, Prompt, Shots
from trainer.scoring.question import PromptRequest, Question, prompt_of
from trainer.scoring.questions.from_rows import conversation, last_user_text, without_weight
from trainer.scoring.questions.retrieval import NearCopyFilter, Retriever, retriever_of

SPARE_CANDIDATES = 8
"""Further neighbours, to replace those that give the question away."""
MIN_LEAK_CHARS = 12
"""A shorter question may stand in a prompt by chance."""
DOCUMENT_TYPES = (".txt", ".md", ".jsonl")
PARAGRAPH = re.compile(r"\n\s*\n")


def build(
    arm: Arm,
    questions: Sequence[Question],
    *,
    train_rows: Callable[[], Sequence[Record]],
    read_rows: Callable[[Path], Sequence[Record]],
    seed: int,
    fits: Callable[[PromptRequest], bool],
) -> list[PromptRequest]:
    """Return the prompt of the arm for each question.

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
    prompts = []
    for question, shots, texts in zip(questions, dynamic, passages, strict=True):
        prompt = _prompt(question, system, [*fixed, *shots], texts)
        while shots and not fits(prompt):
            shots = shots[1:]
            prompt = _prompt(question, system, [*fixed, *shots], texts)
        if not arm.is_plain and not fits(prompt):
            raise DataError(
                f"the prompt of the arm {arm.name} for {question.id} leaves no room for an answer",
                hint="fewer fixed shots, fewer or shorter passages, or a shorter prompt",
            )
        prompts.append(prompt)
    return prompts


def _prompt(
    question: Question, system: str | None, shots: Sequence[list[Message]], passages: Sequence[str]
) -> PromptRequest:
    head = [message for message in question.messages if message["role"] == "system"]
    turns = [message for message in question.messages if message["role"] != "system"]
    if system is not None:
        head = [{"role": "system", "content": system}]
    if passages:
        turns = with_passages(turns, passages)
    return prompt_of(question, [*head, *(message for shot in shots for message in shot), *turns])


# The prompt


def _system_prompt(prompt: Prompt | None, questions: Sequence[Question]) -> str | None:
    if prompt is None:
        return None
    text = prompt.text if prompt.path is None else Path(prompt.path).read_text(encoding="utf-8").strip()
    assert text is not None
    words = f" {normalise_words(text)} "
    for question in questions:
        query = normalise_words(last_user_text(question.messages))
        if len(query) >= MIN_LEAK_CHARS and f" {query} " in words:
            raise _leak(f"the prompt {prompt.path or ''}".strip(), question)
    return text


def _leak(where: str, question: Question) -> DataError:
    return DataError(
        f"{where} holds the held-out question {question.id} ({last_user_text(question.messages)!r:.80}): "
        "the arm would be shown what it is tested on",
        hint="take another example, from data/train.jsonl of the run",
    )


def without_reasoning(text: str, tag: str | None) -> str:
    """Cut the reasoning inside `<tag>` out of an answer; reasoning without an end takes all that follows.

    Example:
        >>> without_reasoning("<think>2 + 2</think> 4", "think"), without_reasoning("<think>2 +", "think")
        ('4', '')
    """
    if tag is None:
        return text
    closed = re.sub(rf"<{tag}>.*?</{tag}>", "", text, flags=re.DOTALL)
    return re.sub(rf"<{tag}>.*\Z", "", closed, flags=re.DOTALL).strip()


# Examples


def _shot(row: Record) -> list[Message] | None:
    """Return a row as an example without its system turn; None for rows that are no conversation."""
    messages = conversation(row)
    if messages is None:
        return None
    return [without_weight(message) for message in messages if message["role"] != "system"]


def _shots_of(rows: Sequence[Record]) -> list[list[Message]]:
    return [shot for shot in map(_shot, rows) if shot and shot[-1]["role"] == "assistant"]


def _fixed_shots(
    shots: Shots | None,
    questions: Sequence[Question],
    train_rows: Callable[[], Sequence[Record]],
    read_rows: Callable[[Path], Sequence[Record]],
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
            text = last_user_text(shots[number - 1])
            raise _leak(f"example {number} of {where} ({text!r:.80})", question)


def _leaks(shots: Sequence[list[Message]], questions: Sequence[Question]) -> list[Question | None]:
    """Return for each example the question that it nearly repeats."""
    queries = [last_user_text(question.messages) for question in questions]
    copies = NearCopyFilter(queries)

    def repeated(shot: Sequence[Message]) -> Iterator[Question]:
        for text in _user_texts(shot):
            is_copy = copies.near_copies(text, queries)
            if is_copy.any():
                yield questions[int(is_copy.argmax())]

    return [next(repeated(shot), None) for shot in shots]


def _user_texts(shot: Sequence[Message]) -> list[str]:
    """Return the user turns of an example: an earlier one gives a question away as well as the last."""
    texts = (message.get("content") for message in shot if message["role"] == "user")
    return [text for text in texts if isinstance(text, str)]


def _dynamic_shots(
    shots: Shots | None, questions: Sequence[Question], train_rows: Callable[[], Sequence[Record]]
) -> list[list[list[Message]]]:
    """Return for each question its nearest examples, the nearest last; never the question itself or a near copy."""
    if shots is None or not shots.dynamic:
        return [[] for _ in questions]
    pool = _shots_of(train_rows())
    if not pool:
        raise DataError("there are no training rows to take examples from", hint="leave `shots.dynamic` out")
    queries = [last_user_text(question.messages) for question in questions]
    retriever = retriever_of(shots.retriever, [last_user_text(shot) for shot in pool])
    user_texts = [_user_texts(shot) for shot in pool]
    copies = NearCopyFilter(queries)
    nearest_shots = []
    for query, near in zip(queries, retriever.nearest(queries, shots.dynamic + SPARE_CANDIDATES), strict=True):
        turns = [(index, text) for index in near for text in user_texts[index]]
        is_copy = copies.near_copies(query, [text for _, text in turns])
        leaking = {index for (index, _), leaks in zip(turns, is_copy, strict=True) if leaks}
        safe = [index for index in near if index not in leaking][: shots.dynamic]
        nearest_shots.append([pool[index] for index in reversed(safe)])
    return nearest_shots


# Documents


def _passages(documents: Documents | None, questions: Sequence[Question]) -> list[list[str]]:
    if documents is None:
        return [[] for _ in questions]
    texts = read_passages(Path(documents.path), documents.passage_words)
    retriever: Retriever = retriever_of(documents.retriever, texts)
    near = retriever.nearest([last_user_text(question.messages) for question in questions], documents.num_passages)
    return [[texts[index] for index in indices] for indices in near]


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
    """Join paragraphs up to the limit; cut a longer one between words.

    Example:
        >>> _cut("a b" + chr(10) * 2 + "c" + chr(10) * 2 + "d e f g h", 4)
        ['a b c', 'd e f g', 'h']
    """
    passages: list[str] = []
    current: list[str] = []
    for paragraph in PARAGRAPH.split(text):
        words = paragraph.split()
        if current and len(current) + len(words) > max_words:
            passages.append(" ".join(current))
            current = []
        current += words
        while len(current) > max_words:
            passages.append(" ".join(current[:max_words]))
            current = current[max_words:]
    return passages + ([" ".join(current)] if current else [])
