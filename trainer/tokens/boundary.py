r"""Hold rows to the prompts that a served model is given: the prompt's token ids must begin the row's.

A tokenizer may join the end of a prompt with the start of the answer, so that the prompt occurs in no row and the first
token of the answer begins before it:

    prompt  'A: '      'A:' ' '
    row     'A: the'   'A:' ' the'

Such an answer is tokenized apart from its prompt, as it is where the model is served:

    row     'A: the'   'A:' ' ' 'the'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from trainer.tokens.arrays import Ints


def differing_prompts(
    texts: Sequence[str],
    pieces: Sequence[Ints],
    begins: Sequence[Ints],
    starts: Sequence[Sequence[int]],
    added: Mapping[int, str],
    ids_of: Callable[[Sequence[str]], list[Ints]],
) -> list[dict[int, Ints]]:
    """Return for each text the prompts whose ids do not begin it: number of characters -> ids of the prompt alone.

    What stands before an added token (`<|im_start|>`) is tokenized for itself, so that only the rest behind the last of
    them is tokenized again; rows of one template share it.

    Args:
        texts: Rows as rendered.
        pieces: Their ids.
        begins: Where each token begins, in characters of its text.
        starts: Where answers begin in each text; the prompt is all before.
        added: Tokens that the tokenizer splits texts at, and how they are written.
        ids_of: Tokenizes further texts.
    """
    rests = [
        _rest(text, ids, begin, start, added)
        for text, ids, begin, some in zip(texts, pieces, begins, starts, strict=True)
        for start in some
    ]
    known = list(dict.fromkeys(rest for rest, _, _ in rests))
    alone = dict(zip(known, ids_of(known), strict=True))
    differing: list[dict[int, Ints]] = []
    bounds = list(accumulate((len(some) for some in starts), initial=0))
    for ids, some, low in zip(pieces, starts, bounds, strict=False):
        differing.append({})
        for start, (rest, first, end) in zip(some, rests[low : low + len(some)], strict=True):
            if not np.array_equal(ids[first:end], alone[rest]):
                differing[-1][start] = np.concatenate([ids[:first], alone[rest]])
    return differing


def _rest(text: str, ids: Ints, begin: Ints, start: int, added: Mapping[int, str]) -> tuple[str, int, int]:
    """Return the prompt from its last added token on, and the row's tokens (first, end) that should be those of it."""
    end = int(np.searchsorted(begin, start))
    for first in range(end - 1, -1, -1):
        # the text as well: the bytes of SentencePiece's kind may be written as tokens that are added
        if (written := added.get(int(ids[first]))) and text.startswith(written, at := int(begin[first])):
            return text[at:start], first, end
    return text[:start], 0, end


def continuation(tokenizer: Any, prompt: Ints, whole: Ints) -> tuple[Ints, int] | None:
    """Return ids that follow a prompt where `whole` joins it with its answer, and how many of them are new.

    The token that reaches over the end of the prompt is cut there, and its rest is tokenized by the model of the
    tokenizer; all later tokens stay.

    Returns:
        None where no such ids give the same text.
    """
    shared = common_prefix(prompt, whole)
    left = "".join(tokenizer.convert_ids_to_tokens(prompt[shared:].tolist()))
    right, end = "", shared
    while len(right) < len(left) and end < len(whole):
        right += tokenizer.convert_ids_to_tokens(int(whole[end]))
        end += 1
    if not right.startswith(left):
        return None
    cut = right[len(left) :]
    new = [token.id for token in tokenizer.backend_tokenizer.model.tokenize(cut)] if cut else []
    ids = np.concatenate([np.array(new, dtype=np.int32), whole[end:]])
    if not len(ids) or _text(tokenizer, np.concatenate([prompt, ids])) != _text(tokenizer, whole):
        return None
    return ids, len(new)


def _text(tokenizer: Any, ids: Ints) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def common_prefix(first: Ints, second: Ints) -> int:
    """Return how many ids two rows begin with in common."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
