"""The plan of a training's memory: what is chosen, tried, and said when it does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, MixtralConfig, MixtralForCausalLM

from trainer.engine import recompute
from trainer.engine.batch import of_rows
from trainer.engine.prepare import Engine, prepare
from trainer.methods import memory_plan, memory_trial
from trainer.methods.memory_trial import Trial
from trainer.methods.order import StepPlan
from trainer.methods.worker import _out_of_memory
from trainer.model.planning import gpus
from trainer.model.planning.planner import MemoryPlan
from trainer.model.planning.predictor import MicroBatch
from trainer.recipe import Recipe
from trainer.tokens.chat import MaskedTokens, PairTokens
from trainer.tokens.pack import one_by_one, pack_rows
from trainer.tokens.store import from_pairs, from_tokens

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


def planned(
    model: Any, engine: Engine, recipe: Recipe, batches: dict[int, MicroBatch], *, said: list[str] | None = None
) -> memory_plan.Chosen | None:
    say, share = [] if said is None else said, max(8, max(batches))
    return memory_plan.plan_memory(model, engine, recipe, batches, share, trial_of(model, engine), say.append)


def on_card(monkeypatch: pytest.MonkeyPatch, size: int, extra: int = 0) -> list[MemoryPlan]:
    """Pretend that the model is on a card on which every plan takes `extra` bytes more; return the plans tried."""
    tried: list[MemoryPlan] = []
    pass_of = Trial._pass

    def run(self: Trial, plan: MemoryPlan) -> int | None:
        tried.append(plan)
        needed = plan.memory.passes + extra
        monkeypatch.setattr(memory_trial, "measured", lambda _: needed)
        return found if (found := real(self, plan)) is None or found + plan.memory.reserve <= size else None

    real = Trial.run
    monkeypatch.setattr(Trial, "run", run)
    monkeypatch.setattr(Trial, "_pass", lambda self, size: pass_of(self, min(size, 2)))  # a stand-in for long rows
    monkeypatch.setattr(memory_plan, "card_of", lambda _: gpus.Card("small", size))
    return tried


def test_on_the_cpu_nothing_is_recomputed_unless_asked() -> None:
    model, engine = llama()
    said: list[str] = []
    chosen = planned(model, engine, recipe(), {1: MicroBatch(30, 30)}, said=said)
    assert chosen is not None and set(chosen.forecast.levels) == {"none"} and "recompute none" in said[0]
    for named, level in ((True, "full"), (False, "none"), ("offload", "offload"), ("elementwise", "elementwise")):
        asked = planned(model, engine, recipe(gradient_checkpointing=named), {1: MicroBatch(30, 30)})
        assert asked is not None and set(asked.forecast.levels) == {level} and asked.tried is None


def test_the_micro_batch_on_the_cpu_has_about_2048_tokens() -> None:
    model, engine = llama()
    for length, size in ((100, 8), (500, 4), (3000, 1)):
        found = planned(model, engine, recipe(), {n: MicroBatch(n * length, n * length) for n in (1, 2, 4, 8)})
        assert found is not None and found.forecast.micro_batch_size == size
        assert found.forecast.accumulation == 8 // size


def test_levels_follow_the_room_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = llama()
    batches = {1: MicroBatch(1 << 18, 100)}
    on_card(monkeypatch, 80 << 30)
    wide = planned(model, engine, recipe(), batches)
    assert wide is not None and set(wide.forecast.levels) == {"none"} and wide.tried == wide.forecast.memory.passes
    tried = on_card(monkeypatch, wide.forecast.memory.total - 1)
    said: list[str] = []
    less = planned(model, engine, recipe(), batches, said=said)
    assert less is not None and less.forecast.levels == ("elementwise", "none", "none", "none")
    assert tried == [less.forecast]
    layers = recompute.decoder_layers(model)
    assert ["forward" in vars(layer) for layer in layers] == [True, False, False, False]
    assert "micro-batches of 1, recompute elementwise in the first 1 of 4 layers, none in the others" in said[-1]
    numbers = less.numbers()
    assert numbers["tried_gib"] == pytest.approx(less.forecast.memory.passes / (1 << 30), abs=1e-3)
    assert numbers["predicted_gib"] == pytest.approx(numbers["tried_gib"], abs=2e-3)
    assert numbers["micro_batch_tokens"] == 1 << 18


@pytest.mark.parametrize("settings", [{}, {"attention_dropout": 0.5}])
def test_a_trial_leaves_no_trace(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = llama(**settings)
    monkeypatch.setattr(memory_trial, "measured", lambda _: 7)
    plans: list[MemoryPlan] = []
    monkeypatch.setattr(memory_plan, "card_of", lambda _: gpus.Card("small", 2 << 30))
    monkeypatch.setattr(Trial, "run", lambda _, plan: plans.append(plan) or 7)
    planned(model, engine, recipe(), {1: MicroBatch(30, 30)})
    monkeypatch.undo()
    monkeypatch.setattr(memory_trial, "measured", lambda _: 7)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert trial_of(model, engine).run(plans[0]) == 7
    assert torch.equal(torch.get_rng_state(), random) and not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_running_out_of_memory_in_a_trial_is_no_error_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = llama()
    plans = on_card(monkeypatch, 2 << 30)
    planned(model, engine, recipe(), {1: MicroBatch(30, 30)})
    monkeypatch.undo()

    def halfway(self: Trial, size: int) -> None:
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight) if weight.requires_grad else None
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trial, "_pass", halfway)
    assert trial_of(model, engine).run(plans[0]) is None
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_that_is_not_covered_is_left_to_transformers() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SIZE, state_size=4)).train()
    engine = prepare(model, ROWS, attention="auto", say=lambda _: None)
    said: list[str] = []
    assert planned(model, engine, recipe(), {1: MicroBatch(30, 30)}, said=said) is None
    assert said[0].startswith("train: peak not predicted: ")
    assert memory_plan.without_plan(model, recipe(gradient_checkpointing=True), said.append)
    assert not memory_plan.without_plan(model, recipe(), said.append)  # on the CPU


def test_a_level_that_is_asked_for_is_set_where_nothing_is_predicted() -> None:
    model, _ = llama()
    assert not memory_plan.without_plan(model, recipe(gradient_checkpointing="elementwise"), lambda _: None)
    assert all("forward" in vars(layer) for layer in recompute.decoder_layers(model))
    said: list[str] = []
    assert memory_plan.without_plan(torch.nn.Linear(2, 2), recipe(gradient_checkpointing="offload"), said.append)
    assert said == ["train: recompute full: offload is not known for this model"]


def test_layers_that_give_a_router_its_loss_are_not_computed_apart() -> None:
    sizes = SIZE | {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=2)).train()
    assert memory_plan.without_plan(model, recipe(gradient_checkpointing="offload"), lambda _: None)
    assert not any("forward" in vars(layer) for layer in recompute.decoder_layers(model))


def test_the_largest_batch_holds_the_longest_items() -> None:
    lengths = [5, 9, 3, 7]
    store = from_tokens(
        [(n, MaskedTokens(list(range(size)), [0] + [1] * (size - 1))) for n, size in enumerate(lengths)]
    )
    plan = pack_rows(range(4), store.lengths(), capacity=12)
    items, batch = memory_plan.largest_batch(store, plan, 1)
    assert len(items) == 1 and batch == MicroBatch(12, 10)
    assert memory_plan.largest_batch(store, plan, 2)[1] == MicroBatch(24, 20)


def test_of_fewer_items_than_a_micro_batch_holds_each_counts_several_times() -> None:
    store = from_tokens([(n, MaskedTokens(list(range(size)), [0] + [1] * (size - 1))) for n, size in enumerate([9, 5])])
    items, batch = memory_plan.largest_batch(store, one_by_one(range(2)), 5)
    assert items == [0, 0, 0, 1, 1] and batch == MicroBatch(37, 32)


def test_the_prompt_of_a_pair_is_counted_as_shared() -> None:
    store = from_pairs([(n, PairTokens(list(range(size)), [1] * 4, [2] * 6)) for n, size in enumerate([3, 8, 5])])
    assert memory_plan.largest_batch(store, one_by_one(range(3)), 2) == ([1, 2], MicroBatch(33, 20, 13))


def test_running_out_of_memory_names_settings_that_need_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = llama()
    on_card(monkeypatch, 24 << 30)
    start = recipe(gradient_checkpointing=False, global_batch_size=4096, micro_batch_size=4096)
    chosen = planned(model, engine, start, {4096: MicroBatch(4096 * 2048, 4096 * 2048)})
    assert memory_plan.what_fits(model, start, chosen) == "--set train.gradient_checkpointing=true"
    # what a plan chose is named: it would choose the same again
    start = recipe(global_batch_size=512)
    chosen = planned(model, engine, start, {512: MicroBatch(512 * 2048, 512 * 2048)})
    assert memory_plan.what_fits(model, start, chosen) == (
        "--set train.gradient_checkpointing=true --set train.micro_batch_size=512"
    )
    assert memory_plan.what_fits(model, start, None) is None


def test_the_error_of_running_out_carries_the_settings_and_exit_code_5() -> None:
    plan = StepPlan(num_items=8, global_batch_size=4, num_steps=2, micro_batch_size=4, accumulation=1)
    error = torch.OutOfMemoryError("CUDA out of memory_plan. Tried to allocate 2 GiB\nmore")
    found = _out_of_memory(plan, recipe(), "--set train.micro_batch_size=1", error)
    assert (found.exit_code, found.hint) == (5, "--set train.micro_batch_size=1")
    assert "micro_batch_size 4 and max_length 2048: CUDA out of memory_plan. Tried to allocate 2 GiB" in found.message
    assert _out_of_memory(plan, recipe(), None, error).hint == "--set train.micro_batch_size=2"
