"""Engines that do their own batching: transformers' paged attention, and vLLM where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from trainer.errors import HardwareError
from trainer.scoring.decoding import Decoding, Row
from trainer.scoring.question import Answer
from trainer.scoring.sampling import Sampling


def has_continuous(model: Any) -> bool:
    """Tell whether this release of transformers batches this model with paged attention."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return hasattr(base, "generate_batch") and bool(getattr(base, "_supports_sdpa", False)) and not base._is_stateful


def continuous(model: Any, prompts: Sequence[list[int]], decoding: Decoding, pad_id: int) -> Iterator[Row]:
    """Answer greedily with `generate_batch`.

    Raises:
        HardwareError: Some prompts were not answered.
    """
    if not prompts:
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(decoding.stop_ids),
        pad_token_id=pad_id,
    )
    outputs = list(base.generate_batch([list(prompt) for prompt in prompts], generation_config=settings).values())
    failed = [output.error for output in outputs if output.error is not None]
    if failed or len(outputs) != len(prompts):
        reason = failed[0] if failed else f"{len(outputs)} of {len(prompts)} prompts were answered"
        raise HardwareError(
            f"continuous batching failed: {reason}", hint="use the engine `transformers`, and report this"
        )
    for place, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        row = decoding.row(place, prompt)
        next((token for token in output.generated_tokens if decoding.take(row, token)), None)
        yield row


class VllmModel:
    """Answers token-id prompts with vLLM, in place of `LocalModel`.

    Args:
        folder: Folder or hub id of the model.
        adapter: Folder of a LoRA adapter, or None.
        max_lora_rank: Its rank.
        stop_ids: Tokens that end an answer.
        max_new_tokens: Longest answer.
        sampling: None is greedy.
        dtype: As vLLM names it.
        num_devices: Cards that the model is spread over.

    Raises:
        HardwareError: vLLM is not installed.

    Source: https://docs.vllm.ai/en/latest/api/vllm/ (LLM, SamplingParams, LoRARequest).
    """

    def __init__(
        self,
        folder: str,
        *,
        adapter: Path | None = None,
        max_lora_rank: int = 16,
        stop_ids: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        dtype: str = "auto",
        num_devices: int = 1,
    ) -> None:
        self.vllm = _vllm()
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.stop_ids = sorted(set(stop_ids))
        self.request = None
        lora: dict[str, Any] = {}
        if adapter is not None:
            request = importlib.import_module("vllm.lora.request").LoRARequest
            self.request = request("adapter", 1, str(adapter))
            lora = {"enable_lora": True, "max_lora_rank": max_lora_rank}
        self.engine = self.vllm.LLM(model=folder, dtype=dtype, tensor_parallel_size=num_devices, **lora)

    def answers(
        self, prompts: Sequence[list[int]], *, on_answer: Callable[[int, Answer], None] = lambda index, answer: None
    ) -> list[Answer]:
        """Answer all prompts; vLLM shares prefixes and fills batches itself."""
        outputs = self.engine.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [self._parameters(prompt) for prompt in prompts],
            lora_request=self.request,
            use_tqdm=False,
        )
        found = [self._answer(output) for output in outputs]
        for place, answer in enumerate(found):
            on_answer(place, answer)
        return found

    def _parameters(self, prompt: Sequence[int]) -> Any:
        drawn = self.sampling
        chosen = (
            {"temperature": 0.0}
            if drawn is None
            else {"temperature": drawn.temperature, "top_p": drawn.top_p, "seed": drawn.row_seed(prompt)}
        )
        return self.vllm.SamplingParams(
            max_tokens=self.max_new_tokens, stop_token_ids=self.stop_ids, skip_special_tokens=True, **chosen
        )

    def _answer(self, output: Any) -> Answer:
        said = output.outputs[0]
        tokens = [token for token in said.token_ids if token not in self.stop_ids]
        return Answer(said.text, len(tokens), said.finish_reason == "stop", prompt_tokens=len(output.prompt_token_ids))


def has_vllm() -> bool:
    """Tell whether vLLM is installed."""
    return importlib.util.find_spec("vllm") is not None


def _vllm() -> Any:
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise HardwareError(
            f"vLLM cannot be imported: {error}",
            hint="it pins other releases of torch and transformers: serve with it in an environment of its own, "
            "and name its address as an endpoint arm",
        ) from error
