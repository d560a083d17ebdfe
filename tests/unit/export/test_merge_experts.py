"""Experts that were held in 4 bits are merged onto either base, whether the files hold them apart or stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.zoo import models
from trainer.export.merge import FourBit, MergePlan, merge_streaming, replay
from trainer.model.adapter import attach, load_on
from trainer.model.load import load_model
from trainer.recipe.model import ModelSection, QloraAdapter

IDS = torch.arange(1, 40)[None]
QLORA = QloraAdapter.model_validate({"kind": "qlora", "r": 2, "alpha": 4})


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_a_merge_computes_what_the_adapter_computes_on_each_base(model_type: str, tmp_path: Path) -> None:
    tokenizer: Any = tiny.make_tokenizer()
    base, folder = models.write(model_type, tmp_path / "base", tokenizer), tmp_path / "adapter"
    section = ModelSection.model_validate({"name_or_path": str(base)})
    trained = attach(load_model(section, tmp_path, adapter=QLORA, dtype=torch.float32), QLORA)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    trained.save_pretrained(folder)
    four_bit = FourBit(dtype=torch.float32)
    expected = {
        "dequantised": trained.eval(),
        "plain": load_on(load_model(section, tmp_path, dtype=torch.float32), folder),
    }
    for kind, model in expected.items():
        plan = MergePlan(base=kind, four_bit=four_bit)  # type: ignore[arg-type]
        merge_streaming(base, [(folder, 1.0)], tmp_path / kind, plan, lambda _: None)
        assert replay(base, [(folder, 1.0)], tmp_path / kind, plan).equal
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype=torch.float32).eval()
        logits = model(input_ids=IDS).logits
        torch.testing.assert_close(merged(input_ids=IDS).logits, logits, rtol=1e-4, atol=2e-5, msg=kind)
    assert "experts" in (folder / "adapter_config.json").read_text()
