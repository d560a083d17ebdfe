"""Peak memory and speed of a streamed merge: a synthetic Llama of about 3 GB, written shard by shard.

    python scripts/bench/merge.py [--gigabytes 3] [--shard-gb 1] [--rounding auto] [--device cpu] [--folder DIR]

Prints one JSON object; exit 1 where the merge, or the replay after it, needs more memory than allowed: 1.5 times the
largest shard plus 1 GiB. Each is run in a process of its own and measured by the kernel (`ru_maxrss`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from trainer.export.merge import MergePlan, merge_streaming, replay
from trainer.export.merge.folder import write_index
from trainer.export.merge.shards import ShardWriter, Slot, row_blocks

HIDDEN, INTERMEDIATE, VOCABULARY, KEY_VALUE, RANK = 2048, 8192, 128_256, 512, 16
GIB = 2**30


def layer_shapes(layer: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one layer of the size of Llama 3.2 1B."""
    at = f"model.layers.{layer}"
    return {
        f"{at}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        f"{at}.self_attn.k_proj.weight": (KEY_VALUE, HIDDEN),
        f"{at}.self_attn.v_proj.weight": (KEY_VALUE, HIDDEN),
        f"{at}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        f"{at}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{at}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        f"{at}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        f"{at}.input_layernorm.weight": (HIDDEN,),
        f"{at}.post_attention_layernorm.weight": (HIDDEN,),
    }


def write_random(path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, scale: float) -> None:
    """Write one safetensors file of random numbers, block by block."""
    writer = ShardWriter(path, [Slot(name, shape, dtype) for name, shape in shapes.items()])
    for shape in shapes.values():
        for start, stop in row_blocks(shape):
            writer.write((torch.randn(stop - start, *shape[1:]) * scale).to(dtype))
    writer.close()


def write_base(folder: Path, gigabytes: float, shard_gb: float) -> int:
    """Write the base; return the number of layers."""
    ends = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    layer_bytes = sum(torch.Size(shape).numel() * 2 for shape in layer_shapes(0).values())
    layers = max(1, round((gigabytes * 1e9 - 4 * VOCABULARY * HIDDEN) / layer_bytes))
    shapes: dict[str, tuple[int, ...]] = dict(ends)
    for layer in range(layers):
        shapes |= layer_shapes(layer)
    shapes["model.norm.weight"] = (HIDDEN,)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = torch.Size(shape).numel() * 2
        if shards[-1] and filled + size > shard_gb * 1e9:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_random(path, shard, torch.bfloat16, 0.02)
        weight_map |= dict.fromkeys(shard, path.name)
    write_index(folder, weight_map, 0)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return layers


def write_adapter(folder: Path, layers: int) -> None:
    """Write rank 16 on every linear layer and the embeddings, as small as after a short run."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for name, shape in layer_shapes(layer).items():
            if len(shape) == 2:
                at = "base_model.model." + name.removesuffix(".weight")
                shapes[f"{at}.lora_A.weight"] = (RANK, shape[1])
                shapes[f"{at}.lora_B.weight"] = (shape[0], RANK)
    at = "base_model.model.model.embed_tokens"
    shapes |= {f"{at}.lora_embedding_A": (RANK, VOCABULARY), f"{at}.lora_embedding_B": (HIDDEN, RANK)}
    write_random(folder / "adapter_model.safetensors", shapes, torch.float32, 0.003)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens"]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def measured(step: str, folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Run one step in a process of its own; return what it answers and its peak memory in GiB."""
    answer = folder / f"{step}.json"
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--rounding", arguments.rounding]
    command += ["--shard-gb", str(arguments.shard_gb), "--device", arguments.device]
    started = time.monotonic()
    child = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{step} failed")
    facts = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}
    return facts | {"peak_rss_gib": round(usage.ru_maxrss / 2**20, 3)} | json.loads(answer.read_text())


def run_step(step: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Do what `measured` measures."""
    torch.set_num_threads(1)
    plan = MergePlan(rounding=arguments.rounding, max_shard_gb=arguments.shard_gb, device=arguments.device)
    adapters = [(folder / "adapter", 1.0)]
    if step == "merge":
        report = asdict(merge_streaming(folder / "base", adapters, folder / "merged", plan, lambda _: None))
        names = ("survival", "nearest_survival", "rounding", "changed", "copied", "streamed")
        answer = {name: report[name] for name in names}
    else:
        comparison = replay(folder / "base", adapters, folder / "merged", plan)
        answer = {"equal": comparison.equal, "tensors": comparison.tensors, "differing": len(comparison.differing)}
    (folder / f"{step}.json").write_text(json.dumps(answer))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--shard-gb", type=float, default=1.0)
    parser.add_argument("--rounding", choices=["auto", "nearest", "stochastic"], default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go, instead of a temporary folder")
    parser.add_argument("--step", choices=["merge", "replay"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.folder, arguments)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="merge-") as scratch:
        folder = Path(scratch)
        for name in ("base", "adapter"):
            (folder / name).mkdir()
        layers = write_base(folder / "base", arguments.gigabytes, arguments.shard_gb)
        write_adapter(folder / "adapter", layers)
        sizes = [path.stat().st_size for path in (folder / "base").glob("*.safetensors")]
        limit = (1.5 * max(sizes) + GIB) / GIB
        result = {
            "gigabytes": round(sum(sizes) / 1e9, 2),
            "largest_shard_gb": round(max(sizes) / 1e9, 2),
            "limit_gib": round(limit, 3),
            "merge": measured("merge", folder, arguments),
            "replay": measured("replay", folder, arguments),
        }
    print(json.dumps(result, indent=2))
    peaks = [float(str(result[step]["peak_rss_gib"])) for step in ("merge", "replay")]  # type: ignore[index]
    return int(max(peaks) > limit)


if __name__ == "__main__":
    raise SystemExit(main())
