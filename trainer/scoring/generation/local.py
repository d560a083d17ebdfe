"""Answer token-id prompts with a model in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from trainer.errors import HardwareError
from trainer.scoring.generation import continuous_batching, kv_cache, shared_prefix
from trainer.scoring.generation.continuation import Continue, Ends, way_of
from trainer.scoring.generation.decoding import Decoding, DecodingRow, Loop, choose
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.question import Answer, Timing
from trainer.tokens.reasoning import AnswerForm, split_tokens

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnAnswer = Callable[[int, Answer], None]
"""Called with the index of the prompt and its answer, in no order."""
Engine = Literal["auto", "transformers", "continuous"]

MAX_BATCH = 128
CPU_BATCH = 64
"""Measured for 135M weights on one core: a step takes 0.18 s with 32 rows and 0.29 s with 64."""
CPU_BATCH_TOKENS = 16_384
"""Tokens of a batch on the CPU, prompts and answers: activations of the prompts stay below some GB."""
FREE_MEMORY_SHARE = 0.5
"""Of the card's free memory, for keys and values; activations and the logits of long prompts take the rest."""


class LocalModel:
    """Answers token-id prompts with one model: greedy or seeded sampling, in batches.

    Args:
        model: Causal language model in evaluation mode, with or without adapters.
        tokenizer: Decodes answers.
        stop_ids: Tokens that end an answer; they are not part of it.
        max_new_tokens: Longest answer.
        sampling: None is greedy.
        batch_size: Rows computed together; auto goes by memory.
        engine: `transformers` decodes here; `continuous` is the paged batching of transformers (greedy only);
            auto takes it on CUDA where the model can be batched so, and decodes here if it fails.
        form: Splits reasoning from content in answers; None leaves them as they are.
        say: Called with a sentence if `continuous` failed, or where the model's own `generate` cannot be used.

    Raises:
        HardwareError: `continuous` is asked for, and cannot be.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        sampling: NucleusSampling | None = None,
        batch_size: int | Literal["auto"] = "auto",
        engine: Engine = "auto",
        form: AnswerForm | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.batch_size = batch_size
        self.decoding = Decoding(frozenset(stop_ids), max_new_tokens, sampling)
        pad_id = tokenizer.pad_token_id
        # the mask hides padding, so any token does
        self.pad_id = min(stop_ids) if pad_id is None else pad_id
        self.decoder = continuous_batching.without_shell(model)
        """The model without PEFT's shell; adapters sit in its layers."""
        self.engine = engine
        self.form = form
        self.say = say
        self.is_continuous = self._settle()

    def _settle(self) -> bool:
        """Return whether to batch continuously."""
        if self.engine == "auto":
            return (
                self.sampling is None and self.device.type == "cuda" and continuous_batching.has_continuous(self.model)
            )
        if self.engine == "continuous" and self.sampling is not None:
            raise HardwareError(
                "continuous batching cannot sample reproducibly: its draws depend on the batch",
                hint="leave out eval.sampling, or --set eval.engine=transformers",
            )
        if self.engine == "continuous" and not continuous_batching.has_continuous(self.model):
            raise HardwareError(
                f"{type(self.decoder).__name__} cannot be batched continuously", hint="--set eval.engine=transformers"
            )
        return self.engine == "continuous"

    @property
    def device(self) -> torch.device:
        """Where prompts are put."""
        return next(self.model.parameters()).device

    def answers(
        self, prompts: Sequence[list[int]], *, on_answer: OnAnswer = lambda index, answer: None
    ) -> list[Answer]:
        """Answer all prompts.

        Args:
            prompts: Token ids, at least one each.
            on_answer: Called with (index of the prompt, answer) as soon as an answer has ended; in no order.

        Raises:
            HardwareError: One row alone does not fit into the card's memory.
        """
        answers: dict[int, Answer] = {}

        def end(row: DecodingRow) -> None:
            answers[row.index] = self._answer(row)
            on_answer(row.index, answers[row.index])

        if self.is_continuous:
            self._continuous(prompts, end)
        if len(answers) < len(prompts):
            for shared, indices in self._groups(prompts):
                self._group([DecodingRow(index, prompts[index]) for index in indices], shared, end)
        return [answers[index] for index in range(len(prompts))]

    def _continuous(self, prompts: Sequence[list[int]], end: Callable[[DecodingRow], None]) -> None:
        """Answer all prompts, or none where the engine was not asked for by name and fails."""
        try:
            for row in continuous_batching.continuous(self.model, prompts, self.decoding, self.pad_id):
                end(row)
        except HardwareError as error:
            if self.engine != "auto":
                raise
            self.is_continuous = False
            self.say(f"{error.message}; going on in batches of its own loop")

    def timing(self, prompt: list[int]) -> Timing:
        """Answer one prompt alone, against the clock."""
        self._wait()
        started = time.perf_counter()
        row = self.decoding.row(0, prompt)
        moments: list[float] = []

        def mark() -> None:
            self._wait()
            moments.append(time.perf_counter() - started)

        self._decode([row], prefix=[], batch_size=1, on_end=lambda _: None, on_token=mark)
        self._wait()
        return Timing(moments[0], time.perf_counter() - started, len(row.tokens))

    def answers_at(self, prompts: Sequence[list[int]], concurrency: int) -> list[Answer]:
        """Answer all prompts, at most `concurrency` rows at a time: only the loop keeps to that."""
        before = self.batch_size, self.is_continuous
        self.batch_size, self.is_continuous = concurrency, False
        try:
            return LocalModel.answers(self, prompts)
        finally:
            self.batch_size, self.is_continuous = before

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _answer(self, row: DecodingRow) -> Answer:
        text = str(self.tokenizer.decode(row.tokens, skip_special_tokens=True))
        answer = Answer(text, len(row.tokens), row.finished, prompt_tokens=len(row.prompt))
        parts = split_tokens(self.form, self.tokenizer, row.prompt, row.tokens) if self.form else None
        return answer if parts is None else replace(answer, content=parts.content, reasoning=parts.reasoning)

    def _groups(self, prompts: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
        """Return (shared beginning, indices, longest first) of rows that may be computed together."""
        widest = kv_cache.max_shared_width(self.decoder)
        if not prompts:
            return []
        # longest first: memory runs out at once or never
        if widest is None or widest < max(map(len, prompts)) + self.max_new_tokens:
            return [(0, sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))]
        return shared_prefix.groups(prompts)

    def _group(self, rows: Sequence[DecodingRow], shared: int, end: Callable[[DecodingRow], None]) -> None:
        """Decode a group; when memory runs out, rows that have not ended start again in batches of half the size."""
        batch_size = self._batch_size(len(rows[0].prompt) + self.max_new_tokens)
        ended: set[int] = set()

        def on_end(row: DecodingRow) -> None:
            ended.add(row.index)
            end(row)

        # rows start again from their prompt: their draws depend on seed and prompt alone, so answers stay the same
        while waiting := [self.decoding.row(row.index, row.prompt) for row in rows if row.index not in ended]:
            prompt = waiting[0].prompt
            try:
                self._decode(waiting, prefix=prompt[:shared], batch_size=batch_size, on_end=on_end)
            except torch.OutOfMemoryError as error:
                if batch_size == 1:
                    raise HardwareError(
                        f"a prompt of {len(prompt)} tokens and an answer of up to {self.max_new_tokens} "
                        f"do not fit into the memory of {self.device}",
                        hint="--set eval.max_new_tokens=N with a smaller N, or shorter rows",
                    ) from error
                batch_size = max(1, batch_size // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _decode(
        self,
        rows: Sequence[DecodingRow],
        *,
        prefix: list[int],
        batch_size: int,
        on_end: Callable[[DecodingRow], None],
        on_token: Callable[[], None] = lambda: None,
    ) -> None:
        if kv_cache.max_shared_width(self.decoder) is not None:
            loop = Loop(self.decoder, self.decoding, prefix=prefix, pad_id=self.pad_id, on_token=on_token)
            loop.run(rows, batch_size, on_end)
            return
        for start in range(0, len(rows), batch_size):
            for row in self._continued(rows[start : start + batch_size], on_token):
                on_end(row)

    def _continued(self, rows: Sequence[DecodingRow], on_token: Callable[[], None]) -> Iterator[DecodingRow]:
        """Answer with the model's own `generate`, whatever its cache is like, or by whole rows."""

        def chosen(logits: torch.Tensor, step: int) -> torch.Tensor:
            drawn = [row.uniforms[step] for row in rows] if self.sampling else []
            tokens = choose(logits, self.sampling, drawn)
            on_token()
            return tokens

        ends = Ends(list(self.decoding.stop_ids), self.max_new_tokens, self.pad_id)
        answers = self._way(self.model, [row.prompt for row in rows], chosen, ends)
        for row, tokens in zip(rows, answers, strict=True):
            next((token for token in tokens if self.decoding.take(row, token)), None)
            yield row

    @cached_property
    def _way(self) -> Continue:
        way, reason = way_of(self.model)
        if reason is not None:
            self.say(f"each token computes its whole row again, which is slow: {reason}")
        return way

    def _batch_size(self, width: int) -> int:
        if self.batch_size != "auto":
            return self.batch_size
        if self.device.type != "cuda":
            return max(1, min(CPU_BATCH, CPU_BATCH_TOKENS // width))
        free, _ = torch.cuda.mem_get_info(self.device)
        # rows whose keys and values fit in half of the free memory
        return max(1, min(MAX_BATCH, int(free * FREE_MEMORY_SHARE) // (width * _bytes_per_token(self.decoder))))


def _bytes_per_token(model: PreTrainedModel) -> int:
    """Return the size of a token's keys and values, twice: an exchange of rows copies them."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # keys and values; the cache and its copy
    return 2 * 2 * int(config.num_hidden_layers * heads * head_dim) * next(model.parameters()).element_size()
