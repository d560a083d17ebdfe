"""A checkpoint is loaded by the class that holds all its weights."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, ViTConfig

from tests import tiny
from tests.zoo import models
from trainer.errors import HardwareError
from trainer.model.classes import auto_class


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llama", AutoModelForCausalLM),
        ("gemma3_text", AutoModelForCausalLM),
        ("mistral3", AutoModelForImageTextToText),
        ("qwen3_vl", AutoModelForImageTextToText),
        ("llama4", AutoModelForImageTextToText),
        ("llama4_text", AutoModelForCausalLM),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_class_is_chosen_by_the_configuration(model_type: str, expected: Any) -> None:
    model = models.make(model_type, tiny.make_tokenizer(), device="meta")
    model.config.architectures = [type(model).__name__]  # as save_pretrained writes it
    assert auto_class(model.config) is expected


def test_a_model_that_writes_no_text_is_refused() -> None:
    with pytest.raises(HardwareError, match="generates text"):
        auto_class(ViTConfig())
