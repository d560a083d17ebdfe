"""Parts of a training before its first step: dropout, the plan of its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.stores import row_store
from trainer.engine.prepare import Engine
from trainer.errors import RecipeError
from trainer.methods.assembly import _switch_dropout_off
from trainer.methods.batch_plan import plan_batches
from trainer.methods.context import Inputs, Job, TrainingContext
from trainer.model.load import Precision
from trainer.recipe import Recipe
from trainer.tokens.pack import one_by_one


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


def plan_in_backward(**changes: Any) -> tuple[bool, list[str]]:
    """Plan a full fine-tuning of eight items a step; `changes` are settings of `train`, and the processes."""
    model = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    go_alone, num_processes = changes.pop("go_alone", False), changes.pop("num_processes", 1)
    recipe = Recipe.model_validate(
        {
            "recipe_version": 1,
            "name": "full",
            "model": {"name_or_path": "x"},
            "adapter": {"kind": "none"},
            "data": {"sources": [{"path": "x.jsonl"}]},
            "train": {"global_batch_size": 8, "max_grad_norm": 0, "max_steps": 2} | changes,
        }
    )
    lines: list[str] = []
    rows = row_store([([1, 2], [0, 1])] * 10)
    inputs = Inputs(rows, None, one_by_one(range(10)), is_packed=False, go_alone=go_alone)
    job = Job(recipe, Path(), Path(), Path(), weights={}, say=lines.append)
    engine = Engine("padded", None, None, None)  # memory is not predicted
    tokenizer: Any = None
    context = TrainingContext(job, model, engine, inputs, Precision(torch.bfloat16, None), tokenizer, lines.append)
    return plan_batches(context, num_processes).in_backward, lines


@pytest.mark.parametrize("setting", [True, "auto"])
def test_the_optimizer_steps_in_the_backward_pass_where_it_can(setting: Any) -> None:
    is_on, lines = plan_in_backward(optimizer_in_backward=setting)
    assert is_on
    assert any("stochastically" in line for line in lines) and any("its gradient is freed" in line for line in lines)
    assert plan_in_backward(optimizer_in_backward=False)[0] is False


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"num_processes": 2}, "launch.num_processes=1"),
        ({"go_alone": True}, "train.global_batch_size=1"),
    ],
)
def test_a_step_in_the_backward_pass_is_refused_where_gradients_must_add_up(changes: dict[str, Any], fix: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_in_backward(optimizer_in_backward=True, **changes)
    assert fix in str(caught.value.problems[0]) and caught.value.exit_code == 2
    assert plan_in_backward(optimizer_in_backward="auto", **changes)[0] is False


def test_spread_weights_are_refused_and_rounded_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError):
        plan_in_backward(optimizer_in_backward=True)
    is_on, lines = plan_in_backward(optimizer_in_backward="auto")
    assert not is_on
    assert lines[-1] == "train: bfloat16 weights are rounded to nearest by what spreads them over processes"
