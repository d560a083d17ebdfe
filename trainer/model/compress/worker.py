"""Compress the linear layers of a model folder; run by the interpreter of llm-compressor's own environment.

    PYTHON -I worker.py MODEL TARGET SCHEME MAX_SHARD_GB

Imports nothing of this package, which is not installed there.
"""

from __future__ import annotations

import sys

from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM

KEPT = ["lm_head", r"re:.*\.gate$"]
"""Layers that keep their type: the output, and the router of a mixture of experts.

Source: https://docs.vllm.ai/projects/llm-compressor, examples of FP8_DYNAMIC for dense models and for Mixtral.
"""


def main(arguments: list[str]) -> int:
    """Write TARGET."""
    source, target, scheme, max_shard_gb = arguments
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    oneshot(model=model, recipe=[QuantizationModifier(targets="Linear", scheme=scheme, ignore=KEPT)])
    model.config._name_or_path = ""  # a path of this machine otherwise
    model.save_pretrained(target, save_compressed=True, max_shard_size=f"{max_shard_gb}GB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
