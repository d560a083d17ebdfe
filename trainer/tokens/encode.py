r"""Encode rendered rows to token ids and loss masks, many in one call of `tokenizers`, which uses all cores.

A token is trained if it begins inside the trained characters:

    text      <|im_start|>assistant\nHello<|im_end|>\n      trained characters [22, 37)
    offsets   (0, 12) (12, 21) (21, 22) (22, 27) (27, 37) (37, 38)
    mask         0       0        0        1        1        0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from typing import Literal, Protocol

import numpy as np

from trainer.data.records.kinds import Record
from trainer.errors import DataError
from trainer.tokens.arrays import Ints
from trainer.tokens.boundary import common_prefix, continuation, differing_prompts
from trainer.tokens.content import GUARD, unguarded
from trainer.tokens.marks import Span
from trainer.tokens.quoted import read_guarded
from trainer.tokens.tokenizer import Tokenizer

Piece = tuple[Ints, Ints]
"""Ids (int32) and loss mask (uint8) of one segment."""

IGNORED = -100


class Encoding(Protocol):
    """Ids and character offsets of one text: `tokenizers.Encoding`, or a `Reading` of a guarded text."""

    @property
    def ids(self) -> list[int]:
        """Return the token ids."""

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Return (begin, end) of each token."""


@dataclass(frozen=True)
class Rendered:
    """A supervised row before it is tokenized."""

    row: Record
    kind: Literal["chat", "text", "ids"]
    """Rendered by a template, with special tokens; plain text; or already token ids."""
    text: str = ""
    trained: Sequence[Span] = ()
    left_out: Sequence[Span] = ()
    """Characters inside `trained` that are not trained."""
    answers: Sequence[Span] = ()
    """Each trained answer; the text before it is the prompt of a served model."""
    ways: Sequence[str] = ()
    """`trainer.tokens.turns.Way` of each answer."""


@dataclass(frozen=True)
class RenderedPair:
    """A preference row before it is tokenized: the prompt, and each answer after it."""

    row: Record
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Encoded:
    """Token ids of several texts, flat."""

    ids: Ints
    """int32, (tokens,)."""
    bounds: Ints
    """int64, (texts + 1,): text i is ids[bounds[i]:bounds[i + 1]]."""
    encodings: Sequence[Encoding]
    texts: Sequence[str]

    def pieces(self, flat: Ints) -> list[Ints]:
        """Cut an array over all tokens into one for each text."""
        bounds = self.bounds.tolist()
        return [flat[low:high] for low, high in pairwise(bounds)]

    @cached_property
    def begins(self) -> tuple[Ints, Ints]:
        """Start of each token, counted over all texts, and whether it has any character.

        GPT-2's kind of tokenizers trims spaces off the offsets. A token of spaces alone has empty offsets: it begins
        where the token before it ended.
        """
        pairs = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in self.encodings))
        offsets = np.fromiter(pairs, dtype=np.int64, count=2 * len(self.ids)).reshape(-1, 2)  # (tokens, 2)
        start_of_text = np.repeat(_starts(self.texts)[:-1], np.diff(self.bounds))
        start, end = (offsets + start_of_text[:, None]).T  # (tokens,) each, over all texts
        # (tokens,): the furthest end of all tokens before each one
        reached = np.maximum.accumulate(np.concatenate([[0], end]))[:-1]
        begin = np.where(start < end, start, np.minimum(start, np.maximum(reached, start_of_text)))
        return begin, begin < end

    def begins_in_texts(self) -> list[Ints]:
        """Return the start of each token in its own text."""
        begin, _ = self.begins
        return self.pieces(begin - np.repeat(_starts(self.texts)[:-1], np.diff(self.bounds)))

    def inside(self, spans: Sequence[Sequence[Span]]) -> Ints:
        """Return 1 for tokens that begin inside a span of their text, 0 for others, even if they end there."""
        starts = _starts(self.texts)
        # one flag for each character of all texts; a token looks up the one at its begin
        marked = np.zeros(starts[-1] + 1, dtype=np.uint8)
        for base, some in zip(starts.tolist(), spans, strict=False):
            for low, high in some:
                marked[base + low : base + high] = 1
        begin, has_characters = self.begins
        # a token without characters (a byte of a longer sign) has no begin of its own
        return marked[begin] & has_characters


def _starts(texts: Sequence[str]) -> Ints:
    """Return the start of each text, laid out one after another with a gap of one character.

    Example:
        >>> _starts(["ab", "c"]).tolist()
        [0, 3, 5]
    """
    return np.array(list(accumulate((len(text) + 1 for text in texts), initial=0)), dtype=np.int64)


def encode(tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool = False) -> Encoded:
    """Tokenize texts with their special tokens; those that rows quote are guarded.

    Raises:
        DataError: A quoted special token cannot be plain text.
    """
    if not texts:
        return Encoded(np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64), [], [])
    lists, encodings = _tokenized(tokenizer, texts, add_special_tokens)
    bounds = np.array(list(accumulate((len(ids) for ids in lists), initial=0)), dtype=np.int64)  # (texts + 1,)
    ids = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(bounds[-1]))
    return Encoded(ids, bounds, encodings, texts)


def _tokenized(
    tokenizer: Tokenizer, texts: Sequence[str], add_special_tokens: bool
) -> tuple[list[list[int]], Sequence[Encoding]]:
    """Return ids and encodings; encodings hold the offsets."""
    guarded = [text for text in texts if GUARD in text]
    if guarded:
        readings = iter(read_guarded(tokenizer, guarded, add_special_tokens=add_special_tokens))
        plain = [text for text in texts if GUARD not in text]
        unguarded_encodings = iter(_tokenized(tokenizer, plain, add_special_tokens)[1] if plain else ())
        encodings = [next(readings if GUARD in text else unguarded_encodings) for text in texts]
        return [encoding.ids for encoding in encodings], encodings
    encoded = tokenizer(
        list(texts),
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # no warning about the length: pack.max_length is our limit
    )
    return encoded["input_ids"], encoded.encodings


def encode_rows(tokenizer: Tokenizer, rows: Sequence[Rendered]) -> list[list[Piece]]:
    """Return ids and mask of each supervised text; several where the tokenizer joins a prompt with its answer.

    Raises:
        DataError: A row has no trained token, or ids and labels that do not fit.
    """
    encoders: dict[str, Callable[[Tokenizer, list[Rendered]], Iterator[list[Piece]]]] = {
        "chat": _encode_chat,
        "text": _encode_text,
        "ids": _take_ids,
    }
    pieces = {kind: encoder(tokenizer, [row for row in rows if row.kind == kind]) for kind, encoder in encoders.items()}
    return [next(pieces[row.kind]) for row in rows]


def encode_pairs(tokenizer: Tokenizer, rows: Sequence[RenderedPair]) -> list[list[Piece]]:
    """Return prompt, chosen and rejected of each pair, one after another; the prompt's ids are those in serving.

    Raises:
        DataError: An answer has no tokens, or cannot be told from its prompt.
    """
    texts = [text for row in rows for text in (row.prompt, row.chosen, row.rejected)]
    encoded = encode(tokenizer, texts)
    ids = encoded.pieces(encoded.ids)
    pairs: list[list[Piece]] = []
    for index, row in enumerate(rows):
        # prompt, prompt + chosen, prompt + rejected
        prompt, *sides = ids[3 * index : 3 * index + 3]
        pieces: list[Piece] = [(prompt, np.zeros(len(prompt), dtype=np.uint8))]
        for side, text in zip(sides, (row.chosen, row.rejected), strict=True):
            answer = _after(tokenizer, row.row, prompt, side, text, len(row.prompt))
            pieces.append((answer, np.ones(len(answer), dtype=np.uint8)))
        pairs.append(pieces)
    return pairs


def _after(tokenizer: Tokenizer, row: Record, prompt: Ints, side: Ints, text: str, start: int) -> Ints:
    """Return the ids of an answer behind its prompt."""
    if len(text) == start:
        raise DataError(f"{location(row)}: an answer of this pair has no tokens", hint="drop the row")
    if len(side) > len(prompt) and np.array_equal(side[: len(prompt)], prompt):
        return side[len(prompt) :]
    apart = continuation(tokenizer, prompt, side)
    if apart is None:
        raise _joined(row, text, start)
    return apart[0]


def location(row: Record) -> str:
    """Return `source:line` of a row."""
    return f"{row.get('source', 'row')}:{row.get('line', '?')}"


def _encode_chat(tokenizer: Tokenizer, rows: list[Rendered]) -> Iterator[list[Piece]]:
    encoded = encode(tokenizer, [row.text for row in rows])
    flat = encoded.inside([row.trained for row in rows])
    if any(row.left_out for row in rows):
        # turns of weight 0 inside a text that is trained as a whole
        flat &= 1 - encoded.inside([row.left_out for row in rows])
    pieces, masks = encoded.pieces(encoded.ids), encoded.pieces(flat)

    def ids_of(texts: Sequence[str]) -> list[Ints]:
        again = encode(tokenizer, texts)
        return again.pieces(again.ids)

    starts = [[low for low, _ in row.answers] for row in rows]
    added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
    begins = encoded.begins_in_texts()
    differing = differing_prompts(encoded.texts, pieces, begins, starts, added, ids_of)
    for row, ids, mask, begin, prompts in zip(rows, pieces, masks, begins, differing, strict=True):
        examples = _apart(tokenizer, row, ids, mask, begin, prompts) if prompts else [(ids, mask)]
        yield [_trained(row.row, *example) for example in examples]


def _apart(
    tokenizer: Tokenizer, row: Rendered, ids: Ints, mask: Ints, begin: Ints, prompts: dict[int, Ints]
) -> list[Piece]:
    """Tokenize answers apart from their prompts; each but the last is an example of its own, up to its end."""
    examples = []
    *earlier, (last, _) = row.answers
    for low, high in earlier:
        if low in prompts:
            num = int(np.searchsorted(begin, high))
            in_answer = (mask[:num] * (begin[:num] >= low)).astype(np.uint8)
            examples.append(_joint(tokenizer, row, ids[:num], in_answer, low, prompts[low]))
            mask = np.where((begin >= low) & (begin < high), 0, mask).astype(np.uint8)
    if last in prompts:
        return [*examples, _joint(tokenizer, row, ids, mask, last, prompts[last])]
    return [*examples, (ids, mask)] if mask[1:].any() else examples


def _joint(tokenizer: Tokenizer, row: Rendered, ids: Ints, mask: Ints, start: int, prompt: Ints) -> Piece:
    """Replace the prompt of the last answer in some ids by the ids of the prompt alone."""
    apart = continuation(tokenizer, prompt, ids)
    if apart is None:
        raise _joined(row.row, row.text, start)
    answer, num_new = apart
    shared = common_prefix(prompt, ids)
    is_prompt_trained = mask[:shared].any() and any(low < start < high for low, high in row.trained)
    of_prompt = np.full(len(prompt), is_prompt_trained, dtype=np.uint8)
    # tokens before the seam keep their mask; those of the seam are trained only if the seam is
    of_prompt[:shared] = mask[:shared]
    num_old = len(answer) - num_new
    is_new_trained = not any(low <= start < high for low, high in row.left_out)
    of_answer = np.concatenate([np.full(num_new, is_new_trained, dtype=np.uint8), mask[len(mask) - num_old :]])
    return np.concatenate([prompt, answer]).astype(np.int32), np.concatenate([of_prompt, of_answer])


def _joined(row: Record, text: str, start: int) -> DataError:
    end, beginning = unguarded(text[max(0, start - 20) : start]), unguarded(text[start : start + 20])
    return DataError(
        f"{location(row)}: the tokenizer joins the end of a prompt, {end!r}, with the answer "
        f"that follows, {beginning!r}: the prompt that a served model is given would not be in the row",
        hint="give a template in model.chat_template whose generation prompt does not end in white space, "
        "or take the white space off the beginning of the answer",
    )


def _encode_text(tokenizer: Tokenizer, rows: list[Rendered]) -> Iterator[list[Piece]]:
    """Train the whole text and the end token after it."""
    encoded = encode(tokenizer, [row.text for row in rows], add_special_tokens=True)
    end = tokenizer.eos_token_id
    for row, tokens in zip(rows, encoded.pieces(encoded.ids), strict=True):
        ids = _with_one_end(_with_one_beginning(tokens, tokenizer.bos_token_id), end)
        if end is not None and ids[-1:].tolist() != [end]:
            ids = np.append(ids, np.int32(end))
        yield [_trained(row.row, ids, np.ones(len(ids), dtype=np.uint8))]


def _with_one_beginning(ids: Ints, bos: int | None) -> Ints:
    """Drop the begin token that the tokenizer adds to a text that has one."""
    return ids[1:] if bos is not None and ids[:2].tolist() == [bos, bos] else ids


def _with_one_end(ids: Ints, end: int | None) -> Ints:
    """Drop the end token that the tokenizer adds to a text that has one."""
    return ids[:-1] if end is not None and ids[-2:].tolist() == [end, end] else ids


def _take_ids(tokenizer: Tokenizer, rows: list[Rendered]) -> Iterator[list[Piece]]:
    """Take `input_ids` and `labels` as they are."""
    for row in rows:
        ids, labels = (_ints(row.row, name) for name in ("input_ids", "labels"))
        if len(ids) != len(labels):
            raise _bad_ids(row.row, f"{len(ids)} input_ids and {len(labels)} labels", "give one label for each token")
        limit = len(tokenizer)
        if len(ids) and not 0 <= ids.min() <= ids.max() < limit:
            wrong = ids[(ids < 0) | (ids >= limit)][0]
            raise _bad_ids(row.row, f"token id {wrong}: the tokenizer has {limit}", "tokenize with this model's own")
        trained = labels != IGNORED  # (tokens,)
        if (mismatches := np.flatnonzero(trained & (labels != ids))).size:
            index = int(mismatches[0])
            raise _bad_ids(
                row.row,
                f"label {labels[index]} at token {index}, whose id is {ids[index]}",
                "a label is the id of its own token (labels are not shifted), or -100",
            )
        yield [_trained(row.row, ids.astype(np.int32), trained.astype(np.uint8))]


def _ints(row: Record, name: str) -> Ints:
    values = row.get(name)
    if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**31 for value in values):
        raise _bad_ids(row, f"`{name}` is no list of 32-bit whole numbers", "give input_ids and labels, both lists")
    return np.array(values, dtype=np.int64)


def _bad_ids(row: Record, problem: str, hint: str) -> DataError:
    return DataError(f"{location(row)}: {problem}", hint=hint)


def _trained(row: Record, ids: Ints, mask: Ints) -> Piece:
    """Return ids and mask; refuse a row without any trained token."""
    mask[:1] = 0  # nothing predicts the first token
    if not mask.any():
        raise DataError(
            f"{location(row)}: no token of this row would be trained",
            hint="check pack.loss_on and the `weight` of its messages, or drop the row",
        )
    return ids, mask
