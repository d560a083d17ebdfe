"""The tiny assets that other tests stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from trainer.recipe import load_recipe


def test_the_tiny_model_loads_and_ends_where_its_tokenizer_says(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == len(tiny_tokenizer) == 600
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<pad>"
    assert tokenizer.chat_template == tiny.TEMPLATE_PATH.read_text()
    text = 'a {"b": "ü€😀"}\n    x'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tiny_recipe_is_a_valid_recipe(tmp_path: Path, tiny_model_dir: Path) -> None:
    recipe = load_recipe(tiny.write_recipe(tmp_path, model=tiny_model_dir, train={"max_steps": 2}))
    assert (recipe.train.max_steps, recipe.train.learning_rate, recipe.pack.max_length) == (2, 1e-3, 256)
    assert recipe.model.name_or_path == str(tiny_model_dir)
    assert recipe.data.sources[0].path == str(tmp_path / "rows.jsonl")
    assert load_recipe(tiny.write_recipe(tmp_path, method={"kind": "dpo"})).method.kind == "dpo"
