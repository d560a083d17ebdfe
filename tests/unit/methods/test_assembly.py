"""What a training is built with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trainer.errors import HardwareError, RecipeError
from trainer.methods.assembly import _switch_dropout_off, hold_in_float8
from trainer.methods.batch_plan import _steps_in_backward
from trainer.methods.order import StepPlan
from trainer.recipe import Recipe


def model_with_dropout() -> Any:
    """Return a model whose attention and adapter both drop."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.4,
    )
    settings = LoraConfig(
        r=2, target_modules="all-linear", lora_dropout=0.3, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(LlamaForCausalLM(config), settings).train()


def test_no_dropout_is_left_in_a_preference_method() -> None:
    model, ids = model_with_dropout(), torch.arange(20)[None]
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert _switch_dropout_off(model) == 0.4
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert torch.equal(model(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_frozen_weights_are_rounded_where_the_model_trains_and_it_is_said() -> None:
    model, said = model_with_dropout(), list[str]()
    model.get_base_model().hf_device_map = {"": "elsewhere"}
    hold_in_float8(model, torch.device("cpu"), said.append)
    assert said[0] == "train: frozen weights of 7 layers in 8 bits (e4m3)" and "no card" in said[1]
    assert model.hf_device_map == {"": torch.device("cpu")}


def test_weights_in_8_bits_are_not_spread_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(HardwareError, match="FSDP") as caught:
        hold_in_float8(model_with_dropout(), torch.device("cpu"), print)
    assert caught.value.hint == "--set train.float8_base=false"


def settled(**changes: Any) -> tuple[bool, list[str]]:
    """Settle the optimizer of a full fine-tuning; `changes` are those of the plan and of `train`."""
    plan = StepPlan(10, 8, 2, changes.pop("micro", 8), changes.pop("accumulation", 1))
    said: list[str] = []
    parts: Any = SimpleNamespace(
        inputs=SimpleNamespace(go_alone=changes.pop("go_alone", False)),
        model=torch.nn.Linear(2, 2, dtype=torch.bfloat16),
        say=said.append,
    )
    recipe = Recipe.model_validate(
        {
            "recipe_version": 1,
            "name": "full",
            "model": {"name_or_path": "x"},
            "adapter": {"kind": "none"},
            "data": {"sources": [{"path": "x.jsonl"}]},
            "train": {"global_batch_size": 8, "max_grad_norm": 0} | changes,
        }
    )
    parts.job = SimpleNamespace(recipe=recipe)
    return _steps_in_backward(plan, parts), said


@pytest.mark.parametrize("asked", [True, "auto"])
def test_the_optimizer_steps_in_the_backward_pass_where_it_can(asked: Any) -> None:
    is_on, said = settled(optimizer_in_backward=asked)
    assert is_on
    assert [line.split(":")[0] for line in said] == ["train", "train"] and "stochastically" in said[1]
    assert settled(optimizer_in_backward=False)[0] is False


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"micro": 4}, "launch.num_processes=1"),
        ({"micro": 4, "accumulation": 2}, "train.micro_batch_size=8"),
        ({"go_alone": True}, "train.global_batch_size=1"),
    ],
)
def test_what_only_the_machine_or_the_model_tells_is_refused_too(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError) as caught:
        settled(optimizer_in_backward=True, **changes)
    assert named in str(caught.value.problems[0]) and caught.value.exit_code == 2
    assert settled(optimizer_in_backward="auto", **changes)[0] is False


def test_spread_weights_are_refused_and_rounded_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError):
        settled(optimizer_in_backward=True)
    is_on, said = settled(optimizer_in_backward="auto")
    assert is_on is False and said == [
        "train: bfloat16 weights are rounded to nearest by what spreads them over processes"
    ]
