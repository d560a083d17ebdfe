"""Make random models, a byte-level tokenizer and seeded rows; nothing is downloaded."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

TEMPLATE_PATH = Path(__file__).parents[2] / "recipes" / "templates" / "chatml-tools.jinja"
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
TINY = (64, 128, 2, 4, 2, 320)
SHAPES = {"correctness": (1024, 2816, 8, 16, 4, 4096), "methods": (2048, 8192, 16, 32, 8, 32000)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of 256 bytes and five special tokens, without any merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: index for index, token in enumerate(SPECIAL_TOKENS + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
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
    shape = dict(zip((*SHAPE, "vocab_size"), SHAPES[part] if size == "real" else TINY, strict=True))
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = LlamaConfig(**shape, **ends, max_position_embeddings=4096)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


def write_rows(path: Path, *, count: int, length: int, is_pairs: bool = False) -> Path:
    """Write sft or preference rows whose answers have `length` tokens, each question another (900 at most)."""
    generator = random.Random(0)
    lines = []
    for start in generator.sample(range(100, 1000), count):
        right = " ".join(str(start + index) for index in range(length))[:length]
        wrong = "".join(generator.choice("abcdefgh ") for _ in right)
        prompt = [{"role": "user", "content": f"Count from {start}."}]
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (right, wrong))
        pair = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        lines.append(json.dumps(pair if is_pairs else {"messages": prompt + chosen}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
