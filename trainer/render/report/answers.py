"""Select the answers that the report shows: the wrong ones first, all of them up to a stated size.

Lines are read one by one and counted all; only what is shown is kept, so that a million of them need no more memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from trainer.render.report.fields import FieldTable, field_table, structured
from trainer.shapes.predictions import AnswerCall, ArmAnswer, Prediction

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
Arms = Mapping[str, ArmAnswer]
Value = TypeVar("Value")


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
    rival: str | None = "base"
    """The arm that it is compared with."""
    rows: list[AnswerRow] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """By kind, and under `all`."""

    @property
    def left_out(self) -> dict[str, int]:
        """Return how many wrong and how many other rows the page lacks."""
        wrong = self.counts["failed"] - sum("failed" in row.kinds for row in self.rows)
        return {"wrong": wrong, "other": self.counts["all"] - len(self.rows) - wrong}


def select_answers(predictions: Iterable[Prediction], primary: str | None = None) -> AnswerRows:
    """Return what the page shows of eval/predictions.jsonl.

    Args:
        predictions: Lines of the file.
        primary: Metric that decides; the first one of a row where it has no such mark.
    """
    selected = AnswerRows()
    groups: dict[str, list[AnswerRow]] = {name: [] for name in _ORDER}
    for prediction in predictions:
        arms = prediction["answers"]
        if not arms:
            continue
        selected.main = main = "tuned" if "tuned" in arms else next(iter(arms))
        selected.rival = "base" if "base" in arms and main != "base" else None
        kinds = _kinds(arms[main], arms.get(selected.rival or ""), primary)
        selected.counts.update(["all", *kinds])
        group = next((name for name in _ORDER if name in kinds), "same")
        limit = MAX_WRONG if "failed" in kinds else MAX_RIGHT
        if len(groups[group]) < limit:
            groups[group].append(_row(prediction, kinds, primary, main))
    selected.rows = list(_within_limits(groups))
    return selected


def _within_limits(groups: Mapping[str, list[AnswerRow]]) -> Iterator[AnswerRow]:
    num_left = {"wrong": MAX_WRONG, "other": MAX_RIGHT}
    size = 0
    for row in (row for name in _ORDER for row in groups[name]):
        kind = "wrong" if "failed" in row.kinds else "other"
        size += row.size
        if num_left[kind] and size <= MAX_CHARS:
            num_left[kind] -= 1
            yield row


def _kinds(answer: ArmAnswer, rival: ArmAnswer | None, primary: str | None) -> list[str]:
    is_right = _is_right(answer, primary)
    kinds = ["failed"] if is_right is False else []
    if rival is not None:
        was_right = _is_right(rival, primary)
        if is_right is not None and was_right is not None and is_right != was_right:
            kinds.append("won" if is_right else "lost")
        if answer["text"].strip() != rival["text"].strip():
            kinds.append("differ")
    return kinds


def _is_right(answer: ArmAnswer, primary: str | None) -> bool | None:
    """Tell whether an answer got the full mark; None where no grader marked it."""
    mark = _deciding(answer["grades"], primary)
    return None if mark is None else mark >= 1.0


def _deciding(values: Mapping[str, Value], primary: str | None) -> Value | None:
    """Return the value of the metric that decides, else the first one."""
    return values.get(primary or "", next(iter(values.values()), None))


def _row(prediction: Prediction, kinds: list[str], primary: str | None, main: str) -> AnswerRow:
    arms = dict(sorted(prediction["answers"].items(), key=lambda item: (item[0] != main, item[0] != "base")))
    reference, messages = prediction["reference"], prediction["messages"]
    question = _content(messages[-1]) if messages else ""
    return AnswerRow(
        id=prediction["id"],
        kinds=kinds,
        title=_shortened(" ".join(question.split()), 160, counted=False),
        prompt=_shortened("\n\n".join(f"{message['role']}: {_content(message)}" for message in messages)),
        reference=None if reference is None else _shortened(reference),
        answers=[_answer(arm, answer, primary) for arm, answer in arms.items()],
        fields=_fields(prediction, arms),
    )


def _answer(arm: str, answer: ArmAnswer, primary: str | None) -> ShownAnswer:
    reason = _deciding(answer["reasons"], primary) or ""
    return ShownAnswer(arm, _shortened(answer["text"]), _is_right(answer, primary), _shortened(reason, 300))


def _fields(prediction: Prediction, arms: Arms) -> FieldTable | None:
    """Compare the calls where calls are expected, else the JSON of the texts."""
    calls = prediction.get("reference_calls")
    if calls:
        return field_table(_numbered(calls), {arm: _numbered(answer.get("calls")) for arm, answer in arms.items()})
    expected = structured(prediction["reference"] or "")
    return field_table(expected, {arm: structured(answer["text"]) for arm, answer in arms.items()})


def _numbered(calls: Sequence[AnswerCall] | None) -> dict[str, AnswerCall] | None:
    """Return calls as an object, so that a field is called `call 1.arguments.city`."""
    return None if calls is None else {f"call {number}": call for number, call in enumerate(calls, start=1)}


def _content(message: Mapping[str, object]) -> str:
    return "\n".join(str(part) for part in (message.get("content"), message.get("tool_calls")) if part)


def _shortened(text: str, limit: int = MAX_TEXT, *, counted: bool = True) -> str:
    if len(text) <= limit:
        return text
    more = f" [{len(text) - limit:,} more characters, see eval/predictions.jsonl]" if counted else ""
    return f"{text[:limit]}…{more}"
