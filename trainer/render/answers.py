"""Selects the answers that the report shows: the wrong ones first, all of them up to a stated size.

Lines are read one by one and counted all; only what is shown is kept, so that a million of them need no more memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.render.fields import FieldTable, field_table, structured
from trainer.render.format import finite

MAX_WRONG = 5_000
"""Wrong answers of the main arm on the page."""
MAX_RIGHT = 1_000
"""Other rows on the page: as many as `eval.max_rows` asks for by default."""
MAX_CHARS = 8_000_000
"""Of all texts together: a page of about this many bytes still opens on a phone."""
MAX_TEXT = 4_000
"""Of one prompt or answer."""
KINDS = ("failed", "lost", "won", "differ")
_ORDER = ("lost", "failed", "won", "differ", "same")
"""Groups in the order of the page; a row stands in the first that fits."""
Line = Mapping[str, Any]


@dataclass(frozen=True)
class ShownAnswer:
    """What one arm answered; `correct` is None where no grader marked it."""

    arm: str
    text: str
    correct: bool | None
    reason: str
    """Why it is wrong, in the grader's words."""


@dataclass(frozen=True)
class AnswerRow:
    """One held-out row."""

    id: str
    kinds: list[str]
    """Those of `KINDS` that hold; of the main arm against the other one."""
    title: str
    """The beginning of the last question."""
    prompt: str
    reference: str | None
    answers: list[ShownAnswer]
    fields: FieldTable | None

    @property
    def size(self) -> int:
        """Return its characters."""
        return len(self.prompt) + len(self.reference or "") + sum(len(answer.text) for answer in self.answers)


@dataclass
class AnswerRows:
    """The rows on the page, and how many of each kind there are in all."""

    main: str = "tuned"
    """The arm that is judged."""
    other: str | None = "base"
    """The arm that it is compared with."""
    rows: list[AnswerRow] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """By kind, and under `all`."""

    @property
    def left_out(self) -> dict[str, int]:
        """Return how many wrong and how many other rows the page lacks."""
        failed = sum("failed" in row.kinds for row in self.rows)
        wrong = self.counts["failed"] - failed
        return {"wrong": wrong, "other": self.counts["all"] - len(self.rows) - wrong}


def select_answers(lines: Iterable[Line], primary: str | None = None) -> AnswerRows:
    """Return what the page shows of eval/predictions.jsonl.

    Args:
        lines: {"id", "messages", "reference", "answers": {ARM: {"text", "grades", "reasons"}}}.
        primary: Metric that says what is right; the first one of a row where it has no such mark.
    """
    selected = AnswerRows()
    groups: dict[str, list[AnswerRow]] = {name: [] for name in _ORDER}
    for line in lines:
        arms = line.get("answers") or {}
        main, other = _arms(arms)
        if main is None:
            continue
        selected.main, selected.other = main, other
        kinds = _kinds(arms, main, other, primary)
        selected.counts.update(["all", *kinds])
        group = next((name for name in _ORDER if name in kinds), "same")
        limit = MAX_WRONG if "failed" in kinds else MAX_RIGHT
        if len(groups[group]) < limit:
            groups[group].append(_row(line, kinds, primary, main))
    selected.rows = list(_within_limits(groups))
    return selected


def _within_limits(groups: Mapping[str, list[AnswerRow]]) -> Iterator[AnswerRow]:
    left = {True: MAX_WRONG, False: MAX_RIGHT}
    size = 0
    for row in (row for name in _ORDER for row in groups[name]):
        is_wrong = "failed" in row.kinds
        size += row.size
        if left[is_wrong] and size <= MAX_CHARS:
            left[is_wrong] -= 1
            yield row


def _arms(arms: Mapping[str, Any]) -> tuple[str | None, str | None]:
    main = "tuned" if "tuned" in arms else next(iter(arms), None)
    return main, "base" if "base" in arms and main != "base" else None


def _kinds(arms: Mapping[str, Any], main: str, other: str | None, primary: str | None) -> list[str]:
    is_right = _is_right(arms[main], primary)
    kinds = ["failed"] if is_right is False else []
    if other is not None:
        was_right = _is_right(arms[other], primary)
        if is_right is not None and was_right is not None and is_right != was_right:
            kinds.append("won" if is_right else "lost")
        if str(arms[main].get("text")).strip() != str(arms[other].get("text")).strip():
            kinds.append("differ")
    return kinds


def _is_right(answer: Mapping[str, Any], primary: str | None) -> bool | None:
    """Tell whether an answer got the full mark; None where no grader marked it."""
    grades = answer.get("grades") or {}
    mark = finite(grades.get(primary, next(iter(grades.values()), None)))
    return None if mark is None else mark >= 1.0


def _row(line: Line, kinds: list[str], primary: str | None, main: str) -> AnswerRow:
    arms = dict(sorted(line["answers"].items(), key=lambda item: (item[0] != main, item[0] != "base")))
    reference = line.get("reference")
    return AnswerRow(
        id=str(line.get("id", "")),
        kinds=kinds,
        title=_shortened(" ".join(_last_question(line.get("messages")).split()), 160, counted=False),
        prompt=_shortened(_conversation(line.get("messages"))),
        reference=None if reference is None else _shortened(str(reference)),
        answers=[_answer(arm, answer, primary) for arm, answer in arms.items()],
        fields=_fields(line, arms),
    )


def _answer(arm: str, answer: Mapping[str, Any], primary: str | None) -> ShownAnswer:
    reasons = answer.get("reasons") or {}
    reason = str(reasons.get(primary, next(iter(reasons.values()), "")))
    return ShownAnswer(
        arm, _shortened(str(answer.get("text", ""))), _is_right(answer, primary), _shortened(reason, 300)
    )


def _fields(line: Line, arms: Mapping[str, Any]) -> FieldTable | None:
    """Compare the calls where calls are expected, else the JSON of the texts."""
    if line.get("reference_calls"):
        return field_table(
            _by_place(line["reference_calls"]), {arm: _by_place(answer.get("calls")) for arm, answer in arms.items()}
        )
    expected = structured(str(line.get("reference") or ""))
    if expected is None:
        return None
    return field_table(expected, {arm: structured(str(answer.get("text", ""))) for arm, answer in arms.items()})


def _by_place(calls: Any) -> dict[str, Any] | None:
    """Return calls as an object, so that a field is called `call 1.arguments.city`."""
    return None if calls is None else {f"call {place}": call for place, call in enumerate(calls, start=1)}


def _last_question(messages: object) -> str:
    if isinstance(messages, list) and messages:
        return _content(messages[-1])
    return str(messages or "")


def _conversation(messages: object) -> str:
    """Return a prompt as text: a list of messages becomes `role: content`, one a paragraph."""
    if not isinstance(messages, list):
        return str(messages or "")
    return "\n\n".join(f"{message.get('role')}: {_content(message)}" for message in messages)


def _content(message: Mapping[str, Any]) -> str:
    content, calls = message.get("content"), message.get("tool_calls")
    return "\n".join(str(part) for part in (content, calls) if part)


def _shortened(text: str, limit: int = MAX_TEXT, *, counted: bool = True) -> str:
    if len(text) <= limit:
        return text
    more = f" [{len(text) - limit:,} more characters, see eval/predictions.jsonl]" if counted else ""
    return f"{text[:limit]}…{more}"
