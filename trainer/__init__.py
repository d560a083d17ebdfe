"""Local LoRA, QLoRA, full and preference fine-tuning, from rows to a verified model."""

__version__ = "0.1.0"
