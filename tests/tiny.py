"""Make tiny offline assets: tokenizer, model, rows, recipes. Everything is seeded; only the model imports torch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
TEMPLATE_PATH = ROOT / "recipes" / "templates" / "chatml-tools.jinja"
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
THINKING_TEMPLATE = (  # as in Qwen3: each answer has reasoning; it may be empty
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% set parts = m.content.split('</think>') %}{% set answer = parts[-1].lstrip() %}"
    "{% set thought = m.reasoning_content or parts[:-1] | join | replace('<think>', '') | trim %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' + answer }}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COLOURS = ("red", "blue", "green", "white", "black", "brown")
ANIMALS = ("horse", "rabbit", "parrot", "salmon", "beetle", "badger", "falcon", "lizard")


def make_tokenizer(*, trim_offsets: bool = False) -> Any:
    """Train a byte-level BPE tokenizer of about 600 tokens; `trim_offsets`: as in GPT-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    text = [message["content"] for row in rows(48) for message in row["messages"]]
    code = ["def area(width, height):\n    return width * height\n        # eight spaces\n"]
    prose = ["The quick brown fox jumps over the lazy dog, and then it looks up the weather in a small town."]
    tokenizer.train_from_iterator([*text, *code, *prose, TEMPLATE_PATH.read_text()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "</s>"],
        chat_template=TEMPLATE_PATH.read_text(),
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def make_model(folder: Path, tokenizer: Any) -> Path:
    """Write a random Llama of two layers (hidden 64, tied embeddings, float32) and the tokenizer."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        **ends,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, **ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(count: int = 24, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of a small task with JSON answers; all prompts differ (48 at most)."""
    pairs = [(colour, animal) for colour in COLOURS for animal in ANIMALS]
    assert count <= len(pairs)
    chosen = random.Random(seed).sample(pairs, count)
    return [
        {
            "messages": [
                {"role": "user", "content": f"Describe a {colour} {animal} as JSON."},
                {"role": "assistant", "content": json.dumps({"animal": animal, "colour": colour})},
            ]
        }
        for colour, animal in chosen
    ]


def preference_rows(count: int = 24, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return preference rows of the same task: the rejected answer is no JSON."""
    pairs = []
    for row in rows(count, seed=seed):
        question, answer = row["messages"]
        wrong = {"role": "assistant", "content": "It is " + question["content"].removeprefix("Describe ")}
        pairs.append({"prompt": [question], "chosen": [answer], "rejected": [wrong]})
    return pairs


def write_rows(path: Path, lines: list[dict[str, Any]]) -> Path:
    """Write a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_preference_rows(path: Path, count: int = 24) -> Path:
    """Write a JSONL file of preference rows."""
    return write_rows(path, preference_rows(count))


def recipe_values(model: Path | str | dict[str, Any], rows_path: Path | str, **changes: Any) -> dict[str, Any]:
    """Return the values of a tiny sft recipe; `changes` are merged over it, and None removes a key."""
    values: dict[str, Any] = {
        "recipe_version": 1,
        "name": "tiny",
        "model": model if isinstance(model, dict) else {"name_or_path": str(model)},
        "adapter": {"kind": "lora", "r": 4},
        "data": {"sources": [{"path": str(rows_path)}]},
        "pack": {"max_length": 256},
        "train": {"max_steps": 4, "global_batch_size": 4, "learning_rate": 1e-3},
        "eval": {"max_rows": 4, "latency_rows": 1},
    }
    return _merged(values, changes)


def write_recipe(folder: Path, *, model: Path | str | dict[str, Any] = "tiny-model", **changes: Any) -> Path:
    """Write `folder/recipe.yaml` of a tiny sft run, and its 24 rows in `folder/rows.jsonl`.

    Args:
        folder: Created if missing.
        model: `tiny_model_dir`, or a whole `model` section.
        changes: Sections merged over the recipe's, such as `train={"max_steps": 2}`; None removes a key.
            With `method={"kind": "dpo"}` the rows are pairs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_pairs = changes.get("method", {}).get("kind", "sft") != "sft"
    write_rows(folder / "rows.jsonl", preference_rows() if is_pairs else rows())
    path = folder / "recipe.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(recipe_values(model, "rows.jsonl", **changes), file)
    return path


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    values = below | {name: _merged(below.get(name), value) for name, value in above.items()}
    return {name: value for name, value in values.items() if value is not None}
