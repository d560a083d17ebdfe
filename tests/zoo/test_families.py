"""One model type of each family of docs/models.md is trained, merged and proven, with the default recipe."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.zoo.run import engine_path, run_type

pytestmark = pytest.mark.slow

FLAT = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gemma4", "mistral3", "phi3", "olmo2", "glm4", "cohere2")
FLAT += ("granite", "mixtral", "qwen3_moe", "gpt_oss")
OTHER = ("gpt2", "qwen2_moe", "deepseek_v3", "deepseek_v4", "qwen3_5_text", "lfm2", "jamba", "mamba2", "nemotron_h")
OTHER += ("zamba2", "llama4_text", "openai-gpt", "moshi")


@pytest.fixture(scope="module")
def earlier_data(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("zoo")
    assert run_type("llama", folder, tiny_tokenizer, verbs=["data"])["verb"] == "done"
    gc.collect()
    gc.freeze()  # every proof collects garbage
    yield folder / "project/runs/tiny/data"
    gc.unfreeze()


@pytest.mark.parametrize("model_type", [*FLAT, *OTHER])
def test_a_family_trains_and_its_merge_is_proven(
    model_type: str, earlier_data: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    result = run_type(model_type, tmp_path, tiny_tokenizer, data=earlier_data)
    assert result["verb"] == "done", result["log"] + result.get("traceback", "")
    assert result["facts"]["steps"] == 3 and result["facts"]["adapted_modules"]
    assert result["verify"]["merged"]["passed"] and result["verify"]["adapter"]["passed"]
    assert "peak predicted" in result["log"]
    if model_type in FLAT:
        assert engine_path(result["log"]) == "flat"
