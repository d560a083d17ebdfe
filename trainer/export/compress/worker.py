"""Compress the linear layers of a model folder; runs in llm-compressor's own environment.

    PYTHON -I worker.py MODEL TARGET KIND MAX_SHARD_GB [ROWS]

KIND is fp8, awq or gptq; ROWS a JSON file with the token ids that the last two are calibrated on. The last line that it
prints is JSON: the version of llm-compressor, the scheme and its group size. Imports nothing of this package, which is
not installed there.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedModel

if TYPE_CHECKING:
    from llmcompressor.modifiers import Modifier

UNCOMPRESSED = ["lm_head"]
"""Layers that keep their type."""
GROUP_SIZES = (128, 64, 32)
"""Weights that share a scale, the first that fits: all that vLLM has a fast product for."""


def modifiers(kind: str, group_size: int) -> list[Modifier]:
    """Return what is done to the model."""
    if kind == "fp8":
        return [QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=UNCOMPRESSED)]
    # a range with the least squared error: gptq of the quickstart's model loses 0.08 nats, by the full range 0.18
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "observer": "memoryless_mse"}
    weights |= {"strategy": "group", "group_size": group_size}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    if kind == "gptq":
        return [GPTQModifier(config_groups=groups, ignore=UNCOMPRESSED)]
    return [AWQModifier(duo_scaling="both"), QuantizationModifier(config_groups=groups, ignore=UNCOMPRESSED)]


def group_size_of(model: PreTrainedModel) -> int:
    """Return the largest group size that divides the rows of every linear layer.

    Raises:
        ValueError: None does.
    """
    widths = dict(_widths(model))
    for size in GROUP_SIZES:
        if all(width % size == 0 for width in widths.values()):
            return size
    name, width = next((name, width) for name, width in widths.items() if width % GROUP_SIZES[-1])
    raise ValueError(f"the rows of {name} have {width} numbers, no multiple of {GROUP_SIZES[-1]}")


def _widths(model: PreTrainedModel) -> Iterator[tuple[str, int]]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            yield name, module.in_features


def calibration(path: Path) -> DataLoader[dict[str, torch.Tensor]]:
    """Return the rows of a JSON file, each a batch of its own: padding would count as text."""
    rows = [torch.tensor([row]) for row in json.loads(path.read_text())]
    return DataLoader([{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows], batch_size=None)


def main(arguments: list[str]) -> int:
    """Write TARGET."""
    source, target, kind, max_shard_gb, *rows = arguments
    if not torch.accelerator.is_available():
        # AWQ pins its rows in memory for a card, which raises where there is none (llm-compressor 0.14)
        IntermediatesCache.pin_memory = lambda *_: None
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    facts: dict[str, str | int] = {"scheme": "FP8_DYNAMIC"}
    options: dict[str, object] = {}
    group_size = 0
    if kind != "fp8":
        group_size = group_size_of(model)
        facts = {"scheme": "W4A16", "group_size": group_size}
        loader = calibration(Path(rows[0]))
        options = {"dataset": loader, "num_calibration_samples": len(loader)}
    oneshot(model=model, recipe=modifiers(kind, group_size), **options)
    model.config._name_or_path = ""  # a path of this machine otherwise
    model.save_pretrained(target, save_compressed=True, max_shard_size=f"{max_shard_gb}GB")
    sys.stdout.write("\n" + json.dumps({"llmcompressor": importlib.metadata.version("llmcompressor"), **facts}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
