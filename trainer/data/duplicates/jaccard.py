"""Compute exact Jaccard similarities of the pairs that the index proposes; hash the shingles of each text once.

Most proposals are chance meetings of short texts, so the order counts: context first, then prompt and whole, and the
answer only of pairs that can still become a finding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.shingles import Shingle, is_unspaced, kind_for_pair, pair_similarities, shingle, united

SHORT_ANSWER_WORDS = 8
"""Answers below this length must be equal: "42" and "43" are near as text and contradict each other."""

DIGIT = re.compile(r"\d")
"""Most texts have none: this look costs a tenth of the next two."""
NUMBER = re.compile(r"\b\d+\b")
CODE = re.compile(r"\w*\d\w*")
"""Word with a digit in it."""
Pairs = NDArray[np.int64]


class ComparableText(NamedTuple):
    """The texts of a row that are compared, normalised by `normalise_words`."""

    prompt: str
    """User and assistant turns before the last answer."""
    answer: str
    """The last answer, its tool calls included; of a pair both answers."""
    context: str
    """System turn, results of tools, and tools: compared on their own."""


class Compared(NamedTuple):
    """Exact similarities of pairs of rows; 0 where a smaller one has ruled the pair out already."""

    prompt: NDArray[np.float64]
    conversation: NDArray[np.float64]
    answer: NDArray[np.float64]
    context: NDArray[np.float64]
    short_answer: NDArray[np.bool_]
    """One of the answers is too short for a similarity to mean anything."""
    other_values: NDArray[np.bool_]
    """Each answer takes up a word that only its own prompt holds: one question about two things."""
    other_numbers: NDArray[np.bool_]
    """The prompts hold different numbers, and both are answered."""
    other_codes: NDArray[np.bool_]
    """Each prompt holds a word with a digit that the other lacks: nothing more need be known of the pair."""

    @classmethod
    def of(cls, num_pairs: int) -> Compared:
        """Make room for so many pairs."""
        prompt, conversation, answer, context = (np.zeros(num_pairs) for _ in range(4))
        return cls(prompt, conversation, answer, context, *(np.zeros(num_pairs, np.bool_) for _ in range(4)))


def conversation_text(row: ComparableText) -> str:
    """Return prompt and answer."""
    return f"{row.prompt} {row.answer}".strip()


def num_words(text: str) -> int:
    """Count the words of a normalised text."""
    return text.count(" ") + bool(text)


def compare(texts: Sequence[ComparableText], pairs: Pairs, *, least: float) -> Compared:
    """Return the exact Jaccard similarities of pairs.

    Args:
        texts: texts.
        pairs: (pairs, 2) indices into `texts`.
        least: a pair whose context, or whose prompt and whole both, are less alike than this is of no interest.
    """
    result = Compared.of(len(pairs))
    context = Column([text.context for text in texts])
    prompt, answer = Column([text.prompt for text in texts]), Column([text.answer for text in texts])
    conversation = Column([conversation_text(text) for text in texts], parts=(prompt, answer))
    result.context[:] = context.similarities(pairs)
    related = np.flatnonzero(result.context >= least)  # indices of pairs, here and below
    result.prompt[related] = prompt.similarities(pairs[related])
    result.conversation[related] = conversation.similarities(pairs[related])
    # few: their texts are read below
    close = related[np.maximum(result.prompt[related], result.conversation[related]) >= least]
    result.answer[close] = answer.similarities(pairs[close])
    rows = [(texts[left], texts[right]) for left, right in pairs[close].tolist()]
    result.short_answer[close] = [_is_short(left.answer, right.answer) for left, right in rows]
    result.other_values[close] = [_take_up_others(left, right) for left, right in rows]
    result.other_numbers[close] = [_ask_of_others(left, right) for left, right in rows]
    result.other_codes[close] = [_hold_other_codes(left.prompt, right.prompt) for left, right in rows]
    return result


def _hold_other_codes(left: str, right: str) -> bool:
    if not DIGIT.search(left) or not DIGIT.search(right):
        return False
    lefts, rights = set(CODE.findall(left)), set(CODE.findall(right))
    return bool(lefts - rights) and bool(rights - lefts)


def _is_short(left: str, right: str) -> bool:
    return min(num_words(left), num_words(right)) < SHORT_ANSWER_WORDS and not is_unspaced(left)


def _take_up_others(left: ComparableText, right: ComparableText) -> bool:
    """Tell rows that differ in values of the prompt which the answers repeat.

    Where such values are not half of what only one answer says, the answers differ for another reason.
    """
    if left.answer == right.answer:
        return False
    sides = [_taken_up(left, right), _taken_up(right, left)]
    # on both sides, at least half of the answer's own words come from its own prompt
    return all(2 * len(values) >= len(words) > 0 for values, words in sides)


def _taken_up(row: ComparableText, partner: ComparableText) -> tuple[set[str], set[str]]:
    """Return the words that only this prompt and only this answer have, and those that only this answer has."""
    only_prompt = set(row.prompt.split()) - set(partner.prompt.split())
    only_answer = set(row.answer.split()) - set(partner.answer.split())
    return only_prompt & only_answer, only_answer


def _ask_of_others(left: ComparableText, right: ComparableText) -> bool:
    # A question of a benchmark comes without an answer; other numbers in it make a training row no less suspect.
    if not left.answer or not right.answer:
        return False
    if not DIGIT.search(left.prompt) and not DIGIT.search(right.prompt):
        return False
    return set(NUMBER.findall(left.prompt)) != set(NUMBER.findall(right.prompt))


class Column:
    """One text of each row, and the shingles of those that were needed."""

    def __init__(self, texts: Sequence[str], parts: Sequence[Column] = ()) -> None:
        """Take the texts, which have the shingles of `parts`, or else their own."""
        self.texts, self.parts = texts, parts or (self,)
        self._sizes = [num_words(text) for text in texts]
        self._unspaced = [is_unspaced(text) for text in texts]

    def similarities(self, pairs: Pairs) -> NDArray[np.float64]:
        """Return the Jaccard similarity of each pair; equal texts need no shingles."""
        result = np.ones(len(pairs))
        kinds = np.array([self._kind(left, right) for left, right in pairs.tolist()], np.int64)
        for kind in Shingle:
            chosen = np.flatnonzero(kinds == kind)
            if chosen.size:
                # each text of these pairs is shingled once; `indices` are the pairs in terms of them
                rows, indices = np.unique(pairs[chosen], return_inverse=True)
                sets = [shingle([part.texts[row] for row in rows.tolist()], kind) for part in self.parts]
                result[chosen] = pair_similarities(reduce(united, sets), indices.reshape(-1, 2))
        return result

    def _kind(self, left: int, right: int) -> int:
        """Return how two texts are compared; -1 for equal ones."""
        if self.texts[left] == self.texts[right]:
            return -1
        unspaced = self._unspaced[left] or self._unspaced[right]
        return kind_for_pair(min(self._sizes[left], self._sizes[right]), unspaced=unspaced)
