"""Decide what each pair of similar rows is: a copy, a conflict, two rows of one pattern, or merely related.

Similar is not the same. A copy goes, so it has to differ in nothing that decides. Two rules make one: nothing but stop
words, punctuation, case, space and typing errors differs in prompt and answer; or the answer is word by word the same
and says so much, or is so sure to follow from such prompts, that other words of the prompt cannot matter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.duplicates.jaccard import Compared, Pairs
from trainer.data.duplicates.minhash import Edges
from trainer.data.duplicates.patterns import find_patterns
from trainer.data.duplicates.weigh_difference import Weight

SHARED_ANSWER_ROWS = 10
"""An answer that so many rows give is a label, not a text to compare."""
SAME_ANSWER = 0.5
"""Longer answers below this similarity are different answers."""
MIN_LABELLED_PAIRS, LABELS_AGREE, LABEL_AGREES = 50, 0.9, 0.75
"""Labels follow from the topic of a prompt, not from its details, where so large a share of so many pairs of nearly
equal prompts have the same label, and of the pairs with that label; of yes/no puzzles half of them do."""
LABEL_WEIGHTS = [Weight.NONE, Weight.WORDS, Weight.KIN]

Flags = NDArray[np.bool_]


class Weights(NamedTuple):
    """What differs between the rows of pairs, (pairs,) each; pairs of no interest weigh as if all did."""

    prompt: NDArray[np.int64]
    answer: NDArray[np.int64]
    """Of answers that are too short for a stop word to have no weight, every word counts."""
    context: NDArray[np.int64]
    is_slot: Flags
    """Prompts that are the same word by word, but for words in place of others."""
    is_edit: Flags
    """So few words that the prompts are one, edited."""

    @classmethod
    def of(cls, num_pairs: int) -> Weights:
        """Make room for so many pairs."""
        prompt, answer, context = (np.full(num_pairs, Weight.VALUES, np.int64) for _ in range(3))
        return cls(prompt, answer, context, np.zeros(num_pairs, np.bool_), np.zeros(num_pairs, np.bool_))


def of_interest(compared: Compared, *, drop: float) -> Flags:
    """Return the pairs whose rows have to be read to know what differs."""
    close = np.maximum(compared.prompt, compared.conversation) >= drop
    same_text = (compared.answer == 1) & ~compared.short_answer
    flags: Flags = (compared.context >= drop) & close & (~compared.other_codes | same_text)
    return flags


def judge(
    pairs: Pairs,
    compared: Compared,
    weights: Weights,
    *,
    answers: NDArray[np.uint64],
    shared: Flags,
    drop: float,
    flag: float,
) -> Edges:
    """Decide what each pair is, and leave out those that have too little in common.

    Args:
        pairs: (pairs, 2) rows.
        compared: their similarities.
        weights: what differs between them.
        answers: (all rows,) keys of answers.
        shared: (all rows,) rows with an answer that many rows give.
        drop: similarity from which rows can be copies.
        flag: similarity from which rows belong on one side of the split.
    """
    same_answer = answers[pairs[:, 0]] == answers[pairs[:, 1]]  # (pairs,)
    # (pairs,) flags, here and below
    is_label = compared.short_answer | shared[pairs[:, 0]] | shared[pairs[:, 1]]
    only_prompts = same_answer & shared[pairs[:, 0]]
    related = compared.context >= drop
    score = np.where(only_prompts, compared.prompt, np.maximum(compared.conversation, 0.0))
    # the prompt too: a long shared answer alone would make copies of rows that ask different things
    near = related & (score >= drop) & (compared.prompt >= flag)
    equal = near & (weights.prompt == Weight.NONE) & (weights.answer == Weight.NONE) & (weights.context == Weight.NONE)
    differs = related & (np.maximum(compared.prompt, compared.conversation) >= drop) & ~equal
    differs &= (weights.prompt == Weight.VALUES) | weights.is_slot
    slots = find_patterns(pairs, differs, answers.size) & ~equal
    follows = np.where(is_label, _labels_follow(pairs, compared, answers, is_label & related, drop), True)
    reworded = near & follows & same_answer & (weights.context == Weight.NONE) & ~slots
    # An exchanged word spoils two word pairs: prompts with the same long answer look less alike than they are.
    reworded &= (compared.prompt >= drop) | (weights.is_edit & ~is_label)
    reworded &= weights.answer == Weight.NONE
    # Where labels are seen to follow from the topic, kindred words do not decide either.
    reworded &= np.where(is_label, np.isin(weights.prompt, LABEL_WEIGHTS), weights.prompt <= Weight.ONE_SIDED)

    alike_answers = same_answer | ((compared.answer >= SAME_ANSWER) & ~compared.short_answer)
    alike = near & alike_answers & ~compared.other_values & ~slots
    alike &= (weights.prompt < Weight.VALUES) & (weights.answer < Weight.VALUES)
    asked_alike = related & (compared.prompt >= drop) & ~same_answer
    conflict = asked_alike & (weights.prompt == Weight.NONE) & (weights.answer > Weight.NONE)
    other_question = compared.other_values | compared.other_numbers | (weights.prompt == Weight.VALUES) | slots
    # also prompts that are only nearly equal, unless numbers, values or slots make them other questions
    conflict |= asked_alike & ~alike_answers & ~other_question

    score = np.where(alike_answers, score, np.maximum(compared.prompt, compared.conversation))
    chosen = equal | reworded | conflict | (related & (score >= flag))
    return Edges(pairs, score, equal | reworded, conflict, alike, slots).chosen(chosen)


def _labels_follow(
    pairs: Pairs, compared: Compared, answers: NDArray[np.uint64], labelled: Flags, drop: float
) -> Flags:
    """Return the pairs with a label that nearly equal prompts nearly always share."""
    near = np.flatnonzero(labelled & (compared.prompt >= drop) & (compared.prompt < 1))
    left, right = answers[pairs[near, 0]], answers[pairs[near, 1]]
    agrees = left == right
    if near.size < MIN_LABELLED_PAIRS or agrees.mean() < LABELS_AGREE:
        return np.zeros(len(pairs), np.bool_)
    values, of = np.unique(np.concatenate([left, right]), return_inverse=True)
    # for each label: of the pairs that have it on either side, how many have it on both
    share = np.bincount(of, weights=np.tile(agrees, 2)) / np.bincount(of)
    return np.isin(answers[pairs[:, 0]], values[share >= LABEL_AGREES])
