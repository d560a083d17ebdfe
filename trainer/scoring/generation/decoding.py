"""Decode in a loop: rows of one group enter a batch, leave it as soon as they end, and waiting ones take their seats.

Shapes: B rows, T columns of the cache, V words of the vocabulary. A column holds one token per row: first the shared
prefix, then the tokens of each row, padded on the left.

    prefix   rows             mask
    p p p    . . a b c        1 1 1  0 0 1 1 1
    p p p    d e f g h        1 1 1  1 1 1 1 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import Cache

from trainer.scoring.generation import kv_cache
from trainer.scoring.generation.sampling import NucleusSampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REFILL_SHARE = 8
"""Waiting rows enter when this fraction of the batch (1 / n) has ended: an exchange copies the cache."""
COMPACT_SHARE = 4
"""The same where no row waits."""


@dataclass
class DecodingRow:
    """One prompt and the tokens that answer it so far."""

    index: int
    """Of the prompt among those that the caller asked."""
    prompt: list[int]
    uniforms: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finished: bool = False
    """A stop token came; `tokens` does not have it."""


@dataclass(frozen=True)
class Decoding:
    """What ends a row and how tokens are chosen; the model's own generation_config does not count."""

    stop_ids: frozenset[int]
    max_new_tokens: int
    sampling: NucleusSampling | None

    def row(self, index: int, prompt: list[int]) -> DecodingRow:
        """Return a row that has not begun."""
        count = self.max_new_tokens
        return DecodingRow(index, prompt, [] if self.sampling is None else self.sampling.uniforms(prompt, count))

    def take(self, row: DecodingRow, token: int) -> bool:
        """Add a token to a row and tell whether the row has ended."""
        row.finished = token in self.stop_ids
        if not row.finished:
            row.tokens.append(token)
        return row.finished or len(row.tokens) >= self.max_new_tokens


def choose(logits: torch.Tensor, sampling: NucleusSampling | None, uniforms: Sequence[float]) -> torch.Tensor:
    """Choose each row's next token from (B, V) logits; `uniforms` has one number a row when sampling."""
    if sampling is None:
        return logits.float().argmax(-1)
    # (B, V) probabilities in falling order, with their tokens
    shares, tokens = (logits.double() / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    reached = shares.cumsum(-1)  # (B, V): share of each token and of all likelier ones
    # the first token stays whatever its share; later ones while those before them hold less than top_p
    nucleus = torch.where(reached - shares < sampling.top_p, reached, 0).amax(-1, keepdim=True)
    # inverse of the cumulative distribution: u in [0, 1) times the share of the nucleus picks the token
    drawn = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * nucleus
    return tokens.gather(-1, torch.searchsorted(reached, drawn, right=True).clamp(max=logits.shape[-1] - 1))[:, 0]


@dataclass
class DecodingBatch:
    """Rows that are decoded together; `alive` are those that have not ended."""

    rows: list[DecodingRow]
    cache: Cache
    mask: torch.Tensor
    """(B, T), 1 where a column holds a token of the row."""
    logits: torch.Tensor
    """(B, V) of the next token."""
    alive: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alive = self.alive or [True] * len(self.rows)


class Loop:
    """Decoding of prompts that share their first `shared` tokens.

    Args:
        model: Transformers model whose cache can be cut (`kv_cache.max_shared_width`), in evaluation mode.
        decoding: Stop tokens, limit, sampling.
        prefix: The tokens that all prompts begin with; may be empty.
        pad_id: Any token.
        on_token: Called after each token that a batch has chosen, before the next is computed.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decoding: Decoding,
        *,
        prefix: list[int],
        pad_id: int,
        on_token: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.decoding = decoding
        self.shared = len(prefix)
        self.pad_id = pad_id
        self.on_token = on_token
        self.device = next(model.parameters()).device
        self.prefix = kv_cache.empty()
        if prefix:
            ids = torch.tensor([prefix], device=self.device)
            self._forward(ids, torch.ones_like(ids), torch.arange(len(prefix), device=self.device)[None], self.prefix)

    def run(self, rows: Sequence[DecodingRow], batch_size: int, on_end: Callable[[DecodingRow], None]) -> None:
        """Decode all rows in their order; call `on_end` with each row as soon as it has ended."""
        entered = 0
        batch: DecodingBatch | None = None
        while batch is not None or entered < len(rows):
            batch = self._without_ended(batch)
            entering = rows[entered : entered + batch_size - (len(batch.rows) if batch else 0)]
            if entering:
                batch = self._joined(batch, self._started(entering))
                entered += len(entering)
            assert batch is not None
            # rows are exchanged in groups, as each exchange copies the cache
            while not self._exchange_pays(batch, entered < len(rows)):
                for row in self._step(batch):
                    on_end(row)
            if not any(batch.alive):
                batch = None

    def _exchange_pays(self, batch: DecodingBatch, more: bool) -> bool:
        return batch.alive.count(False) * (REFILL_SHARE if more else COMPACT_SHARE) >= len(batch.rows)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Return the (B, V) logits after the last column."""
        with torch.no_grad():
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]

    def _started(self, rows: Sequence[DecodingRow]) -> DecodingBatch:
        """Compute the prompts of rows that enter."""
        width = max(len(row.prompt) for row in rows)
        # (B, T - shared): the prefix is in the cache, so only what follows goes through the model
        ids = torch.full((len(rows), width - self.shared), self.pad_id)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        # columns: the prefix for every row, padding, the row's own tokens
        mask[:, : self.shared] = 1
        for index, row in enumerate(rows):
            tokens = row.prompt[self.shared :]
            ids[index, -len(tokens) :] = torch.tensor(tokens)
            mask[index, -len(tokens) :] = 1
        # (B, T - shared) padding does not count as a position
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, self.shared :]
        mask = mask.to(self.device)
        # the prefix was computed once; all rows share its keys until they append their own
        cache = kv_cache.repeated(self.prefix, len(rows))
        logits = self._forward(ids.to(self.device), mask, positions.to(self.device), cache)
        return DecodingBatch(list(rows), cache, mask, logits)

    def _joined(self, batch: DecodingBatch | None, entering: DecodingBatch) -> DecodingBatch:
        if batch is None:
            return entering
        width = max(batch.mask.shape[1], entering.mask.shape[1])
        masks = [kv_cache.widened(part.mask, self.shared, width, 1) for part in (batch, entering)]
        return DecodingBatch(
            [*batch.rows, *entering.rows],
            kv_cache.joined(batch.cache, entering.cache, self.shared),
            torch.cat(masks),
            torch.cat([batch.logits, entering.logits]),
        )

    def _without_ended(self, batch: DecodingBatch | None) -> DecodingBatch | None:
        """Take ended rows out, and columns that no remaining row uses."""
        if batch is None or all(batch.alive):
            return batch
        rows = torch.tensor([index for index, alive in enumerate(batch.alive) if alive], device=self.device)
        columns = batch.mask[rows].any(0).nonzero()[:, 0]  # (T',) padding that only ended rows needed goes
        return DecodingBatch(
            [batch.rows[index] for index in rows.tolist()],
            kv_cache.selected(batch.cache, rows, columns),
            batch.mask[rows][:, columns],
            batch.logits[rows],
        )

    def _step(self, batch: DecodingBatch) -> list[DecodingRow]:
        """Choose a token for every row and compute the next logits; return the rows that ended with it."""
        sampling = self.decoding.sampling
        last = self.decoding.max_new_tokens - 1  # ended rows stay in the batch for a while
        drawn = [row.uniforms[min(len(row.tokens), last)] for row in batch.rows] if sampling else []
        chosen = choose(batch.logits, sampling, drawn)  # (B,)
        tokens = chosen.tolist()
        self.on_token()
        ended = []
        for index, token in enumerate(tokens):
            if batch.alive[index] and self.decoding.take(batch.rows[index], token):
                batch.alive[index] = False
                ended.append(batch.rows[index])
        # the logits after a row's last token are never read
        if any(batch.alive):
            # (B, 1): tokens so far, padding not counted, is the position of the next one
            positions = batch.mask.sum(1, keepdim=True)
            batch.mask = torch.cat([batch.mask, batch.mask.new_ones((len(batch.rows), 1))], 1)
            batch.logits = self._forward(chosen[:, None], batch.mask, positions, batch.cache)
        return ended
