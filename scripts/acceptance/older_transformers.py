"""Train and export on the bases of older_reader.py, and record our results for every export.

python scripts/acceptance/older_transformers.py rows FOLDER    # what the bases are made from
python scripts/acceptance/older_transformers.py run FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.model.source import TOKENIZER_FILES

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "blue", "green", "white", "black", "brown")
ANIMALS = ("horse", "rabbit", "parrot", "salmon", "beetle", "badger", "falcon", "lizard")
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, bfloat16": {"export": {"formats": ["merged"], "dtype": "bfloat16"}},
    "lora, template of the recipe": {"model": {"chat_template": "other.jinja"}},
    "full": {"adapter": {"kind": "none"}, "export": {"formats": ["merged"]}},
}
PLAN = {
    "LlamaTokenizerFast": ("lora", "full"),
    "PreTrainedTokenizerFast": ("lora", "lora, bfloat16", "full"),
    "Qwen2Tokenizer": ("lora", "lora, template of the recipe", "full"),
    "GPT2Tokenizer": ("lora", "full"),
}
NUM_ROWS = 8


def write_rows(folder: Path) -> None:
    """Write rows and template."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Answer in JSON."},
                {"role": "user", "content": f"Describe a {colour} {animal}, naïve or not — 7 words."},
                {"role": "assistant", "content": json.dumps({"animal": animal, "colour": colour})},
            ]
        }
        for colour in COLOURS
        for animal in ANIMALS
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = (ROOT / "recipes/templates/chatml-tools.jinja").read_text()
    (folder / "template.jinja").write_text(template)
    (folder / "other.jinja").write_text("{#- of the recipe #}" + template)


def recipe(base: Path, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of three steps; sections in `changes` are merged over it."""
    values: dict[str, Any] = {
        "recipe_version": 1,
        "name": name,
        "model": {"name_or_path": str(base)},
        "adapter": {"kind": "lora", "r": 4},
        "data": {"sources": [{"path": "rows.jsonl"}], "dedupe": {"near": False}, "lint": {"min_rows": 5}},
        "pack": {"max_length": 512},
        "train": {"max_steps": 3, "global_batch_size": 8, "learning_rate": 3e-3},
        "eval": {"max_rows": 4, "latency_rows": 1, "retention": {"num_prompts": 0}},
        "export": {"formats": ["adapter", "merged"]},
    }
    for section, keys in changes.items():
        values[section] = keys if keys.get("kind") == "none" else values[section] | keys
    return values


def run(folder: Path) -> list[dict[str, Any]]:
    """Train and export every variant of every base; return what the older release has to find."""
    cases = []
    for base_name, variants in PLAN.items():
        for variant in variants:
            base = (folder / "bases" / base_name).absolute()
            name = f"{base_name}-{variant}".replace(", ", "-").replace(" ", "-")
            path = folder / f"{name}.json"
            path.write_text(json.dumps(recipe(base, name, VARIANTS[variant])))
            refusal = export(path)
            if refusal:
                cases.append({"base_name": base_name, "export_name": variant, "refusal": refusal})
            exports = folder / "runs" / name / "export"
            kinds = [kind for kind in ("adapter", "merged") if (exports / kind).is_dir()]
            cases += [described(base, exports / kind, variant) for kind in kinds]
    return cases


def export(path: Path) -> str:
    """Run a recipe to its export; return why that was refused, "" where it was not."""
    environment = os.environ | {"TRAINER_RUNS": str(path.parent / "runs"), "TRAINER_CACHE": str(path.parent / "cache")}
    command = [sys.executable, "-m", "trainer", "run", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    if not result.returncode:
        return ""
    print(f"{path}: exit {result.returncode}\n{result.stderr[-1000:]}", file=sys.stderr)
    return next(
        (line for line in result.stderr.splitlines() if line.startswith("error: ")), f"exit {result.returncode}"
    )


def described(base: Path, folder: Path, variant: str) -> dict[str, Any]:
    """Return a case: rows with the ids and answers that we find, logits in a file beside it."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), opened(base, folder)
    lines = (folder.parents[3] / "rows.jsonl").read_text().splitlines()[:NUM_ROWS]
    rows = [described_row(tokenizer, model, json.loads(line)["messages"]) for line in lines]
    logits_path = folder.parents[1] / f"{folder.name}-logits.npz"
    with torch.no_grad():
        logits = {str(i): model(input_ids=torch.tensor([row["ids"]["row"]])).logits[0] for i, row in enumerate(rows)}
    np.savez(logits_path, **{name: value.float().numpy() for name, value in logits.items()})
    return {
        "base_name": base.name,
        "export_name": f"{folder.name}, {variant}",
        "base": str(base),
        "export": str(folder),
        "kind": folder.name,
        "dtype": json.loads((folder.parent / "verify.json").read_text())[folder.name]["dtype"],
        "rows": rows,
        "logits": str(logits_path),
        "tokenizer_files": [name for name in TOKENIZER_FILES if (base / name).is_file()],
        "may_differ": ["chat_template.jinja", "tokenizer_config.json"] if "template" in variant else [],
    }


def described_row(tokenizer: Any, model: Any, messages: list[dict[str, str]]) -> dict[str, Any]:
    """Return the ids of a row as we make them, and the greedy answer to it."""
    render = tokenizer.apply_chat_template
    prompt = render(messages[:-1], add_generation_prompt=True, return_dict=False)
    request = torch.tensor([prompt])
    output = model.generate(
        input_ids=request, attention_mask=torch.ones_like(request), do_sample=False, max_new_tokens=8
    )
    ids = {
        "row": list(render(messages, return_dict=False)),
        "prompt": list(prompt),
        "text": list(tokenizer(messages[0]["content"])["input_ids"]),
    }
    return {"messages": messages, "ids": ids, "answer": output[0, len(prompt) :].tolist()}


def opened(base: Path, folder: Path) -> Any:
    """Return the model in float32."""
    if folder.name == "merged":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder).eval()


if __name__ == "__main__":
    verb, place = sys.argv[1], Path(sys.argv[2]).absolute()
    if verb == "rows":
        write_rows(place)
    else:
        shutil.rmtree(place / "runs", ignore_errors=True)
        (place / "cases.json").write_text(json.dumps(run(place)))
