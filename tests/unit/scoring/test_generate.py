"""Batched answers are those of the model's own generate, row by row, whatever the batch does meanwhile."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from trainer.errors import HardwareError
from trainer.scoring import decoding, engines, kv_cache, prefixes
from trainer.scoring.decoding import choose
from trainer.scoring.generate import LocalModel
from trainer.scoring.question import Answer
from trainer.scoring.sampling import Sampling

VOCABULARY = 61
STOP = [3, 5, 7, 11]  # a random model says one of them soon, and at another place in every row
LIMIT = 14
FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2")
ODD_FAMILIES = ("mamba", "qwen3_next")


class Letters:
    """Decodes tokens to letters."""

    pad_token_id = 0

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(48 + token) for token in tokens)


def tiny(family: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        values = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        values |= {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
    if family == "qwen3_next":
        values |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
        values |= {"shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]}
        values |= {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
        values |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(values | changes)), dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():  # far apart logits: rounding decides no token
            if weight.ndim >= 2:
                weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim == 2 else 0.1))
    model.generation_config = GenerationConfig(pad_token_id=0, repetition_penalty=1.3)
    return model


def prompts(count: int, *, shared: int = 0, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    beginning = [draw.randrange(20, VOCABULARY) for _ in range(shared)]
    return [
        beginning + [draw.randrange(20, VOCABULARY) for _ in range(draw.randrange(1, 24))] for _ in range(count)
    ]


def alone(model: Any, prompt: list[int]) -> list[int]:
    """Answer one prompt as transformers does, without padding."""
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
        max_new_tokens=LIMIT,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=STOP,
        pad_token_id=0,
    )
    return output[0, len(prompt) :].tolist()


def local(model: Any, **settings: Any) -> LocalModel:
    return LocalModel(model, Letters(), stop_ids=STOP, max_new_tokens=LIMIT, **settings)


def check_exact(model: Any, asked: list[list[int]], answers: list[Answer]) -> None:
    for prompt, answer in zip(asked, answers, strict=True):
        expected = alone(model, prompt)
        stopped = expected[-1] in STOP
        kept = expected[:-1] if stopped else expected
        assert answer.text == Letters().decode(kept, True)
        assert (answer.num_tokens, answer.finished, answer.prompt_tokens) == (len(kept), stopped, len(prompt))


@pytest.mark.parametrize("family", [*FAMILIES, *ODD_FAMILIES])
@pytest.mark.parametrize("shared", [0, 40])
def test_batched_answers_are_those_of_each_row_alone(family: str, shared: int) -> None:
    model, asked = tiny(family), prompts(13, shared=shared)
    told: dict[int, Answer] = {}
    answers = local(model, batch_size=4).answers(asked, on_answer=told.__setitem__)
    check_exact(model, asked, answers)
    assert [told[place] for place in range(13)] == answers
    lengths = {answer.num_tokens for answer in answers}
    assert len(lengths) > 2 and {answer.finished for answer in answers} == {True, False}  # rows end apart
