"""Answers of models whose own `generate` cannot be used, or cannot be used on padded rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.zoo import models
from trainer.scoring.generation.continuation import Ends, argmax, generated, way_of, whole_rows
from trainer.scoring.generation.local import LocalModel

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15]]
ENDS = Ends([1], 4, 0)


def alone(model: Any, prompt: list[int]) -> list[int]:
    """Answer one prompt by plain forward passes."""
    row = list(prompt)
    for _ in range(ENDS.max_new_tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax())
        row.append(token)
        if token in ENDS.stop_ids:
            break
    return row[len(prompt) :]


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("openai-gpt", "keeps nothing"), ("xlstm", "wrong shape"), ("rwkv", "padded on the left"), ("qwen3_5_text", None)],
)
def test_models_without_a_usable_cache_answer_as_alone(
    model_type: str, reason: str | None, tiny_tokenizer: Any
) -> None:
    model = models.make(model_type, tiny_tokenizer)
    way, problem = way_of(model)
    assert (way is generated) == (problem is None) == (reason is None), problem
    if reason is not None:
        assert reason in str(problem)
    lines: list[str] = []
    local = LocalModel(
        model, tiny_tokenizer, stop_ids=ENDS.stop_ids, max_new_tokens=ENDS.max_new_tokens, say=lines.append
    )
    answers = local.answers(PROMPTS)
    expected = [[token for token in alone(model, prompt) if token not in ENDS.stop_ids] for prompt in PROMPTS]
    assert [answer.text for answer in answers] == [
        tiny_tokenizer.decode(ids, skip_special_tokens=True) for ids in expected
    ]
    assert len(lines) == (reason is not None)


def test_whole_rows_end_one_by_one(tiny_tokenizer: Any) -> None:
    model = models.make("llama", tiny_tokenizer)
    expected = [alone(model, prompt) for prompt in PROMPTS]
    ends = Ends([expected[0][1]], 4, 0)
    answers = whole_rows(model, PROMPTS, argmax, ends)
    cut = [row[: row.index(ends.stop_ids[0]) + 1] if ends.stop_ids[0] in row else row for row in expected]
    assert answers == cut and len(answers[0]) == 2
