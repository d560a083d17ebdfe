"""Make tiny bases with transformers 4, and open their exports; older_transformers.sh runs it.

Knows nothing of this project: it is what a server does that has an older transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
ENDS = {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<pad>", "unk_token": "<unk>"}
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "LlamaTokenizerFast": ("Llama", "LlamaTokenizerFast", {"rope_theta": 500_000.0}),
    "PreTrainedTokenizerFast": (
        "Llama",
        "PreTrainedTokenizerFast",
        {"rope_theta": 1e6, "rope_scaling": ROPE | {"original_max_position_embeddings": 64}},
    ),
    "Qwen2Tokenizer": ("Qwen2", "Qwen2TokenizerFast", {"rope_theta": 1e6}),
    "GPT2Tokenizer": ("Llama", "GPT2TokenizerFast", {"rope_theta": 20_000.0}),
}
"""Name of the base -> model, tokenizer, settings that differ from every default."""
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text into words. Source: tokenizer.json of Qwen/Qwen2.5-0.5B."""
MAX_LOGIT_DIFF = 1e-4
"""Two releases of one model in float32 on the CPU."""


# Making


def make(folder: Path) -> None:
    """Write every base as this transformers writes it."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    template = (folder / "template.jinja").read_text()
    texts = [turn["content"] for row in rows for turn in row["messages"]] + [template]
    for name, (model, kind, settings) in BASES.items():
        tokenizer = make_tokenizer(kind, texts)
        tokenizer.chat_template = template
        # Files of 2024 hold the template in tokenizer_config.json, those of 2025 beside it.
        tokenizer.save_pretrained(folder / "bases" / name, save_jinja_files=name != "Qwen2Tokenizer")
        make_model(model, tokenizer, settings).save_pretrained(folder / "bases" / name)


def make_tokenizer(kind: str, texts: list[str]) -> Any:
    """Return a tokenizer of a class: sentencepiece's form for Llama, bytes for all others."""
    is_pieces = kind.startswith("Llama")
    tokenizer = Tokenizer(
        models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True) if is_pieces else models.BPE()
    )
    if is_pieces:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "Qwen2TokenizerFast":
            cut = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
            complete = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, complete])
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)] if is_pieces else []
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=SPECIAL + alphabet,
            initial_alphabet=[] if is_pieces else pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return getattr(transformers, kind)(
        tokenizer_object=tokenizer, additional_special_tokens=["<|im_start|>"], model_max_length=512, **ENDS
    )


def make_model(kind: str, tokenizer: Any, settings: dict[str, Any]) -> Any:
    """Return a random model whose answers differ from word to word."""
    torch.manual_seed(0)
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **SIZES, **HEADS, **ends, **settings)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).to(torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    model.generation_config = transformers.GenerationConfig(**ends)
    return model


# Reading


def read(folder: Path) -> int:
    """Open every export and compare it with what this project found in it; return 1 where one differs."""
    print(f"transformers {transformers.__version__}, torch {torch.__version__}\n")
    print("| base | export | opens | token ids | largest difference of logits | answers | files of the tokenizer |")
    print("|---|---|---|---|--:|---|---|")
    is_right = True
    for case in json.loads((folder / "cases.json").read_text()):
        cells, passed = compared(case)
        is_right &= passed
        print(f"| {case['base_name']} | {case['export_name']} | {' | '.join(cells)} |", flush=True)
    return 0 if is_right else 1


def compared(case: dict[str, Any]) -> tuple[list[str], bool]:
    """Return the cells of a row of the table, and whether all of it is right."""
    if "refusal" in case:
        return [f"no export: {case['refusal'][:160]}", "", "", "", ""], False
    files = file_cell(case)
    try:
        tokenizer = AutoTokenizer.from_pretrained(case["export"])
    except Exception as error:  # whatever an older release makes of newer files
        return [f"no: {type(error).__name__}: {first_line(error)}", "", "", "", files], False
    same = sum(ids_of(tokenizer, row) == row["ids"] for row in case["rows"])
    try:
        model = opened(case)
    except Exception as error:  # see above
        return [
            f"no: {type(error).__name__}: {first_line(error)}",
            f"{same} of {len(case['rows'])}",
            "",
            "",
            files,
        ], False
    expected = np.load(case["logits"])
    differences, answers = [], 0
    with torch.no_grad():
        for index, row in enumerate(case["rows"]):
            ids = torch.tensor([row["ids"]["row"]])
            differences.append(
                float((model(input_ids=ids).logits[0] - torch.from_numpy(expected[str(index)])).abs().max())
            )
            prompt = torch.tensor([row["ids"]["prompt"]])
            output = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=8
            )
            answers += output[0, prompt.shape[1] :].tolist() == row["answer"]
    largest, count = max(differences), len(case["rows"])
    cells = ["yes", f"{same} of {count}", f"{largest:.1e}", f"{answers} of {count}", files]
    return cells, same == answers == count and largest <= MAX_LOGIT_DIFF and not files.startswith("other")


def ids_of(tokenizer: Any, row: dict[str, Any]) -> dict[str, list[int]]:
    """Return the ids of a row, of its prompt, and of its first text alone, as a client's completion sends it."""
    render = tokenizer.apply_chat_template
    return {
        "row": list(render(row["messages"])),
        "prompt": list(render(row["messages"][:-1], add_generation_prompt=True)),
        "text": list(tokenizer(row["messages"][0]["content"])["input_ids"]),
    }


def opened(case: dict[str, Any]) -> Any:
    """Return the model: merged alone, the adapter on its base, with the type that the files name."""
    if case["kind"] == "adapter":
        base = AutoModelForCausalLM.from_pretrained(case["base"], dtype="auto")
        return PeftModel.from_pretrained(base, case["export"]).eval()
    model = AutoModelForCausalLM.from_pretrained(case["export"], dtype="auto").eval()
    assert str(model.dtype) == f"torch.{case['dtype']}", f"{model.dtype}, exported as {case['dtype']}"
    return model.float()


def file_cell(case: dict[str, Any]) -> str:
    """Say which files of the base's tokenizer are byte for byte in the export."""
    names = case["tokenizer_files"]
    differing = [
        name
        for name in names
        if not (Path(case["export"]) / name).is_file()
        or (Path(case["export"]) / name).read_bytes() != (Path(case["base"]) / name).read_bytes()
    ]
    if not differing:
        return f"{len(names)} as in the base"
    return f"{'rewritten' if set(differing) <= set(case['may_differ']) else 'other'}: {', '.join(differing)}"


def first_line(error: Exception) -> str:
    """Return what an error says, shortly."""
    return (str(error).strip().splitlines() or ["no reason given"])[0][:90]


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    verb, place = sys.argv[1], Path(sys.argv[2])
    sys.exit(make(place) if verb == "make" else read(place))
