"""Find rows whose answer is their prompt, corrected or rewritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

from trainer.data.duplicates.jaccard import SHORT_ANSWER_WORDS
from trainer.data.duplicates.words import Kind, Token, tokens_of

MIN_REPEATED_WORDS, REPEATED_SHARE, REPEATED_PAIRS = 3, 0.7, 0.5
"""An answer of so many words or more rewrites its prompt if so large shares of its words and of its pairs of words
stand there: a solution uses the words of its problem in another order."""
MAX_NEW_VALUES = 1
"""An answer with more values that the prompt lacks has computed them."""


@lru_cache(maxsize=4096)  # a row is compared with several others
def repeats_prompt(prompt: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """Tell rows that correct or rewrite: the answer repeats the question, and what differs between them is the task."""
    if not prompt:
        return False
    prompt_tokens = tokens_of(prompt[-1], fold=False)
    answer_tokens = [token for text in answer for token in tokens_of(text, fold=False)]
    # A prompt of fewer words cannot hold so large a share; counting them takes ten times as long.
    if len(answer_tokens) < MIN_REPEATED_WORDS or len(prompt_tokens) < REPEATED_SHARE * len(answer_tokens):
        return False
    if _share(_keys(answer_tokens), _keys(prompt_tokens)) < REPEATED_SHARE:
        return False
    if sum(token.kind is Kind.VALUE for token in set(answer_tokens).difference(prompt_tokens)) > MAX_NEW_VALUES:
        return False
    return len(answer_tokens) < SHORT_ANSWER_WORDS or _repeats_pairs(_keys(answer_tokens), _keys(prompt_tokens))


def _keys(tokens: Iterable[Token]) -> list[str]:
    return [token.key for token in tokens]


def _repeats_pairs(answer_keys: list[str], prompt_keys: list[str]) -> bool:
    return _share(list(pairwise(answer_keys)), list(pairwise(prompt_keys))) >= REPEATED_PAIRS


def _share(part: Sequence[object], reference: Sequence[object]) -> float:
    """Return how much of one list stands in another one."""
    # multisets: a word that stands twice must stand twice in both
    return (Counter(part) & Counter(reference)).total() / len(part)
