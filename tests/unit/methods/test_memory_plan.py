"""The plan of a training's memory: what is chosen, tried, and said when it does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from trainer.engine import recompute
from trainer.engine.prepare import prepare
from trainer.methods import memory
from trainer.methods.stream import Plan
from trainer.methods.worker import _out_of_memory
from trainer.model import cards
from trainer.model.memory import Batch, Level
from trainer.recipe import Recipe
from trainer.tokens.chat import Tokens
from trainer.tokens.pack import pack_rows
from trainer.tokens.store import from_tokens

ROWS = [np.arange(30, dtype="int64") % 40 + 3]
SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4}


def recipe(**train: Any) -> Recipe:
    sections = {"model": {"name_or_path": "x"}, "data": {"sources": [{"path": "x"}]}, "train": train}
    return Recipe.model_validate({"recipe_version": 1, "name": "plan", "adapter": {"kind": "lora", "r": 4}, **sections})


def prepared(model: Any) -> tuple[Any, Any]:
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    return model.train(), prepare(model, ROWS, attention="auto", say=lambda _: None)


def llama() -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZE, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
    return prepared(LlamaForCausalLM(config))


def on_card(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(memory, "card_of", lambda _: cards.Card("small", size))


def test_on_the_cpu_nothing_is_recomputed_unless_asked() -> None:
    model, engine = llama()
    said: list[str] = []
    chosen = memory.plan_memory(model, engine, recipe(), Batch(30, 30), said.append)
    assert chosen is not None and set(chosen.levels) == {"none"} and "train: recompute none" in said[0]
    asked = memory.plan_memory(model, engine, recipe(gradient_checkpointing=True), Batch(30, 30), said.append)
    assert asked is not None and memory.is_full(asked)


def test_levels_follow_the_room_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = llama()
    batch = Batch(1 << 18, 100)
    on_card(monkeypatch, 80 << 30)
    wide = memory.plan_memory(model, engine, recipe(), batch, lambda _: None)
    assert wide is not None and set(wide.levels) == {"none"}
    on_card(monkeypatch, wide.memory.peak - 1)
    less = memory.plan_memory(model, engine, recipe(), batch, lambda _: None)
    assert less is not None and less.levels == ("elementwise", "none", "none", "none") and less.fits
    memory.apply(model, less)
    layers = recompute.decoder_layers(model)
    assert ["forward" in vars(layer) for layer in layers] == [True, False, False, False]


def test_a_model_that_is_not_covered_is_left_to_transformers() -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(**SIZE, state_size=4)).train()
    engine = prepare(model, ROWS, attention="auto", say=lambda _: None)
    said: list[str] = []
    assert memory.plan_memory(model, engine, recipe(), Batch(30, 30), said.append) is None
    assert said[0].startswith("train: peak not predicted: ")


def test_more_is_recomputed_until_the_longest_batch_runs() -> None:
    tried: list[Sequence[Level]] = []

    def runs(levels: Sequence[Level]) -> bool:
        tried.append(levels)
        return set(levels) == {"full"}

    levels, failed = memory.first_that_runs(("none", "none"), runs)
    assert levels == ("full", "full") and failed == [("none", "none"), ("elementwise", "elementwise")]
    assert memory.first_that_runs(("elementwise", "none"), lambda _: True) == (("elementwise", "none"), [])
    assert memory.first_that_runs(("none", "none"), lambda _: False)[0] == ("full", "full")


def test_the_largest_batch_holds_the_longest_items() -> None:
    lengths = [5, 9, 3, 7]
    store = from_tokens([(n, Tokens(list(range(size)), [0] + [1] * (size - 1))) for n, size in enumerate(lengths)])
    plan = pack_rows(range(4), store.lengths(), capacity=12)
    items, batch = memory.largest_batch(store, plan, 1)
    assert len(items) == 1 and batch == Batch(12, 10)
    assert memory.largest_batch(store, plan, 99)[1] == Batch(24, 20)


def test_running_out_of_memory_names_settings_that_need_less(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = llama()
    on_card(monkeypatch, 24 << 30)
    start = recipe(gradient_checkpointing=False, global_batch_size=4096, micro_batch_size=4096)
    assert memory.what_fits(model, start) == "--set train.gradient_checkpointing=true"
    unknown = start.model_copy(update={"adapter": start.adapter.model_copy(update={"dropout": 0.1})})
    assert memory.what_fits(model, unknown) is None


def test_the_error_of_running_out_carries_the_settings_and_exit_code_5() -> None:
    plan = Plan(num_items=8, global_batch_size=4, num_steps=2, micro_batch_size=4, accumulation=1)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    found = _out_of_memory(plan, recipe(), "--set train.micro_batch_size=1", error)
    assert (found.exit_code, found.hint) == (5, "--set train.micro_batch_size=1")
    assert "micro_batch_size 4 and max_length 2048: CUDA out of memory. Tried to allocate 2 GiB" in found.message
    assert _out_of_memory(plan, recipe(), None, error).hint == "--set train.micro_batch_size=2"
