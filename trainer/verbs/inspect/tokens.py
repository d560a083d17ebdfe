"""Decode the token ids of `pack/` into trained and untrained text. Loads a tokenizer."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainer.disk import cache_dir
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.rundir import RunFolder
from trainer.tokens.store import TokenStore
from trainer.verbs.inspect.show import Span


class TokenView:
    """The packed rows of a run."""

    def __init__(self, recipe: Recipe, run: RunFolder) -> None:
        self.tokenizer = load_tokenizer(recipe.model, cache_dir())
        self.run = run
        self.stores: dict[str, TokenStore] = {}

    def spans(self, side: str, index: int) -> tuple[list[Span], int, int] | None:
        """Return pieces of text, tokens and trained tokens of a row; None where pack has left it out."""
        if side not in self.stores:
            self.stores[side] = TokenStore.load(self.run.stage_dir("pack") / f"{side}.safetensors")
        store = self.stores[side]
        matches = np.flatnonzero(store.row_index == index)
        if not len(matches):
            return None
        spans: list[Span] = []
        num_tokens = num_trained = 0
        for number, match in enumerate(matches, 1):
            # a pair is stored as segments prompt, chosen, rejected; all of them are shown
            low, high = store.offsets[match * store.segments], store.offsets[(match + 1) * store.segments]
            ids, mask = store.input_ids[low:high].tolist(), store.loss_mask[low:high].tolist()
            if len(matches) > 1:
                spans.append((f"\nexample {number} of {len(matches)}:\n", False))
            spans += decode_spans(self.tokenizer, ids, mask)
            num_tokens, num_trained = num_tokens + len(ids), num_trained + sum(mask)
        return spans, num_tokens, num_trained


def decode_spans(tokenizer: PreTrainedTokenizerBase, ids: list[int], mask: list[int]) -> list[Span]:
    """Decode runs of trained and of other tokens.

    Each run is what the text grows by when it is added: decoded alone, a run would lose the space that it begins with.
    """
    spans: list[Span] = []
    end, before = 0, ""
    for flag, members in groupby(mask):
        end += len(list(members))
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        spans.append((text[len(before) :], bool(flag)))
        before = text
    return spans
