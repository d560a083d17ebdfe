"""Answer by the continuous batching of transformers: paged attention, rows that come and go at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from transformers import ContinuousBatchingConfig, GenerationConfig

from trainer.errors import HardwareError
from trainer.scoring.generation.decoding import Decoding, DecodingRow

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def has_continuous(model: PreTrainedModel | PeftModel) -> bool:
    """Tell whether this model can be batched so: it is of transformers, keeps no state but keys, and is on one card."""
    base = without_shell(model)
    devices = set((getattr(base, "hf_device_map", None) or {}).values())
    able = hasattr(base, "generate_batch") and bool(getattr(base, "_supports_sdpa", False)) and not base._is_stateful
    return able and len(devices) <= 1


def continuous(
    model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]], decoding: Decoding, pad_id: int
) -> Iterator[DecodingRow]:
    """Answer greedily with `generate_batch`; yield the rows when all of them have ended.

    Raises:
        HardwareError: Some prompts were not answered.
    """
    if not prompts:
        return
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(decoding.stop_ids),
        pad_token_id=pad_id,
    )
    # otherwise it may fetch an attention kernel from the hub
    batching = ContinuousBatchingConfig(auto_switch_to_flash=False)
    try:
        results = without_shell(model).generate_batch(
            [list(prompt) for prompt in prompts], generation_config=settings, continuous_batching_config=batching
        )
    except Exception as error:  # whatever goes wrong inside, our own loop may still do
        raise _failed(f"{type(error).__name__}: {error}") from error
    outputs = list(results.values())
    errors = [output.error for output in outputs if output.error is not None]
    # it may return fewer rows than prompts, with no exception
    if errors or len(outputs) != len(prompts):
        raise _failed(errors[0] if errors else f"{len(outputs)} of {len(prompts)} prompts were answered")
    for index, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        row = decoding.row(index, prompt)
        # take tokens one by one until one of them ends the row, as the loop of `decoding` does
        next((token for token in output.generated_tokens if decoding.take(row, token)), None)
        yield row


def without_shell(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the model without PEFT's shell; adapters sit in its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _failed(reason: str) -> HardwareError:
    return HardwareError(f"continuous batching failed: {reason}", hint="--set eval.engine=transformers")
