"""The memory plan of a training: its choice, its trial, and advice after running out of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

from tests.stores import pair_store, row_store
from trainer.engine import recompute
from trainer.engine.batch import of_rows
from trainer.engine.prepare import Engine, prepare
from trainer.methods import memory_plan, memory_trial
from trainer.methods.batch_plan import BatchPlan, largest_batch
from trainer.methods.memory_trial import Trial
from trainer.methods.order import StepPlan
from trainer.methods.out_of_memory import out_of_memory, settings_that_fit
from trainer.model.planning import gpus
from trainer.model.planning.model_shape import NotPredictedError
from trainer.model.planning.planner import MemoryPlan
from trainer.model.planning.predictor import MicroBatch
from trainer.recipe import Recipe
from trainer.tokens.pack import one_by_one, pack_rows

ROWS = [np.arange(30, dtype="int64") % 40 + 3]
SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4}


def recipe(**train: Any) -> Recipe:
    sections = {"model": {"name_or_path": "x"}, "data": {"sources": [{"path": "x"}]}, "train": train}
    return Recipe.model_validate({"recipe_version": 1, "name": "plan", "adapter": {"kind": "lora", "r": 4}, **sections})


def prepared(model: Any) -> tuple[Any, Engine]:
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    return model.train(), prepare(model, ROWS, attention="auto", say=lambda _: None)


def llama(**settings: Any) -> tuple[Any, Engine]:
    torch.manual_seed(0)
    sizes = SIZE | {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return prepared(LlamaForCausalLM(LlamaConfig(**sizes, **settings)))


def trial_of(model: Any, engine: Engine) -> Trial:
    def longest(size: int) -> Any:
        return of_rows([[(ROWS[0], np.ones(30, dtype="uint8"))]] * size, "flat", 0)

    return Trial(model, engine, longest, None)


class Simulated:
    """A card on which every plan needs `extra` bytes more than predicted."""

    def __init__(self, size: int, extra: int = 0) -> None:
        self.card, self.extra = gpus.Card("simulated", size), extra
        self.tried: list[MemoryPlan] = []

    def run(self, plan: MemoryPlan) -> int | None:
        self.tried.append(plan)
        peak = plan.memory.passes + self.extra
        return peak if peak + plan.memory.reserve <= self.card.memory else None


def refuse(_: MemoryPlan) -> int | None:
    raise AssertionError("plans are tried on cards only")


def planned(
    model: Any,
    engine: Engine,
    recipe: Recipe,
    batches: dict[int, MicroBatch],
    *,
    on: Simulated | None = None,
    lines: list[str] | None = None,
) -> MemoryPlan:
    card, run = (on.card, on.run) if on else (gpus.host(), refuse)
    say = ([] if lines is None else lines).append
    return memory_plan.plan_memory(
        model, engine, recipe, batches, share=max(8, max(batches)), card=card, run=run, say=say
    )


def test_on_the_cpu_nothing_is_recomputed_unless_the_recipe_says_so() -> None:
    model, engine = llama()
    lines: list[str] = []
    plan = planned(model, engine, recipe(), {1: MicroBatch(30, 30)}, lines=lines)
    assert plan is not None and set(plan.levels) == {"none"} and "recompute none" in lines[0]
    for setting, level in ((True, "full"), (False, "none"), ("offload", "offload"), ("elementwise", "elementwise")):
        plan = planned(model, engine, recipe(gradient_checkpointing=setting), {1: MicroBatch(30, 30)})
        assert plan is not None and set(plan.levels) == {level} and plan.measured is None


def test_the_micro_batch_on_the_cpu_has_about_2048_tokens() -> None:
    model, engine = llama()
    for length, size in ((100, 8), (500, 4), (3000, 1)):
        plan = planned(model, engine, recipe(), {n: MicroBatch(n * length, n * length) for n in (1, 2, 4, 8)})
        assert plan is not None and plan.micro_batch_size == size
        assert plan.accumulation == 8 // size


def test_levels_follow_the_memory_of_a_card() -> None:
    model, engine = llama()
    batches = {1: MicroBatch(1 << 18, 100)}
    wide = planned(model, engine, recipe(), batches, on=Simulated(80 << 30))
    assert wide is not None and set(wide.levels) == {"none"} and wide.measured == wide.memory.passes
    tight, lines = Simulated(wide.memory.total - 1), list[str]()
    plan = planned(model, engine, recipe(), batches, on=tight, lines=lines)
    assert plan is not None and plan.levels == ("elementwise", "none", "none", "none")
    assert tight.tried == [plan]
    layers = recompute.decoder_layers(model)
    assert ["forward" in vars(layer) for layer in layers] == [True, False, False, False]
    assert "micro-batches of 1, recompute elementwise in the first 1 of 4 layers, none in the others" in lines[-1]
    numbers = plan.numbers()
    assert numbers["tried_gib"] == pytest.approx(plan.memory.passes / (1 << 30), abs=1e-3)
    assert numbers["predicted_gib"] == pytest.approx(numbers["tried_gib"], abs=2e-3)
    assert numbers["micro_batch_tokens"] == 1 << 18


def small_plan(model: Any, engine: Engine) -> MemoryPlan:
    plan = planned(model, engine, recipe(), {1: MicroBatch(30, 30)}, on=Simulated(2 << 30))
    assert plan is not None
    return plan


@pytest.mark.parametrize("settings", [{}, {"attention_dropout": 0.5}])
def test_a_trial_leaves_no_trace(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = llama(**settings)
    plan = small_plan(model, engine)
    monkeypatch.setattr(memory_trial, "peak_bytes", lambda _: 7)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert trial_of(model, engine).run(plan) == 7
    assert torch.equal(torch.get_rng_state(), random) and not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_running_out_of_memory_in_a_trial_is_no_error_and_leaves_no_trace() -> None:
    model, engine = llama()

    def halfway(_: int) -> Any:
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight) if weight.requires_grad else None
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert Trial(model, engine, halfway, None).run(small_plan(model, engine)) is None
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_that_is_not_covered_is_left_to_transformers() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SIZE, state_size=4)).train()
    engine = prepare(model, ROWS, attention="auto", say=lambda _: None)
    with pytest.raises(NotPredictedError):
        planned(model, engine, recipe(), {1: MicroBatch(30, 30)})
    lines: list[str] = []
    assert memory_plan.recompute_without_plan(model, recipe(gradient_checkpointing=True), lines.append)
    assert not memory_plan.recompute_without_plan(model, recipe(), lines.append)  # on the CPU


def test_a_level_that_is_asked_for_is_set_where_nothing_is_predicted() -> None:
    model, _ = llama()
    assert not memory_plan.recompute_without_plan(model, recipe(gradient_checkpointing="elementwise"), lambda _: None)
    assert all("forward" in vars(layer) for layer in recompute.decoder_layers(model))
    lines: list[str] = []
    assert memory_plan.recompute_without_plan(
        torch.nn.Linear(2, 2), recipe(gradient_checkpointing="offload"), lines.append
    )
    assert lines == ["train: recompute full: offload is not known for this model"]


def test_layers_that_give_a_router_its_loss_are_not_computed_apart() -> None:
    sizes = SIZE | {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=2)).train()
    assert memory_plan.recompute_without_plan(model, recipe(gradient_checkpointing="offload"), lambda _: None)
    assert not any("forward" in vars(layer) for layer in recompute.decoder_layers(model))


def test_the_largest_batch_holds_the_longest_items() -> None:
    lengths = [5, 9, 3, 7]
    store = row_store([(list(range(size)), [0] + [1] * (size - 1)) for size in lengths])
    plan = pack_rows(range(4), store.lengths(), capacity=12)
    items, batch = largest_batch(store, plan, 1)
    assert len(items) == 1 and batch == MicroBatch(12, 10)
    assert largest_batch(store, plan, 2)[1] == MicroBatch(24, 20)


def test_of_fewer_items_than_a_micro_batch_holds_each_counts_several_times() -> None:
    store = row_store([(list(range(size)), [0] + [1] * (size - 1)) for size in [9, 5]])
    items, batch = largest_batch(store, one_by_one(range(2)), 5)
    assert items == [0, 0, 0, 1, 1] and batch == MicroBatch(37, 32)


def test_the_prompt_of_a_pair_is_counted_as_shared() -> None:
    store = pair_store([(list(range(size)), [1] * 4, [2] * 6) for size in [3, 8, 5]])
    assert largest_batch(store, one_by_one(range(3)), 2) == ([1, 2], MicroBatch(33, 20, 13))


def test_running_out_of_memory_names_settings_that_need_less() -> None:
    model, engine = llama()
    card = Simulated(24 << 30)
    start = recipe(gradient_checkpointing=False, global_batch_size=4096, micro_batch_size=4096)
    plan = planned(model, engine, start, {4096: MicroBatch(4096 * 2048, 4096 * 2048)}, on=card)
    assert settings_that_fit(model, start, plan) == "--set train.gradient_checkpointing=true"
    # sizes that the plan has chosen are among the settings: it would choose the same again
    start = recipe(global_batch_size=512)
    plan = planned(model, engine, start, {512: MicroBatch(512 * 2048, 512 * 2048)}, on=card)
    assert settings_that_fit(model, start, plan) == (
        "--set train.gradient_checkpointing=true --set train.micro_batch_size=512"
    )
    assert settings_that_fit(model, start, None) is None


@pytest.mark.parametrize(("size", "hint"), [(4, "--set train.micro_batch_size=2"), (1, "smaller pack.max_length")])
def test_without_a_prediction_running_out_of_memory_names_general_settings(size: int, hint: str) -> None:
    steps = StepPlan(num_items=8, global_batch_size=4, num_steps=2, micro_batch_size=size, accumulation=4 // size)
    plan = BatchPlan(steps, memory=None, recomputes_all=True, in_backward=False)
    cause = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    error = out_of_memory(torch.nn.Linear(2, 2), recipe(), plan, cause)
    assert error.exit_code == 5 and hint in error.hint
    assert f"micro_batch_size {size} and max_length 2048: CUDA out of memory. Tried to allocate 2 GiB" in error.message
