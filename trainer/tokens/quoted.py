"""Tokenize guarded texts: special tokens that a row quotes become plain text, those of the template stay special.

A second tokenizer has other names for its added tokens: private-use characters that occur in no text, equally long. The
template's tokens are renamed in the text before it is tokenized. Quoted tokens keep their spelling, which is no token
there, and all offsets stay the same.

    text       <|end|>What is <|end|>?       the first by the template, the second quoted by a row, with a guard
    renamed    xxxxxxxWhat is <|end|>?       x: a private-use character; `xxxxxxx` is one token, `<|end|>` is text
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from trainer.errors import DataError
from trainer.tokens.content import any_of, unguarded, without_guards
from trainer.tokens.tokenizer import Tokenizer

Offsets = list[tuple[int, int]]
FIRST, LAST = 0xF0000, 0x10FFFD
"""Planes 15 and 16, which are private."""
PLAIN_ONLY = "take these special tokens out of the rows, or train a model whose tokenizer splits them"


TokenizerState = dict[str, Any]
"""The JSON of a `tokenizers` tokenizer: `added_tokens`, `model` and more."""


class Reading(NamedTuple):
    """Ids of a text, and (begin, end) of each token in the guarded text."""

    ids: list[int]
    offsets: Offsets


class QuotingTokenizer:
    """Tokenize special tokens only where the template has written them.

    Args:
        tokenizer: The model's, of transformers' fast kind.
        base: Code point of the first stand-in.

    Raises:
        DataError: It does not give the same ids as the model's tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, base: int) -> None:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        added = {token["content"]: token["id"] for token in state["added_tokens"]}
        # a single-word token is recognised by its neighbours, so it keeps its name
        words = {token["content"] for token in state["added_tokens"] if token["single_word"]}
        self.names = {text: chr(base + index) * len(text) for index, text in enumerate(added) if text not in words}
        self.renamed, self.tokens = any_of(self.names), any_of(added)
        unknown = _rename(state, self.names)
        self.backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        self.backend.no_truncation()
        self.backend.no_padding()
        self.ids = {self.backend.token_to_id(self.names.get(text, text)): id_ for text, id_ in added.items()}
        self.special = np.array([id_ for text, id_ in added.items() if text != unknown], dtype=np.int64)
        self._check(tokenizer, added)

    def _check(self, tokenizer: Tokenizer, added: dict[str, int]) -> None:
        texts = [f"{text}a {text} b{text}\n{text}" for text in added]
        expected = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        for text, ids, reading in zip(texts, expected, self.read(texts, add_special_tokens=False), strict=True):
            if ids != reading.ids:
                raise DataError(
                    f"rows quote special tokens, and this tokenizer cannot be kept from reading {text[:40]!r} as such",
                    hint=PLAIN_ONLY,
                )

    def read(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[Reading]:
        """Tokenize guarded texts.

        Raises:
            DataError: A quoted token becomes special all the same.
        """
        renamed = [self.renamed.sub(lambda match: self.names[match[0]], text) for text in texts]
        plain = [without_guards(text) for text in renamed]
        encodings = self.backend.encode_batch([text for text, _ in plain], add_special_tokens=add_special_tokens)
        readings = []
        for text, (_, positions), encoding in zip(texts, plain, encodings, strict=True):
            ids = [self.ids.get(id_, id_) for id_ in encoding.ids]
            written = sum(1 for _ in self.tokens.finditer(text)) + sum(encoding.special_tokens_mask)
            # more special ids than the template and the tokenizer wrote: one of them was quoted
            if np.isin(ids, self.special).sum() > written:
                raise DataError(f"{unguarded(text)[:80]!r}: special tokens in it cannot be plain text", hint=PLAIN_ONLY)
            readings.append(Reading(ids, [_guarded_span(low, high, positions) for low, high in encoding.offsets]))
        return readings


def _guarded_span(low: int, high: int, positions: list[int]) -> tuple[int, int]:
    """Return a span of the plain text as a span of the guarded text, given the positions of its characters.

    Example:
        >>> _guarded_span(0, 2, [0, 2, 3])  # a guard follows the first character
        (0, 3)
    """
    begin = positions[low] if low < len(positions) else (positions[-1] + 1 if positions else 0)
    return begin, max(begin, positions[high - 1] + 1) if high > low else begin


def _rename(state: TokenizerState, names: dict[str, str]) -> str | None:
    """Rename added tokens, in the vocabulary as well; return the token of unknown text."""
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    vocabulary = model["vocab"]
    unknown: str | None = model.get("unk_token")
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        unknown = vocabulary[model["unk_id"]][0] if model.get("unk_id") is not None else None
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    else:
        model["vocab"] = {names.get(piece, piece): id_ for piece, id_ in vocabulary.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
        # merges name vocabulary entries: those of renamed tokens would make the file unreadable
        model["merges"] = [pair for pair in pairs if not names.keys() & {*pair, "".join(pair)}]
    return unknown


def read_guarded(tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool) -> list[Reading]:
    """Tokenize texts with guards.

    Raises:
        DataError: A quoted token cannot be plain text.
    """
    if not texts:
        return []
    used = {code for text in texts for character in text if (code := ord(character)) >= FIRST}
    width = len(tokenizer.added_tokens_decoder)
    bases = range(FIRST, LAST - width, width)
    base = next((base for base in bases if used.isdisjoint(range(base, base + width))), None)
    if base is None:
        raise DataError("a row uses all private characters of Unicode", hint="drop the row")
    return _quoting(tokenizer, base).read(texts, add_special_tokens=add_special_tokens)


@lru_cache(maxsize=4)
def _quoting(tokenizer: Tokenizer, base: int) -> QuotingTokenizer:
    return QuotingTokenizer(tokenizer, base)
