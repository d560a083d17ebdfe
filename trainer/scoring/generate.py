"""Batched greedy generation, and latency one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    num_tokens: int
    finished: bool
    """It ended by itself, not at the limit."""


class Generator:
    """Greedy decoding of token-id prompts with one model."""

    def __init__(self, model: Any, tokenizer: Any, *, stop_ids: Sequence[int], max_new_tokens: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.stop_ids = sorted(set(stop_ids))
        self.max_new_tokens = max_new_tokens
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_ids[0]

    def answers(
        self, prompts: Sequence[list[int]], *, batch_size: int, progress: Callable[[int], None]
    ) -> list[Answer]:
        """Answer all prompts; neighbours in length share a batch, so that little is padded."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        found: dict[int, Answer] = {}
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            found |= zip(chosen, self._batch([prompts[index] for index in chosen]), strict=True)
            progress(len(chosen))
        return [found[index] for index in range(len(prompts))]

    def latencies(self, prompts: Sequence[list[int]]) -> list[float]:
        """Return the seconds of each prompt answered alone, after one that warms up."""
        seconds = []
        for prompt in [*prompts[:1], *prompts]:
            started = time.perf_counter()
            self._batch([prompt])
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        return seconds[1:]

    def _batch(self, prompts: list[list[int]]) -> list[Answer]:
        width = max(len(prompt) for prompt in prompts)
        device = next(self.model.parameters()).device
        ids = torch.full((len(prompts), width), self.pad_id)  # (B, S), padded on the left
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.no_grad():
            output = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                use_cache=True,
                eos_token_id=self.stop_ids,
                pad_token_id=self.pad_id,
            )
        return [self._answer(tokens) for tokens in output[:, width:].tolist()]

    def _answer(self, tokens: list[int]) -> Answer:
        end = next((index for index, token in enumerate(tokens) if token in self.stop_ids), None)
        kept = tokens if end is None else tokens[:end]
        text = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        return Answer(text, len(kept), end is not None)
