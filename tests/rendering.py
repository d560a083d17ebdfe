"""Render and encode one row at a time, with results that compare with lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.tokens import chat
from trainer.tokens.encode import encode_pairs, encode_rows


@dataclass
class MaskedTokens:
    """Ids of one row with their loss mask (1: trained)."""

    ids: list[int]
    mask: list[int]


@dataclass
class PairTokens:
    """Ids of one preference row; both answers follow the same prompt."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Renderer(chat.Renderer):
    """The renderer, with the tokens of one row."""

    def examples(self, row: Any) -> list[MaskedTokens]:
        encoded = encode_rows(self.tokenizer, self.render(row))
        return [MaskedTokens(ids.tolist(), mask.tolist()) for pieces in encoded for ids, mask in pieces]

    def tokens(self, row: Any) -> MaskedTokens:
        [example] = self.examples(row)
        return example

    def pair(self, row: Any) -> PairTokens:
        [pieces] = encode_pairs(self.tokenizer, self.render_pair(row))
        return PairTokens(*(ids.tolist() for ids, _ in pieces))
