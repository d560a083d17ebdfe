"""Describe the part of transformers' fast tokenizers that is used here, without importing transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import tokenizers

from trainer.data.records.kinds import Message


class TokenizedTexts(Protocol):
    """Result of a call of the tokenizer."""

    encodings: Sequence[tokenizers.Encoding]

    def __getitem__(self, key: Literal["input_ids"], /) -> list[list[int]]:
        """Return the ids of each text."""


class Tokenizer(Protocol):
    """A fast tokenizer of transformers."""

    chat_template: str | dict[str, str] | None
    eos_token: str | None
    eos_token_id: int | None
    bos_token_id: int | None
    all_special_ids: list[int]
    special_tokens_map: Mapping[str, object]
    added_tokens_decoder: Mapping[int, tokenizers.AddedToken]
    backend_tokenizer: tokenizers.Tokenizer
    is_fast: bool

    def __hash__(self) -> int:
        """Return the identity, as objects do: readers are cached by tokenizer."""

    def __len__(self) -> int:
        """Return the number of token ids."""

    def __call__(self, text: list[str], **settings: object) -> TokenizedTexts:
        """Tokenize texts."""

    def apply_chat_template(self, conversation: Sequence[Message], **settings: object) -> object:
        """Return rendered text."""

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        """Return the vocabulary's entries of ids."""

    def decode(self, token_ids: Sequence[int], **settings: object) -> object:
        """Return the text of ids."""
