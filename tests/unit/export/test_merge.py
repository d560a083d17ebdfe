"""A streamed merge is PEFT's merge, and the adapter model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.export import merging
from tests.zoo import models
from trainer.export.merge import MergePlan, merge_streaming, replay, shards

EXACT = MergePlan(dtype="float32")
VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "dora": {"use_dora": True},
    "saved_norm_and_head": {"modules_to_save": ["lm_head", "norm"]},
    "tokens": {"trainable_token_indices": [3, 50, 96]},
    "bias": {"bias": "all"},
    "lora_bias": {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding_dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "head": {"target_modules": ["lm_head", "q_proj"]},
}


def merge(base: Path, adapters: list[tuple[Path, float]], target: Path, plan: MergePlan = EXACT) -> Any:
    lines: list[str] = []
    report = merge_streaming(base, adapters, target, plan, lines.append)
    assert report.streamed, lines
    return report


def same_as_peft(base: Path, adapters: list[tuple[Path, float]], folder: Path, **kwargs: Any) -> None:
    """Tensors within 1e-6 of PEFT's merge, logits those of the adapter model, and the replay agrees."""
    target = folder / "merged"
    merge(base, adapters, target)
    expected, actual = merging.peft_merged(base, adapters, folder / "peft", **kwargs), merging.weights(target)
    assert set(actual) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-6, atol=1e-6, msg=name)
    same_logits(base, adapters, target, **kwargs)


def same_logits(base: Path, adapters: list[tuple[Path, float]], target: Path, **kwargs: Any) -> None:
    beside = merging.logits(merging.adapted(base, adapters, **kwargs))
    torch.testing.assert_close(merging.logits(merging.reopened(target)), beside, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merging.logits(merging.reopened(base))[..., :90], beside[..., :90], atol=1e-3)
    actual = replay(base, adapters, target, EXACT)
    assert actual.equal, actual


@pytest.mark.parametrize("family", merging.FAMILIES)
def test_a_streamed_merge_is_pefts_merge(family: str, tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", family)
    targets = merging.ATTENTION if family in ("Mixtral", "Qwen3Moe", "GptOss") else merging.LINEAR
    adapter = merging.make_adapter(tmp_path / "adapter", base, target_modules=targets)
    same_as_peft(base, [(adapter, 1.0)], tmp_path)


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe", "GptOss"])
def test_lora_on_fused_experts_reaches_every_expert(family: str, tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", family)
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    adapter = merging.make_adapter(
        tmp_path / "adapter", base, target_modules=["q_proj"], target_parameters=experts, lora_dropout=0.0
    )
    same_as_peft(base, [(adapter, 1.0)], tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_adapter_is_pefts_merge(variant: str, tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", attention_bias=True)
    adapter = merging.make_adapter(tmp_path / "adapter", base, **VARIANTS[variant])
    same_as_peft(base, [(adapter, 1.0)], tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_transposed_layers_are_pefts_merge(dora: bool, tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", "GPT2")
    adapter = merging.make_adapter(tmp_path / "adapter", base, target_modules=["c_attn", "c_fc"], use_dora=dora)
    same_as_peft(base, [(adapter, 1.0)], tmp_path)


def test_fused_projections_are_pefts_merge(tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", "Phi3")
    adapter = merging.make_adapter(tmp_path / "adapter", base, target_modules=["qkv_proj", "gate_up_proj"])
    same_as_peft(base, [(adapter, 1.0)], tmp_path)


def test_keys_keep_the_names_of_the_base_checkpoint(tmp_path: Path) -> None:
    """The hub's GPT-2 leaves out `transformer.`, that of Gemma 3 says `language_model.model.`."""
    base = merging.make_base(tmp_path / "gpt2", "GPT2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in merging.weights(base).items()}
    merging.save_file(bare, base / "model.safetensors", metadata={"format": "pt"})
    pictures = merging.make_multimodal(tmp_path / "gemma3")
    for folder, targets in ((base, ["c_attn"]), (pictures, r".*language_model.*q_proj")):
        adapter = merging.make_adapter(tmp_path / f"{folder.name}-adapter", folder, target_modules=targets)
        target = tmp_path / f"{folder.name}-merged"
        assert merge(folder, [(adapter, 1.0)], target).changed == 2
        same_logits(folder, [(adapter, 1.0)], target)
        assert set(merging.weights(target)) == set(merging.weights(folder))


@pytest.mark.parametrize("dora", [False, True])
def test_several_adapters_with_weights_are_pefts_merge(dora: bool, tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base")
    item = merging.make_adapter(tmp_path / "one", base, use_dora=dora)
    two = merging.make_adapter(tmp_path / "two", base, seed=2, target_modules=["q_proj", "gate_proj"])
    same_as_peft(base, [(item, 1.0), (two, 0.25)], tmp_path)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"trainable_token_indices": [97, 98, 99, 100]}, {"modules_to_save": ["embed_tokens", "lm_head"]}],
    ids=["plain", "token_rows", "saved"],
)
def test_new_tokens_make_the_vocabulary_grow(tied: bool, kwargs: dict[str, Any], tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", tie_word_embeddings=tied)
    adapter = merging.make_adapter(tmp_path / "adapter", base, vocab=101, **kwargs)
    merge(base, [(adapter, 1.0)], tmp_path / "merged")
    same_logits(base, [(adapter, 1.0)], tmp_path / "merged", vocab=101)
    assert merging.config(tmp_path / "merged")["vocab_size"] == 101


def test_a_head_with_fewer_rows_than_the_embeddings_stays_so(tmp_path: Path, tiny_tokenizer: Any) -> None:
    base = models.write("moshi", tmp_path / "base", tiny_tokenizer)
    adapter = merging.make_adapter(tmp_path / "adapter", base, target_modules=["linear"])
    merge(base, [(adapter, 1.0)], tmp_path / "merged")
    same_logits(base, [(adapter, 1.0)], tmp_path / "merged")
    assert merging.config(tmp_path / "merged")["vocab_size"] == merging.config(base)["vocab_size"]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=["embeddings", "head", "both", "ensure_weight_tying", "saved_embeddings", "saved_head"],
)
def test_tied_embeddings_come_apart_where_the_adapter_pulls_them_apart(kwargs: dict[str, Any], tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = merging.make_adapter(tmp_path / "adapter", base, **kwargs)
    assert merge(base, [(adapter, 1.0)], tmp_path / "merged").untied
    same_logits(base, [(adapter, 1.0)], tmp_path / "merged")
    assert merging.config(tmp_path / "merged")["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"trainable_token_indices": [3, 50]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ],
    ids=["elsewhere", "token_rows", "saved_both"],
)
def test_tied_embeddings_stay_one_tensor_otherwise(kwargs: dict[str, Any], tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = merging.make_adapter(tmp_path / "adapter", base, **kwargs)
    assert not merge(base, [(adapter, 1.0)], tmp_path / "merged").untied
    same_logits(base, [(adapter, 1.0)], tmp_path / "merged")
    assert "lm_head.weight" not in merging.weights(tmp_path / "merged")


def test_16_bit_merges_round_once_and_leave_the_rest_alone(tmp_path: Path) -> None:
    base = merging.make_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = merging.make_adapter(tmp_path / "adapter", base)
    report = merge(base, [(adapter, 1.0)], tmp_path / "merged", MergePlan(rounding="nearest"))
    exact, before = merging.peft_merged(base, [(adapter, 1.0)], tmp_path / "peft"), merging.weights(base)
    actual = merging.weights(tmp_path / "merged")
    equal = sum(torch.equal(actual[name], exact[name].bfloat16()) for name in actual)
    assert equal == len(actual)
    untouched = [name for name in actual if not any(target in name for target in merging.LINEAR)]
    assert len(untouched) == report.copied and all(torch.equal(actual[name], before[name]) for name in untouched)
    assert (report.dtype, report.changed) == ("bfloat16", 10)
    assert merging.config(tmp_path / "merged")["dtype"] == "bfloat16"


def test_the_folder_is_complete_and_readable(tmp_path: Path, tiny_model_dir: Path) -> None:
    adapter = merging.make_adapter(tmp_path / "adapter", tiny_model_dir)
    merge(tiny_model_dir, [(adapter, 1.0)], tmp_path / "merged", MergePlan(stop_id=4, max_shard_gb=1e-4))
    files = {path.name: path for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= set(files)
    assert "model.safetensors.index.json" in files and "merge_state.json" not in files
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}
    assert merging.reopened(tmp_path / "merged").generation_config.eos_token_id in (4, [4])
    assert set(merging.hash_folder(tmp_path / "merged")) == set(files)
    assert [path.name for path in tmp_path.glob("*merged*")] == ["merged"]
    assert not list(tmp_path.glob(".*"))


def test_a_tensor_of_several_blocks_is_the_same_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_ELEMENTS", 1000)
    base = merging.make_base(tmp_path / "base", tie_word_embeddings=False)
    for name, kwargs in {
        "plain": {"target_modules": ["embed_tokens", "lm_head", "q_proj", "down_proj"]},
        "dora": {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "use_dora": True},
        "tokens": {"trainable_token_indices": [0, 15, 16, 96]},
    }.items():
        adapter = merging.make_adapter(tmp_path / name, base, **kwargs)
        (tmp_path / f"in-{name}").mkdir()
        same_as_peft(base, [(adapter, 1.0)], tmp_path / f"in-{name}")
