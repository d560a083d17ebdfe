"""Write the folder from which every engine of a comparison starts: model, tokenizer, recipes and packed rows.

    model/            random weights and the tokenizer, as from the hub
    check/, timed/    recipe.yaml, rows.jsonl, and run/ with what `trainer pack` wrote from them

All engines read the token ids of `run/pack/train.safetensors`; ours reads its packs as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.errors import DataError
from trainer.pipeline import Pipeline
from trainer.recipe import load_recipe
from trainer.rundir import RunFolder
from trainer.verbs.bench.rows import Row, Words, random_rows, read_rows, texts
from trainer.verbs.bench.shapes import (
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_RANK,
    MAX_LENGTH,
    SEED,
    SHAPES,
    BenchKind,
    LlamaShape,
    Size,
)

PARTS = ("check", "timed")
BPE_TOKENS = 8192
BPE_TEXTS = 2000
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|user|>{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class ComparisonRequest:
    """What a comparison is made of."""

    kind: BenchKind
    shape: str
    size: Size
    rows_path: str | None


def prepare(folder: Path, request: ComparisonRequest) -> dict[str, Any]:
    """Write the folder.

    Args:
        folder: Empty.
        request: Kind, shape and size of the comparison.

    Returns:
        Facts about the rows, for the result.

    Raises:
        DataError: The file of rows cannot be used, or has too few of them.
    """
    given_rows = read_rows(Path(request.rows_path), request.kind) if request.rows_path else None
    rows = given_rows or random_rows(request.kind, request.size.rows, seed=SEED)
    tokenizer = _tokenizer(given_rows)
    write_model(folder / "model", tokenizer, SHAPES[request.shape])
    fitting = _fitting(rows, tokenizer, request)
    for part, count in (("check", request.size.check_rows), ("timed", request.size.rows)):
        _pack(folder / part, folder / "model", request.kind, fitting[:count])
    return {"rows": Path(request.rows_path).name if request.rows_path else "random words"}


def _tokenizer(given_rows: list[Row] | None) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE, on the rows themselves where they are real text."""
    words = Words(SEED)
    sample = texts(given_rows) if given_rows else [words.text(60, 60) for _ in range(BPE_TEXTS)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        sample,
        trainers.BpeTrainer(
            vocab_size=BPE_TOKENS, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, shape: LlamaShape) -> None:
    """Write seeded random weights (float32 on the CPU, bfloat16 for a card) and the tokenizer."""
    torch.manual_seed(SEED)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    on_cuda = torch.cuda.is_available()
    with torch.device("cuda" if on_cuda else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**shape.config(**ids)))
    model.to(torch.bfloat16 if on_cuda else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _fitting(rows: list[Row], tokenizer: PreTrainedTokenizerFast, request: ComparisonRequest) -> list[Row]:
    """Return as many rows as are asked for, without those that some engine would cut.

    Raises:
        DataError: There are too few.
    """
    fitting = [row for row in rows if all(len(ids) <= MAX_LENGTH for ids in _rendered(row, tokenizer))]
    if len(fitting) < request.size.rows:
        raise DataError(
            f"{len(fitting)} of {len(rows)} rows have at most {MAX_LENGTH} tokens, {request.size.rows} are needed",
            hint="give more rows, or --quick, which needs fewer",
        )
    return fitting[: request.size.rows]


def _rendered(row: Row, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    conversations = [row["messages"]] if "messages" in row else [row["prompt"] + row[s] for s in ("chosen", "rejected")]
    for turns in conversations:
        yield tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)


def _pack(folder: Path, model: Path, kind: BenchKind, rows: list[Row]) -> None:
    """Write a recipe and its rows, and run `data` and `pack` on them as a user would."""
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    path = folder / "recipe.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(_recipe(model, kind), file)
    pipeline = Pipeline(load_recipe(path), RunFolder(folder / "run"), recipe_path=path, say=lambda _: None)
    with pipeline.run.locked():
        pipeline.open("run")
        for stage in ("data", "pack"):
            pipeline.run_one(stage)


def _recipe(model: Path, kind: BenchKind) -> dict[str, Any]:
    values: dict[str, Any] = {
        "recipe_version": 1,
        "name": "bench",
        "seed": SEED,
        "model": {"name_or_path": str(model)},
        "adapter": {"kind": "lora", "r": LORA_RANK, "alpha": float(LORA_ALPHA)},
        "data": {
            "sources": [{"path": "rows.jsonl"}],
            "dedupe": {"exact": False},
            "split": {"heldout": 0.0, "validation": 0.0},
        },
        "pack": {"max_length": MAX_LENGTH},
        "method": {"kind": kind},
        "train": {
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0.0,
            "weight_decay": 0.0,
            "num_train_epochs": 1.0,
        },
    }
    if kind == "sft":
        values["pack"]["packing"] = True  # auto packs from 1,000 rows on, and a comparison has fewer
    return values
