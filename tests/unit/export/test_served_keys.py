"""An adapter whose keys a server would skip is a failed export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.zoo import models
from trainer.export.served_keys import unserved_keys
from trainer.model.adapter import attach
from trainer.recipe.model import LoraAdapter


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.make_tokenizer()


@pytest.mark.parametrize("model_type", ["gemma3", "mixtral", "gpt_oss", "qwen3_vl", "llama4"])
def test_keys_of_our_adapters_name_layers_of_the_served_class(model_type: str, tmp_path: Path, tokenizer: Any) -> None:
    base = models.write(model_type, tmp_path / "base", tokenizer)
    adapter = LoraAdapter.model_validate({"kind": "lora", "r": 2, "alpha": 4, "modules_to_save": ["lm_head"]})
    attach(models.make(model_type, tokenizer), adapter).save_pretrained(tmp_path / "adapter")
    assert unserved_keys(tmp_path / "adapter", base) == []


def test_keys_of_the_text_class_are_no_keys_of_the_whole_model(tmp_path: Path, tokenizer: Any) -> None:
    base = models.write("gemma3", tmp_path / "base", tokenizer)
    adapter = LoraAdapter.model_validate({"kind": "lora", "r": 2, "alpha": 4})
    attach(models.make("gemma3_text", tokenizer), adapter).save_pretrained(tmp_path / "adapter")
    (finding,) = unserved_keys(tmp_path / "adapter", base)
    assert "28 keys name no layer of Gemma3ForConditionalGeneration" in finding
