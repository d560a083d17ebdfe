"""Apply repairs to every string of a row, count them and keep samples."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from trainer.data.records.kinds import Message, ToolCall

Step = tuple[str, Callable[[str], str]]
"""Id of a change, and the repair that makes it."""

SPOKEN: tuple[Literal["content", "reasoning_content", "thinking"], ...] = ("content", "reasoning_content", "thinking")
"""Keys of a turn that hold text."""
CONTEXT_CHARS = 24
"""Kept around a change in a sample."""


class Sample(NamedTuple):
    """A short piece of a text before and after one change. It may hold what the row holds, personal data too."""

    change: str
    before: str
    after: str


class Repairs:
    """What was done to one row; every method returns the same object where nothing was to do."""

    def __init__(self, data: list[Step]) -> None:
        self.data = data
        """Steps for what programs wrote: tool results and arguments of calls."""
        self.changes: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.num_rounds = 0
        self.counted: dict[tuple[str, str], int] = {}
        """Change, string as the row held it -> round in which it was counted: a later one undoes another layer."""
        self.origins: dict[str, str] = {}
        """Repaired string -> string as the row held it."""
        self.settled: dict[str, int] = {}
        """String -> number of steps that found nothing in it: a second round need not look again."""

    def text(self, text: str, steps: list[Step]) -> str:
        """Take a string through the steps."""
        if self.settled.get(text) == len(steps):
            return text
        original = text
        for change, repair in steps:
            repaired = repair(text)
            if repaired != text:
                if change not in self.changes:
                    self.samples.append(sample(change, text, repaired))
                self._count(change, self.origins.get(original, original))
                text = repaired
        if text != original:
            self.origins[text] = self.origins.get(original, original)
            return text
        self.settled[original] = len(steps)
        return original

    def _count(self, change: str, origin: str) -> None:
        if self.counted.setdefault((change, origin), self.num_rounds) == self.num_rounds:
            self.changes[change] += 1

    def turns(self, turns: list[Message], steps: list[Step]) -> list[Message]:
        """Repair each turn; what a tool returned is data, whose spaces and entities may be meant."""
        repaired = [self._turn(turn, self.data if turn["role"] == "tool" else steps) for turn in turns]
        return turns if _are_same(repaired, turns) else repaired

    def _turn(self, turn: Message, steps: list[Step]) -> Message:
        repaired = turn
        for name in SPOKEN:
            if isinstance(old := turn.get(name), str) and (new := self.text(old, steps)) is not old:
                repaired = {**repaired, name: new}  # type: ignore[misc]  # mypy does not expand the names
        if calls := turn.get("tool_calls"):
            repaired_calls = [self._call(call) for call in calls]
            if not _are_same(repaired_calls, calls):
                repaired = {**repaired, "tool_calls": repaired_calls}
        return repaired

    def _call(self, call: ToolCall) -> ToolCall:
        arguments = call["function"]["arguments"]
        repaired = self._object(arguments)
        return call if repaired is arguments else {**call, "function": {**call["function"], "arguments": repaired}}

    def _object(self, value: dict[str, object]) -> dict[str, object]:
        """Repair the values of a JSON object; its keys are names that a program knows, and stay."""
        repaired = {key: self._value(item) for key, item in value.items()}
        return value if _are_same(repaired.values(), value.values()) else repaired

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value, self.data)
        if isinstance(value, dict):
            return self._object(value)
        if isinstance(value, list):
            repaired = [self._value(item) for item in value]
            return value if _are_same(repaired, value) else repaired
        return value


def _are_same(left: Iterable[object], right: Iterable[object]) -> bool:
    """Tell whether two sequences hold the same objects."""
    return all(map(operator.is_, left, right))


def sample(change: str, before: str, after: str) -> Sample:
    """Cut both texts down to where they first and last differ."""
    start = length_shared(before, after)
    end = length_shared(before[start:][::-1], after[start:][::-1])
    return Sample(change, _window(before, start, len(before) - end), _window(after, start, len(after) - end))


def length_shared(left: Sequence[object], right: Sequence[object]) -> int:
    """Return the length of the longest common opening, by halving: slices compare far faster than their parts."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _window(text: str, start: int, end: int) -> str:
    end = min(end, start + 4 * CONTEXT_CHARS)
    return text[max(start - CONTEXT_CHARS, 0) : end + CONTEXT_CHARS]
