"""Types of a training run."""

from __future__ import annotations

import pytest
import torch

from trainer.model.load import Precision, precision
from trainer.recipe.model import LoraAdapter, ModelSection, NoAdapter

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("dtype", "has_bfloat16", "lora", "full"),
    [
        ("auto", True, Precision(BRAIN, BRAIN), Precision(SINGLE, BRAIN)),
        ("auto", False, Precision(HALF, HALF), Precision(SINGLE, HALF)),
        ("float16", True, Precision(HALF, HALF), Precision(SINGLE, HALF)),
        ("float16", False, Precision(HALF, HALF), Precision(SINGLE, HALF)),
        ("float32", True, Precision(SINGLE, None), Precision(SINGLE, None)),
    ],
)
def test_float16_gradients_are_always_scaled_on_a_card(
    monkeypatch: pytest.MonkeyPatch, dtype: str, has_bfloat16: bool, lora: Precision, full: Precision
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16 or including_emulation
    )
    section = ModelSection.model_validate({"name_or_path": "some/model", "dtype": dtype})
    assert precision(section, LoraAdapter(kind="lora")) == lora
    assert precision(section, NoAdapter(kind="none")) == full
