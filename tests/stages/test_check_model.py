"""`check` opens the model without its weights: what it says of adapters and paths, and what it refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests import tiny
from tests.command import Project
from tests.zoo import models
from trainer.errors import HardwareError
from trainer.recipe import Recipe
from trainer.shapes.blueprint import Blueprint
from trainer.verbs.check.blueprint import blueprint
from trainer.verbs.check.lines import lines


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., tuple[Recipe, Blueprint]]:
    """Writes the config.json of a tiny model of a type, with changes, and opens it; there are no weights at all."""

    def run(model_type: str, change: Callable[[dict[str, Any]], object] | None = None, **sections: Any) -> Any:
        folder = tmp_path / model_type
        tokenizer = tiny.make_tokenizer()
        models.config_of(model_type, tokenizer).save_pretrained(folder)
        (folder / "model.safetensors").write_bytes(b"")
        config = json.loads((folder / "config.json").read_text())
        if change:
            change(config)
        (folder / "config.json").write_text(json.dumps(config))
        values = {"recipe_version": 1, "name": "x", "data": {"sources": [{"path": "x.jsonl"}]}}
        recipe = Recipe.model_validate(values | {"model": {"name_or_path": str(folder)}} | sections)
        return recipe, blueprint(recipe)

    return run


def shares(result: Blueprint) -> dict[str, float]:
    return {kind: count["adapted"] / count["all"] for kind, count in result["counts"].items()}


def test_towers_get_no_adapter_and_are_named(opened: Any) -> None:
    recipe, result = opened("gemma3", adapter={"kind": "qlora"})
    found = shares(result)
    assert result["model_class"] == "Gemma3ForConditionalGeneration" and result["padded"] is None
    assert found["attention"] == found["MLP"] == 1 and found["tower"] == 0
    text = "\n".join(lines(recipe, result))
    assert "not used by text" in text and "vision_tower, multi_modal_projector" in text
    assert "9 outside the language model" in text and "4 bits" in text and "stay in 16 bits" in text


def test_experts_count_as_far_as_a_token_uses_them(opened: Any) -> None:
    _, result = opened("qwen3_moe")
    experts = result["counts"]["experts"]
    assert experts["adapted"] == experts["all"] == 2 * experts["active"]  # two of four experts
    assert shares(result)["router"] == 0
    _, result = opened("qwen3_moe", adapter={"kind": "lora", "experts": "none"})
    assert shares(result)["experts"] == 0 and "adapter.experts" in result["excluded"]


def test_recurrent_layers_are_a_kind_of_their_own_and_are_packed(opened: Any) -> None:
    _, result = opened("bamba")
    assert 0 < shares(result)["recurrent"] < 1
    assert result["padded"] is None


def test_layers_whose_reach_is_unknown_pad_rows(opened: Any) -> None:
    recipe, result = opened("llama4_text")
    assert result["padded"] == "the model has chunked_attention layers"
    assert "padded: the model has chunked_attention layers" in "\n".join(lines(recipe, result))


REFUSED: dict[str, tuple[str, Callable[[dict[str, Any]], object] | None, dict[str, Any], str]] = {
    "unknown type": ("llama", lambda config: config.update(model_type="nowhere"), {}, "nowhere"),
    "no text": ("llama", lambda config: config.update(model_type="clip_vision_model"), {}, "no model of the type"),
    "code of its own": (
        "llama",
        lambda config: config.update(auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        {},
        "auto_map",
    ),
    "layers": ("llama", lambda config: config.update(num_hidden_layers=10**9), {}, "1,000,000,000, the limit is"),
    "vocabulary": ("llama", lambda config: config.update(vocab_size=10**15), {}, "the limit is"),
    "no number": (
        "llama",
        lambda config: config.update(hidden_size="many"),
        {},
        "hidden_size: a whole number is expected",
    ),
    "no such layer": ("gemma3", None, {"adapter": {"kind": "lora", "target_modules": ["nowhere"]}}, "nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_built_is_refused(case: str, opened: Any) -> None:
    model_type, change, sections, message = REFUSED[case]
    with pytest.raises(HardwareError) as refusal:
        opened(model_type, change, **sections)
    assert message in refusal.value.message and refusal.value.hint


@pytest.mark.parametrize(
    ("method", "message"), [("awq", "quantised for inference"), ("bitsandbytes", "without loss"), ("fp8", "")]
)
def test_a_quantised_base_is_refused_unless_it_can_be_made_wide(method: str, message: str, opened: Any) -> None:
    quantised = {"quant_method": method, "weight_block_size": [128, 128]}
    _, result = opened("llama", lambda config: config.update(quantization_config=quantised))
    messages = [obstacle["message"] for obstacle in result["obstacles"]]
    assert any(message in text for text in messages) if message else not messages


def test_the_command_refuses_with_exit_code_5_and_opens_once(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    project = Project(tmp_path)
    tiny.write_recipe(tmp_path, model=tiny_model_dir)
    started = mock.Mock(wraps=subprocess.run)
    monkeypatch.setattr(subprocess, "run", started)
    results = [project.call("check") for _ in range(2)]
    assert all(result.code == 0 and "recipe ok" in result.out for result in results), results[0].text
    assert results[0].out == results[1].out and "adapter beside" in results[0].out
    opens = [call for call in started.call_args_list if "trainer.verbs.check.worker" in call.args[0]]
    assert len(opens) == 1
    config = tmp_path / "broken" / "config.json"
    config.parent.mkdir()
    (config.parent / "model.safetensors").write_bytes(b"")
    config.write_text((tiny_model_dir / "config.json").read_text()[:80])
    tiny.write_recipe(tmp_path, model=config.parent)
    broken = project.call("check")
    assert (
        broken.code == 5 and "broken/config.json: line 6: is no JSON" in broken.err and "Traceback" not in broken.text
    )
    assert project.call("check", "--quick").code == 0
