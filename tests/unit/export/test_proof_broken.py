"""A broken export is caught by the proof, and by `verify` wherever it can be seen without the base."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.unit.export.proving import FINGERPRINT, LIMITS, finish, request_for, sign, write_formats, write_trained
from trainer.export.judge import judge
from trainer.export.provenance import examine
from trainer.export.prover import prove
from trainer.export.request import Export


def _edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _first(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def _dropped_module(folder: Path) -> None:
    _edit_tensors(_weights(folder), lambda tensors: tensors.pop(_first(tensors, "down_proj")))


def _edited_weight(folder: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        name = _first(tensors, "o_proj")
        tensors[name][0, 0] += 2**-6

    _edit_tensors(_weights(folder), edit)


def _not_finite(folder: Path) -> None:
    _edit_tensors(_weights(folder), lambda tensors: tensors[_first(tensors, "o_proj")][1, 1].fill_(float("nan")))


def _truncated(folder: Path) -> None:
    data = _weights(folder).read_bytes()
    _weights(folder).write_bytes(data[: len(data) - 1000])


def _swapped_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")


def _missing_stop(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 1}))


def _empty(folder: Path) -> None:
    def clear(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.mul_(0 if "lora_B" in name else 1)

    _edit_tensors(_weights(folder), clear)


def _weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "dropped module": (_dropped_module, "down_proj"),
    "edited weight": (_edited_weight, "o_proj"),
    "not finite": (_not_finite, "not finite"),
    "truncated shard": (_truncated, "truncated"),
    "swapped template": (_swapped_template, "chat template"),
    "missing stop token": (_missing_stop, "does not stop at"),
}
CASES = [(kind, how) for kind in ("adapter", "merged") for how in BREAKS] + [("adapter", "empty")]


def _broken(proven: tuple[Path, Path, list[Export]], kind: str, how: str, folder: Path) -> Export:
    export = next(export for export in proven[2] if export.kind == kind)
    shutil.copytree(export.folder, folder)
    (_empty if how == "empty" else BREAKS[how][0])(folder)
    return replace(export, folder=str(folder), name=f"{kind} {how}")


@pytest.fixture(scope="module")
def actual(
    proven: tuple[Path, Path, list[Export]], tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any
) -> dict[str, Any]:
    """What the proof finds in every broken export, signed so that no hash gives it away."""
    index, exports = tmp_path_factory.mktemp("broken"), []
    for kind, how in CASES:
        exports.append(_broken(proven, kind, how, index / f"{kind} {how}"))
        sign(Path(exports[-1].folder), kind, tiny_tokenizer)
    answer: dict[str, Any] = prove(request_for("lora", proven[0], proven[1], tiny_tokenizer, exports))["exports"]
    return answer


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_broken_export_is_caught_by_the_proof(kind: str, how: str, actual: dict[str, Any]) -> None:
    item = actual[f"{kind} {how}"]
    assert not judge(kind, "float32" if kind == "adapter" else "bfloat16", item, None, LIMITS)["passed"]
    text = " ".join(item["findings"])
    assert ("zero" if how == "empty" else BREAKS[how][1]) in text, text


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_broken_export_is_caught_by_verify(
    kind: str, how: str, proven: tuple[Path, Path, list[Export]], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    _broken(proven, kind, how, tmp_path / "broken")
    assert any("exported" in finding for finding in examine(tmp_path / "broken").findings)
    if how not in ("dropped module", "edited weight"):  # these only hashes and the base can show
        sign(tmp_path / "broken", kind, tiny_tokenizer)
        text = " ".join(examine(tmp_path / "broken").findings)
        assert ("zero" if how == "empty" else BREAKS[how][1]) in text, text


def test_verify_sees_missing_foreign_and_edited_files(
    proven: tuple[Path, Path, list[Export]], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    export = next(export for export in proven[2] if export.kind == "merged")
    folder = tmp_path / "copy"
    shutil.copytree(export.folder, folder)
    assert examine(folder).findings == []
    (folder / "config.json").unlink()
    (folder / "extra.bin").write_bytes(b"1")
    provenance = folder / "provenance.json"
    provenance.write_text(provenance.read_text().replace(FINGERPRINT, "that export"))
    text = "; ".join(examine(folder).findings)
    assert "config.json is missing" in text and "extra.bin is not part" in text and "was edited" in text


def test_an_older_export_is_not_taken_for_the_new_one(
    proven: tuple[Path, Path, list[Export]], tiny_tokenizer: Any
) -> None:
    export = replace(proven[2][0], fingerprint="a newer export")
    answer = prove(request_for("lora", proven[0], proven[1], tiny_tokenizer, [export]))
    assert answer["exports"]["adapter"]["findings"] == ["it was written by another export"]


def test_the_base_model_is_not_taken_for_the_tuned_one(
    proven: tuple[Path, Path, list[Export]], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    export = next(export for export in proven[2] if export.kind == "merged")
    shutil.copytree(export.folder, tmp_path / "base")
    shutil.copyfile(_weights(proven[0]), _weights(tmp_path / "base"))
    sign(tmp_path / "base", "merged", tiny_tokenizer)
    answer = prove(request_for("lora", *proven[:2], tiny_tokenizer, [replace(export, folder=str(tmp_path / "base"))]))
    actual = judge("merged", "float32", answer["exports"]["merged"], None, LIMITS)
    assert not actual["passed"] and "outputs are those of the base model" in actual["because"]
    assert any("is not base plus update" in finding for finding in actual["findings"])


# What only the proof can see, and folders that cannot even be opened


@pytest.mark.parametrize("kind", ["embeddings", "head"])
def test_pefts_own_merge_of_tied_embeddings_is_caught(
    kind: str, base: Callable[[str], Path], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    folder = base("Llama")
    trained = write_trained(kind, folder, tmp_path / "trained")
    export = write_formats(kind, folder, trained, tmp_path, tiny_tokenizer)[1]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    for path in Path(export.folder).glob("*.safetensors"):
        path.unlink()
    PeftModel.from_pretrained(model, str(trained)).merge_and_unload().save_pretrained(export.folder)
    finish(export, folder, tiny_tokenizer)
    answer = prove(request_for("lora", folder, trained, tiny_tokenizer, [export]))
    actual = judge("merged", "bfloat16", answer["exports"]["merged"], None, LIMITS)
    assert not actual["passed"] and "is not base plus update" in "; ".join(actual["findings"])


def _no_settings(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _other_rank(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 8}))


def _damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 1}')


def _no_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no such"}')


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("adapter", _no_settings, "peft_type is None"),
        ("adapter", _other_rank, "rank 4, adapter_config.json says 8"),
        ("adapter", _damaged_tokenizer, "tokenizer cannot be opened"),
        ("merged", _damaged_tokenizer, "tokenizer cannot be opened"),
        ("merged", _no_config, "cannot be opened"),
    ],
)
def test_a_folder_that_cannot_be_opened_is_a_finding(
    kind: str,
    change: Callable[[Path], None],
    message: str,
    proven: tuple[Path, Path, list[Export]],
    tmp_path: Path,
    tiny_tokenizer: Any,
) -> None:
    export = next(export for export in proven[2] if export.kind == kind)
    shutil.copytree(export.folder, tmp_path / "broken")
    change(tmp_path / "broken")
    sign(tmp_path / "broken", kind, tiny_tokenizer)
    export = replace(export, folder=str(tmp_path / "broken"))
    findings = prove(request_for("lora", *proven[:2], tiny_tokenizer, [export]))["exports"][kind]["findings"]
    assert any(part in " ".join(findings) for part in message.split("|")), findings


def test_a_truncated_shard_of_a_fully_tuned_model_is_a_finding(
    base: Callable[[str], Path], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    folder = base("Llama")
    trained = write_trained("none", folder, tmp_path / "trained")
    export = write_formats("none", folder, trained, tmp_path, tiny_tokenizer)[0]
    _truncated(Path(export.folder))
    sign(Path(export.folder), "merged", tiny_tokenizer)
    actual = prove(request_for("none", folder, trained, tiny_tokenizer, [export]))["exports"]["merged"]
    assert "truncated" in " ".join(actual["findings"]) and "mean_kl" not in actual


def test_an_adapter_of_another_architecture_is_a_finding(
    proven: tuple[Path, Path, list[Export]], base: Callable[[str], Path], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    second = write_trained("lora", base("Mixtral"), tmp_path / "other")
    export = next(export for export in proven[2] if export.kind == "adapter")
    shutil.copytree(export.folder, tmp_path / "copy")
    shutil.copy(second / "adapter_model.safetensors", tmp_path / "copy")
    sign(tmp_path / "copy", "adapter", tiny_tokenizer)
    export = replace(export, folder=str(tmp_path / "copy"))
    answer = prove(request_for("lora", *proven[:2], tiny_tokenizer, [export]))
    assert not judge("adapter", "float32", answer["exports"]["adapter"], None, LIMITS)["passed"]
    assert answer["exports"]["adapter"]["findings"]
