"""Random models, a byte-level tokenizer and seeded rows; nothing is downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

TEMPLATE_PATH = Path(__file__).parents[2] / "recipes" / "templates" / "chatml-tools.jinja"
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")

SHAPES: dict[tuple[str, str], dict[str, int]] = {
    ("correctness", "real"): {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8}
    | {"num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 4096},
    ("methods", "real"): {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000},
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 320}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of 256 bytes and five special tokens, without any merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "</s>"],
        chat_template=TEMPLATE_PATH.read_text(),
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def make_model(folder: Path, part: str, size: str) -> Path:
    """Write a random Llama in bfloat16 and its tokenizer."""
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        **SHAPES.get((part, size), TINY),
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


def _answers(count: int, length: int) -> Iterator[tuple[str, str, str]]:
    """Yield (question, right answer, wrong answer of the same length), each question another."""
    generator = random.Random(0)
    for start in generator.sample(range(100, 1000), count):
        step = generator.randint(2, 9)
        right = " ".join(str(start + step * index) for index in range(length))[:length]
        wrong = "".join(generator.choice("abcdefgh ") for _ in right)
        yield f"Count from {start} in steps of {step}.", right, wrong


def write_rows(path: Path, *, count: int, length: int, is_pairs: bool) -> Path:
    """Write sft or preference rows whose answers have `length` tokens."""
    lines = []
    for question, right, wrong in _answers(count, length):
        prompt = [{"role": "user", "content": question}]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (right, wrong))
        pair: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        lines.append(json.dumps(pair if is_pairs else {"messages": prompt + chosen}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
