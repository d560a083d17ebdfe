"""Predicted bytes: equal to those of real models where they are counted, and sensible where they are chosen by."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from trainer.engine import lora
from trainer.errors import HardwareError, RecipeError
from trainer.model.planning import advice, gpus, planner
from trainer.model.planning.model_shape import NotPredictedError, Outline, read
from trainer.model.planning.predictor import MicroBatch, Predictor
from trainer.model.planning.quantised_sizes import four_bit_bytes
from trainer.model.source import ModelSource, locate
from trainer.recipe import Recipe

SIZE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"mlp_bias": True, "attention_bias": True},
    "Mistral": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Gemma": {"head_dim": 16},
    "Phi3": {},
    "SmolLM3": {},
}
EIGHT = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
"""Llama 3.1 8B. Source: https://huggingface.co/meta-llama/Llama-3.1-8B, config.json."""
SEVENTY = EIGHT | {
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
}
"""Llama 3.1 70B. Source: https://huggingface.co/meta-llama/Llama-3.1-70B, config.json."""


def recipe(folder: Path | str = "x", **sections: Any) -> Recipe:
    model = {"name_or_path": str(folder)} | sections.pop("model", {})
    data = {"sources": [{"path": "x.jsonl"}]}
    return Recipe.model_validate({"recipe_version": 1, "name": "plan", "model": model, "data": data, **sections})


def made(family: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZE, **FAMILIES[family])
    return getattr(transformers, f"{family}ForCausalLM")(config)


def folder_of(config: dict[str, Any], at: Path) -> Path:
    (at / "config.json").write_text(json.dumps(config))
    (at / "model.safetensors").touch()
    return at


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_a_saved_model_are_counted_to_the_byte(family: str, tmp_path: Path) -> None:
    model = made(family)
    model.save_pretrained(tmp_path)
    outline = read(locate(str(tmp_path)))
    predictor = Predictor(outline, recipe(adapter={"kind": "none"}), is_cuda=False)
    assert predictor.weights() == sum(weight.nbytes for weight in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_gradients_and_optimizer_states_are_counted_to_the_byte(family: str) -> None:
    model = get_peft_model(made(family), LoraConfig(r=8, target_modules="all-linear"))
    predictor = Predictor(Outline.of(model.config.to_dict()), recipe(adapter={"kind": "lora", "r": 8}), is_cuda=False)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    memory = predictor.predict(("none", "none"), MicroBatch(10, 5))
    assert memory.adapters == memory.gradients == predictor.gradients == sum(weight.nbytes for weight in trained)
    optimizer = torch.optim.AdamW(trained)
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert memory.optimizer == sum(value.nbytes for value in states)


def test_weights_with_a_margin_for_the_adapter_are_counted_to_the_byte() -> None:
    model = get_peft_model(made("Llama"), LoraConfig(r=8, target_modules=["q_proj", "down_proj"]))
    lora.switch_on(model)
    adapter = {"kind": "lora", "r": 8, "target_modules": ["q_proj", "down_proj"]}
    predictor = Predictor(Outline.of(model.config.to_dict()), recipe(adapter=adapter), is_cuda=False)
    frozen = {
        weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
        for weight in model.parameters()
        if not weight.requires_grad
    }
    assert predictor.weights() == sum(frozen.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", [r".*_proj", r".*self_attn\.(q|k|qkv)_proj", r".*layers\.[01]\.mlp\..*_proj"])
def test_a_pattern_adapts_what_peft_adapts(family: str, pattern: str) -> None:
    model = get_peft_model(made(family), LoraConfig(r=8, target_modules=pattern))
    adapted = {
        name.removeprefix("base_model.model.") for name, part in model.named_modules() if hasattr(part, "lora_A")
    }
    matched = Outline.of(model.config.to_dict()).matched(pattern)
    assert {(name.split(".")[2], name.rsplit(".", 1)[1]) for name in adapted} == {
        (str(index), name) for index, names in enumerate(matched) for name in names
    }


def test_a_pattern_is_predicted_where_all_blocks_are_alike(tmp_path: Path) -> None:
    def lines(modules: Any) -> list[str]:
        adapter = {"kind": "lora", "target_modules": modules}
        return list(advice.lines(recipe(folder_of(EIGHT, tmp_path), adapter=adapter)))

    assert lines(r".*\.(q|v)_proj") == lines(["q_proj", "v_proj"])
    assert lines(r".*layers\.(1|2)\..*_proj")[0].endswith("not predicted")


def test_a_pattern_that_matches_nothing_is_refused_before_training(tmp_path: Path) -> None:
    adapter = {"kind": "lora", "target_modules": r"q_proj|v_proj"}
    with pytest.raises(RecipeError, match="matches no layer") as caught:
        list(advice.lines(recipe(folder_of(EIGHT, tmp_path), adapter=adapter)))
    assert "q_proj" in (caught.value.hint or "")


@pytest.mark.parametrize("modules", [["q_proj", "v_prj"], ["qproj"], ["model.layers.0.self_attn.q_prj"]])
def test_a_misspelt_name_of_a_layer_is_refused_before_training(modules: list[str], tmp_path: Path) -> None:
    adapter = {"kind": "lora", "target_modules": modules}
    with pytest.raises(RecipeError, match=r"no layer is called .* did you mean `[qv]_proj`"):
        list(advice.lines(recipe(folder_of(EIGHT, tmp_path), adapter=adapter)))


@pytest.mark.parametrize("double", [True, False], ids=["double", "single"])
@pytest.mark.parametrize("shape", [(256, 512), (192, 33 * 64), (70, 100)])
def test_four_bit_weights_are_counted_to_the_byte(shape: tuple[int, int], double: bool) -> None:
    packed, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(shape), blocksize=64, quant_type="nf4", compress_statistics=double
    )
    tensors = [packed, state.absmax, state.code]
    if double:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    assert four_bit_bytes(shape[0] * shape[1], double=double) == sum(tensor.nbytes for tensor in tensors)


def test_a_layer_of_eight_billion_keeps_what_was_counted_by_hand() -> None:
    predictor = Predictor(Outline.of(EIGHT), recipe(adapter={"kind": "lora", "r": 16}), is_cuda=True)
    hidden, query, key, gate = 8192, 8192, 2048, 28672  # bytes of one token in bfloat16
    small = 7 * 16 * 2 + 32  # the small products, and that of the values twice: it lies beside them
    kept_bytes = predictor.layer.kept
    assert (kept_bytes("full"), kept_bytes("offload")) == (hidden, 0)
    # inputs of both norms; query, key, value, output and its 32 sums; gate and up: 92 KiB with the small products
    assert kept_bytes("elementwise") == 2 * hidden + 2 * query + 2 * key + 32 * 4 + 2 * gate + small
    # besides: both norms in float32 instead, their outputs, the activation and the product
    assert kept_bytes("none") == kept_bytes("elementwise") + 2 * (hidden + 4) + 2 * hidden + 2 * gate
    assert predictor.weights() - 2 * 8_030_261_248 == 2 * 32 * sum(
        16 * (outputs + inputs + 16)
        for outputs, inputs in [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(14336, 4096)] * 2 + [(4096, 14336)]
    )


LEVEL_ASKED = {True: "full", False: "none", "full": "full", "elementwise": "elementwise", "offload": "offload"}


@pytest.mark.parametrize("setting", LEVEL_ASKED)
def test_the_recipe_decides_on_recompute_when_it_says(setting: bool | str) -> None:
    start = recipe(train={"gradient_checkpointing": setting})
    result = advice.planned(start, Outline.of(EIGHT), gpus.CARDS["H100-80GB"])
    assert set(result.levels) == {LEVEL_ASKED[setting]}


def test_check_says_what_fits(tmp_path: Path) -> None:
    folder = folder_of(EIGHT, tmp_path)
    memory, step = advice.lines(recipe(folder, launch={"card": "H100-80GB"}))
    assert memory.startswith("memory: H100-80GB has 79.6 GiB") and memory.endswith("fits")
    assert "recompute none" in memory and step.startswith("step: ")
    memory, _ = advice.lines(recipe(folder, launch={"card": "RTX4090-24GB"}, adapter={"kind": "none"}))
    assert "does not fit; this would: --set adapter.kind=lora" in memory


def test_the_setting_that_is_named_does_fit(tmp_path: Path) -> None:
    outline, card = Outline.of(EIGHT), gpus.Card("small", 12 << 30, is_cuda=True)
    start = recipe(train={"gradient_checkpointing": False}, pack={"max_length": 4096})
    assert not advice.planned(start, outline, card).fits
    settings = advice.fixes(start, outline, card)
    assert settings is not None
    sections: dict[str, Any] = {"train": {"gradient_checkpointing": False}, "pack": {"max_length": 4096}}
    sections |= {"adapter": {"kind": "lora"}}
    for text in settings.replace("--set ", "").split():
        path, value = text.split("=")
        section, key = path.split(".")
        sections[section][key] = {"true": True}.get(value, int(value) if value.isdigit() else value)
    assert advice.planned(recipe(**sections), outline, card).fits


def test_after_running_out_the_fix_needs_clearly_less() -> None:
    outline, card = Outline.of(EIGHT), gpus.CARDS["H100-80GB"]
    start = recipe(pack={"max_length": 8192}, train={"gradient_checkpointing": False, "micro_batch_size": 1})
    failed = advice.planned(start, outline, card)
    assert failed.fits  # and yet it ran out
    assert advice.after_running_out(start, outline, failed) == "--set train.gradient_checkpointing=true"
    # a plan would fill the card again: it is told the size as well
    start = recipe(pack={"max_length": 4096})
    failed = advice.planned(start, outline, card)
    text = advice.after_running_out(start, outline, failed)
    assert text == "--set train.gradient_checkpointing=true --set train.micro_batch_size=2"


def on(card: str, config: dict[str, Any], **sections: Any) -> planner.MemoryPlan:
    host = replace(gpus.CARDS[card], host_memory=256 << 30)
    return advice.planned(recipe(**sections), Outline.of(config), host)


def test_seventy_billion_weights_in_four_bits_train_on_one_card_of_80_gb() -> None:
    result = on("H100-80GB", SEVENTY, adapter={"kind": "qlora", "r": 16}, pack={"max_length": 4096})
    assert result.fits and 0.45 < result.memory.weights / result.memory.total < 0.5
    assert advice.described(result.levels).startswith("full in the first")
    longer = on("H100-80GB", SEVENTY, adapter={"kind": "qlora", "r": 16}, pack={"max_length": 32768})
    assert longer.fits and "offload" in longer.levels and longer.memory.host > 10 << 30
    smaller = {"optim": "adamw_8bit", "global_batch_size": 16}
    assert on("L40S-48GB", SEVENTY, adapter={"kind": "qlora", "r": 16}, pack={"max_length": 4096}, train=smaller).fits


@pytest.mark.parametrize("length", [32768, 131072])
def test_long_packs_of_eight_billion_fit_on_80_gb(length: int) -> None:
    result = on("H100-80GB", EIGHT, adapter={"kind": "lora", "r": 16}, pack={"max_length": length})
    assert result.fits and set(result.levels) & {"full", "offload"} and result.batch.tokens == length


def test_eight_billion_in_four_bits_take_less_than_7_gb_where_that_is_asked_for() -> None:
    train = {"gradient_checkpointing": True, "optim": "adamw_8bit", "global_batch_size": 1}
    sections = {"adapter": {"kind": "qlora", "r": 16}, "pack": {"max_length": 2048}}
    assert on("H100-80GB", EIGHT, train=train, **sections).memory.peak < 7e9
    # with more micro-batches gradients are there from the start; a plan uses the card
    more = train | {"global_batch_size": 2, "micro_batch_size": 1}
    assert 7.1e9 < on("H100-80GB", EIGHT, train=more, **sections).memory.peak < 7.2e9
    assert on("H100-80GB", EIGHT, train=train | {"gradient_checkpointing": "auto"}, **sections).memory.peak > 20e9


def test_every_process_has_buckets_for_gradients() -> None:
    start = recipe(adapter={"kind": "none"}, model={"dtype": "bfloat16"})
    alone, among = (Predictor(Outline.of(EIGHT), start, is_cuda=True, processes=number) for number in (1, 4))
    levels, batch = ("full",) * 32, MicroBatch(1024, 1024)
    assert among.predict(levels, batch).peak - alone.predict(levels, batch).peak == alone.gradients == 2 * 8_030_261_248


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"adapter": {"kind": "lora", "use_dora": True}}, "use_dora"),
        ({"adapter": {"kind": "lora", "dropout": 0.1}}, "dropout"),
        ({"adapter": {"kind": "lora", "target_modules": ["nowhere"]}}, "nowhere"),
        ({"launch": {"strategy": "fsdp2"}}, "fsdp2"),
        ({"launch": {"strategy": "zero3"}, "adapter": {"kind": "none"}}, "zero3"),
    ],
)
def test_what_is_not_known_is_not_predicted(sections: dict[str, Any], reason: str, tmp_path: Path) -> None:
    (line,) = advice.lines(recipe(folder_of(EIGHT, tmp_path), **sections))
    assert reason in line and line.endswith("not predicted")


@pytest.mark.parametrize(("processes", "micro"), [(2, 4), (3, 2)])
def test_sizes_that_do_not_fit_the_processes_are_refused(processes: int, micro: int, tmp_path: Path) -> None:
    sections = {"train": {"global_batch_size": 4, "micro_batch_size": micro}, "launch": {"num_processes": processes}}
    with pytest.raises(RecipeError):
        list(advice.lines(recipe(folder_of(EIGHT, tmp_path), **sections)))


def test_settings_that_a_recipe_may_not_have_are_not_proposed(tmp_path: Path) -> None:
    train = {"optimizer_in_backward": True, "max_grad_norm": 0, "gradient_checkpointing": False}
    complete = recipe(
        folder_of(EIGHT, tmp_path), adapter={"kind": "none"}, train=train, launch={"card": "RTX4090-24GB"}
    )
    line, _ = advice.lines(complete)
    assert "does not fit" in line and "adapter.kind" not in line


def test_other_families_are_not_predicted(tmp_path: Path) -> None:
    (line,) = advice.lines(recipe(folder_of(EIGHT | {"model_type": "mamba"}, tmp_path)))
    assert line.startswith("memory: mamba models are not predicted")


def test_a_model_of_the_hub_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    source = ModelSource("hub", "org/name", None)
    with pytest.raises(NotPredictedError, match="not in the local cache"):
        read(source)
    folder = tmp_path / "hub/models--org--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    (folder / "snapshots/abc").mkdir(parents=True)
    folder_of(EIGHT, folder / "snapshots/abc")
    assert read(source) == Outline.of(EIGHT)


def test_an_unknown_card_names_the_known_ones() -> None:
    with pytest.raises(HardwareError) as caught:
        list(advice.lines(recipe(launch={"card": "H1000"})))
    assert "H100-80GB" in caught.value.hint


@pytest.mark.parametrize(
    ("line", "flops"),
    [
        ("NVIDIA H100 80GB HBM3, 81559", 989e12),
        ("NVIDIA A100-SXM4-80GB, 81920", 312e12),
        ("NVIDIA GeForce RTX 4090, 24564", 165.2e12),
        ("NVIDIA L40S, 46068", 362e12),
        ("NVIDIA L4, 23034", 121e12),
        ("NVIDIA H200, 143771", 989e12),
        ("NVIDIA H100 PCIe, 81559", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb, 9856", None),
        ("Tesla T4, 15360", None),
    ],
)
def test_a_card_of_this_machine_is_found_in_the_table(line: str, flops: float | None) -> None:
    card = gpus.card_of_line(line)
    assert card.memory == int(line.split(",")[1]) << 20 and card.flops == flops


def test_cards_come_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "NVIDIA L4, 23034, 8.9\nNVIDIA L4, 23034, [N/A]\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=listing))
    assert [(card.name, card.capability) for card in gpus.installed_cards()] == [
        ("NVIDIA L4", (8, 9)),
        ("NVIDIA L4", None),
    ]

    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    assert gpus.installed_cards() == []
    assert gpus.host().memory > 1 << 30
