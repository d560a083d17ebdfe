r"""Make the token ids of each row begin with those of its prompt, as a served model gets it.

A tokenizer may join the end of a prompt with the start of the answer. Then the prompt's ids occur in no row, and the
first token of the answer begins in the prompt:

    prompt  'A: '      'A:' ' '
    row     'A: the'   'A:' ' the'

Such an answer is tokenized apart from its prompt, as in serving:

    row     'A: the'   'A:' ' ' 'the'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from trainer.tokens.arrays import Ints
from trainer.tokens.tokenizer import Tokenizer


def differing_prompts(
    texts: Sequence[str],
    pieces: Sequence[Ints],
    begins: Sequence[Ints],
    starts: Sequence[Sequence[int]],
    added: Mapping[int, str],
    ids_of: Callable[[Sequence[str]], list[Ints]],
) -> list[dict[int, Ints]]:
    """Return for each text the prompts whose ids do not begin it: number of characters -> ids of the prompt alone.

    Text before an added token (`<|im_start|>`) is tokenized for itself, so that only the tail after the
    last of them is tokenized again; rows of one template share it.

    Args:
        texts: Rows as rendered.
        pieces: Their ids.
        begins: Where each token begins, in characters of its text.
        starts: Where answers begin in each text; the prompt is all before.
        added: Tokens that the tokenizer splits texts at, and how they are written.
        ids_of: Tokenizes further texts.
    """
    tails = [
        _prompt_tail(text, ids, begin, start, added)
        for text, ids, begin, some in zip(texts, pieces, begins, starts, strict=True)
        for start in some
    ]
    # most prompts end alike, in `<|im_start|>assistant` and a line break: one tail is tokenized once
    distinct = list(dict.fromkeys(tail for tail, _, _ in tails))
    ids_of_tail = dict(zip(distinct, ids_of(distinct), strict=True))
    differing: list[dict[int, Ints]] = []
    bounds = list(accumulate((len(some) for some in starts), initial=0))
    for ids, some, low in zip(pieces, starts, bounds, strict=False):
        differing.append({})
        for start, (tail, first, end) in zip(some, tails[low : low + len(some)], strict=True):
            # all before `first` is the same by construction: added tokens split texts
            if not np.array_equal(ids[first:end], ids_of_tail[tail]):
                differing[-1][start] = np.concatenate([ids[:first], ids_of_tail[tail]])
    return differing


def _prompt_tail(text: str, ids: Ints, begin: Ints, start: int, added: Mapping[int, str]) -> tuple[str, int, int]:
    """Return the prompt from its last added token on, and the row's tokens [first, end) that should equal its ids."""
    end = int(np.searchsorted(begin, start))  # first token that begins in the answer
    for first in range(end - 1, -1, -1):
        # compare the text as well: SentencePiece may write bytes by added tokens
        token, position = added.get(int(ids[first])), int(begin[first])
        if token and text.startswith(token, position):
            return text[position:start], first, end
    return text[:start], 0, end


def continuation(tokenizer: Tokenizer, prompt: Ints, row: Ints) -> tuple[Ints, int] | None:
    """Return ids that follow a prompt where `row` joins it with its answer, and how many of them are new.

    The token across the end of the prompt is cut there, and its second part is tokenized by the tokenizer's model; all
    later tokens stay.

    Returns:
        None where no such ids give the same text.
    """
    # prompt 'A:' ' ' and row 'A:' ' the': shared 1, left ' ', right ' the', cut 'the'
    shared = common_prefix(prompt, row)
    left = "".join(tokenizer.convert_ids_to_tokens(prompt[shared:].tolist()))
    right, end = "", shared
    # take as many tokens of the row as cover the prompt's remaining characters
    while len(right) < len(left) and end < len(row):
        right += tokenizer.convert_ids_to_tokens([int(row[end])])[0]
        end += 1
    if not right.startswith(left):
        return None
    cut = right[len(left) :]
    # the model alone, without normaliser and pre-tokenizer: `cut` is text in the vocabulary's own spelling
    new = [token.id for token in tokenizer.backend_tokenizer.model.tokenize(cut)] if cut else []
    ids = np.concatenate([np.array(new, dtype=np.int32), row[end:]])
    if not len(ids) or _text(tokenizer, np.concatenate([prompt, ids])) != _text(tokenizer, row):
        return None
    return ids, len(new)


def _text(tokenizer: Tokenizer, ids: Ints) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def common_prefix(first: Ints, second: Ints) -> int:
    """Return the number of ids that two rows begin with in common.

    Example:
        >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
        2
    """
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
