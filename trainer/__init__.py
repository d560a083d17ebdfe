"""Local LoRA, QLoRA, full and preference fine-tuning, from rows to a verified model."""

import sys

__version__ = "0.1.0"

# The package `kernels` fetches code of the hub and runs it, and a config.json or bitsandbytes may ask for that. `None`
# makes every import of it fail, in every process of this program.
sys.modules["kernels"] = None  # type: ignore[assignment]
