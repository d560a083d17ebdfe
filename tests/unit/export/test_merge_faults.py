"""Broken merges, bad input, killed merges."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.unit.export import merging
from trainer.errors import DivergedError, HardwareError, StageError, TrainerError
from trainer.export.merge import MergePlan, merge_streaming, replay
from trainer.export.merge import folder as folders

ADAPTER = "adapter_model.safetensors"
PLAN = MergePlan(max_shard_gb=4e-5)
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def silent(_: str) -> None:
    pass


class Case(NamedTuple):
    base: Path
    adapter: Path
    merged: Path

    def replay(self) -> Any:
        return replay(self.base, [(self.adapter, 1.0)], self.merged, PLAN)

    def merge(self, plan: MergePlan = PLAN, say: Callable[[str], None] = silent) -> Any:
        return merge_streaming(self.base, [(self.adapter, 1.0)], self.merged, plan, say)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("made")
    base = merging.make_base(folder / "base", dtype=torch.bfloat16, tie_word_embeddings=True)
    case = Case(base, merging.make_adapter(folder / "adapter", base), folder / "merged")
    case.merge()
    return case


@pytest.fixture
def case(project: Case, tmp_path: Path) -> Case:
    """A copy to break; `merged` is there."""
    for path in project:
        shutil.copytree(path, tmp_path / path.name)
    return Case(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")


@pytest.fixture
def fresh(case: Case) -> Case:
    """A copy whose merge is still to be done."""
    shutil.rmtree(case.merged)
    return case


def shard_of(case: Case, tensor: str) -> Path:
    return next(path for path in case.merged.glob("*.safetensors") if tensor in merging.load_file(path))


def test_a_whole_merge_passes(case: Case) -> None:
    actual = case.replay()
    assert actual.equal and actual.tensors == 20 and len(list(case.merged.glob("*.safetensors"))) > 3


def test_a_dropped_module_is_caught(case: Case) -> None:
    name = "model.layers.1.self_attn.v_proj.weight"
    plain = merging.weights(case.base)[name]
    merging.rewrite(shard_of(case, name), lambda actual: actual.update({name: plain}))
    actual = case.replay()
    assert actual.differing == [name] and not actual.equal
    assert any(name in line and "left as in the base" in line for line in actual.findings)


def test_swapped_tensors_are_caught(case: Case) -> None:
    item, two = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    values = merging.weights(case.merged)
    merging.rewrite(shard_of(case, item), lambda actual: actual.update({item: values[two]}))
    merging.rewrite(shard_of(case, two), lambda actual: actual.update({two: values[item]}))
    assert case.replay().differing == [item, two]


def test_a_changed_untouched_tensor_is_caught(case: Case) -> None:
    name = "model.norm.weight"
    merging.rewrite(shard_of(case, name), lambda actual: actual[name][0].add_(0.01))
    assert case.replay().differing == [name]


def test_a_truncated_shard_is_caught(case: Case) -> None:
    path = sorted(case.merged.glob("*.safetensors"))[1]
    os.truncate(path, path.stat().st_size - 10)
    actual = case.replay()
    assert not actual.equal and path.name in actual.findings[0]


def test_a_missing_tensor_is_caught(case: Case) -> None:
    name = "model.norm.weight"
    merging.rewrite(shard_of(case, name), lambda actual: actual.pop(name))
    actual = case.replay()
    assert not actual.equal and name in actual.findings[0]


def test_embeddings_merged_into_both_ends_are_caught(case: Case, tmp_path: Path) -> None:
    adapter = merging.make_adapter(tmp_path / "tied", case.base, target_modules=["embed_tokens", "q_proj"])
    wrong = merging.adapted(case.base, [(adapter, 1.0)]).merge_and_unload(safe_merge=False)
    wrong.to(torch.bfloat16).save_pretrained(tmp_path / "wrong")
    actual = replay(case.base, [(adapter, 1.0)], tmp_path / "wrong", MergePlan())
    assert not actual.equal and "lm_head.weight" in actual.differing
    assert any("ties" in line for line in actual.findings)


def test_an_adapter_tensor_without_a_home_is_reported(case: Case) -> None:
    merging.rewrite(case.adapter / ADAPTER, lambda actual: actual.update({f"{Q}.lora_C.weight": torch.ones(2)}))
    actual = case.replay()
    assert not actual.equal and actual.unused_adapter_tensors == [f"{Q}.lora_C.weight"]


def zero_one(actual: dict[str, torch.Tensor]) -> None:
    actual[f"{Q}.lora_B.weight"].zero_()


def test_a_single_zero_matrix_is_a_finding(fresh: Case) -> None:
    merging.rewrite(fresh.adapter / ADAPTER, zero_one)
    fresh.merge()
    actual = fresh.replay()
    assert not actual.differing and not actual.equal
    assert any("all zero" in line for line in actual.findings)


def zero_all(actual: dict[str, torch.Tensor]) -> None:
    for name, tensor in actual.items():
        tensor.mul_("lora_A" in name)


def not_a_number(actual: dict[str, torch.Tensor]) -> None:
    actual[f"{Q}.lora_A.weight"][0, 0] = float("nan")


def lost(actual: dict[str, torch.Tensor]) -> None:
    actual.pop(f"{Q}.lora_B.weight")


def another_shape(actual: dict[str, torch.Tensor]) -> None:
    actual[f"{Q}.lora_B.weight"] = torch.ones(48, 4)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (zero_all, StageError, "every B matrix is zero"),
        (not_a_number, DivergedError, "not finite"),
        (lost, StageError, r"q_proj\.lora_B\.weight is missing"),
        (another_shape, StageError, r"\(48, 4\), the model needs \(64, 4\)"),
    ],
)
def test_bad_adapters_are_refused(change: Any, error: type[TrainerError], match: str, fresh: Case) -> None:
    merging.rewrite(fresh.adapter / ADAPTER, change)
    with pytest.raises(error, match=match):
        fresh.merge()


def test_an_adapter_of_another_architecture_is_refused(fresh: Case, tmp_path: Path) -> None:
    second = merging.make_base(tmp_path / "other", "GPT2")
    with pytest.raises(StageError, match="the adapter does not fit this base model"):
        merge_streaming(second, [(fresh.adapter, 1.0)], fresh.merged, PLAN, silent)
    wide = merging.make_base(tmp_path / "wide", hidden_size=128)
    with pytest.raises(StageError, match="does not fit"):
        merge_streaming(wide, [(fresh.adapter, 1.0)], fresh.merged, PLAN, silent)


def test_another_base_than_the_trained_one_is_refused(fresh: Case) -> None:
    trained = {"model.safetensors": merging.hash_folder(fresh.base)["model.safetensors"]}
    merging.rewrite(fresh.base / "model.safetensors", lambda actual: actual["model.norm.weight"].add_(1))
    with pytest.raises(StageError, match="is not what the adapter was trained on: sha256"):
        fresh.merge(MergePlan(base_sha256=trained))
    with pytest.raises(StageError, match="is missing"):
        fresh.merge(MergePlan(base_sha256={"model-00001.safetensors": "0"}))


def test_a_truncated_base_is_refused(fresh: Case) -> None:
    path = fresh.base / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StageError, match=r"base/model\.safetensors cannot be read"):
        fresh.merge()


def test_a_quantised_base_is_refused(fresh: Case) -> None:
    config = (fresh.base / "config.json").read_text()
    quantised = '"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}, "bos_token_id"'
    (fresh.base / "config.json").write_text(config.replace('"bos_token_id"', quantised))
    with pytest.raises(HardwareError, match="quantised"):
        fresh.merge()


def test_an_existing_export_is_never_taken_for_the_new_one(case: Case) -> None:
    with pytest.raises(StageError, match="exists already"):
        case.merge()


def test_a_folder_in_use_is_refused(fresh: Case) -> None:
    with folders.locked(fresh.merged), pytest.raises(StageError, match=f"in use by process {os.getpid()}"):
        fresh.merge()
    fresh.merge()
    assert [path.name for path in fresh.merged.parent.glob("*merged*")] == ["merged"]


def test_a_disk_too_small_is_refused_before_anything_is_written(fresh: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    small = shutil.disk_usage(fresh.base)._replace(free=10**6)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _: small)
    with pytest.raises(HardwareError, match=r"needs 0\.1 GB"):
        fresh.merge()
    assert not fresh.merged.exists()


def test_a_disk_that_runs_full_is_named_and_the_rest_is_kept(fresh: Case, project: Case) -> None:
    def full(line: str) -> None:
        if "shard 2 of" in line:
            raise OSError(28, "No space left on device")

    with pytest.raises(HardwareError, match="is full"):
        fresh.merge(say=full)
    assert fresh.merge().resumed_shards == 2
    assert merging.hash_folder(fresh.merged) == merging.hash_folder(project.merged)


def killed_after(case: Case, shard: int) -> None:
    """Run the merge in a child that kills itself."""

    def say(line: str) -> None:
        if f"shard {shard} of" in line:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            case.merge(say=say)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_killed_merge_goes_on_and_gives_the_same_bytes(fresh: Case, project: Case) -> None:
    killed_after(fresh, 2)
    assert not fresh.merged.exists()
    report = fresh.merge()
    assert report.resumed_shards == 2
    assert merging.hash_folder(fresh.merged) == merging.hash_folder(project.merged)
    assert report.survival["mean"] > 0


def test_shards_of_another_merge_or_damaged_ones_are_written_again(fresh: Case, project: Case) -> None:
    killed_after(fresh, 2)
    first = sorted(folders.partial_folder(fresh.merged).glob("*.safetensors"))[0]
    with first.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert fresh.merge().resumed_shards == 1
    assert merging.hash_folder(fresh.merged) == merging.hash_folder(project.merged)
    shutil.rmtree(fresh.merged)
    killed_after(fresh, 2)
    assert fresh.merge(MergePlan(max_shard_gb=4e-5, seed=3)).resumed_shards == 0


def test_what_cannot_be_streamed_is_merged_in_memory_and_says_so(fresh: Case, tmp_path: Path) -> None:
    adapter = merging.make_adapter(tmp_path / "vera", fresh.base)
    path = adapter / "adapter_config.json"
    path.write_text(path.read_text().replace('"init_lora_weights": true', '"init_lora_weights": "pissa_niter_4"'))
    lines: list[str] = []
    report = merge_streaming(fresh.base, [(adapter, 1.0)], fresh.merged, PLAN, lines.append)
    assert not report.streamed and "in memory" in lines[0] and "pissa" in lines[0]
    assert merging.reopened(fresh.merged).config.vocab_size == 97
