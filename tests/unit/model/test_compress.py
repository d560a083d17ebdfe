"""fp8 by llm-compressor: written apart, opened by plain transformers, and refused where something is missing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proving import FINGERPRINT, LIMITS, finish, request_for, sign, write_trained
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from trainer.errors import HardwareError
from trainer.model.compress import compressor
from trainer.model.compress.compressor import check_compressor, write_compressed
from trainer.model.merge import MergePlan
from trainer.model.proof import judge
from trainer.model.prove import Export, Request, prove
from trainer.model.stored import not_finite
from trainer.model.written import write_merged

needs_compressor = pytest.mark.skipif(
    not ((compressor.FOLDER / "bin" / "python").is_file() and importlib.util.find_spec("compressed_tensors")),
    reason="needs llm-compressor in its own environment: scripts/compress.sh",
)
SCRIPT = Path(__file__).parents[3] / "scripts" / "compress.sh"


@pytest.fixture(scope="module")
def fp8(
    tmp_path_factory: pytest.TempPathFactory, base: Callable[[str], Path], tiny_tokenizer: Any
) -> tuple[Request, Export]:
    """A LoRA merged in bfloat16, written as fp8."""
    place, folder = tmp_path_factory.mktemp("fp8"), base("Llama")
    trained = write_trained("lora", folder, place / "trained")
    plan = MergePlan(dtype="bfloat16", stop_id=tiny_tokenizer.eos_token_id)
    write_merged(folder, trained, place / "merged", plan, lambda line: None)
    write_compressed("fp8", place / "merged", place / "fp8", python=None, max_shard_gb=1)
    export = finish(Export("fp8", "fp8", str(place / "fp8"), fingerprint=FINGERPRINT), folder, tiny_tokenizer)
    return request_for("lora", folder, trained, tiny_tokenizer, [export]), export


@needs_compressor
def test_fp8_passes_its_proof_and_holds_eight_bits(fp8: tuple[Request, Export]) -> None:
    request, export = fp8
    found = judge("fp8", "float8_e4m3fn", prove(request)["exports"]["fp8"], None, LIMITS)
    assert found["passed"], found["because"]
    assert 0 < found["mean_kl"] < found["differs_from_base"]["mean_kl"]
    with safe_open(Path(export.folder) / "model.safetensors", framework="pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    linear = [name for name in kinds if name.endswith("_proj.weight")]
    assert len(linear) == 14 and {kinds[name] for name in linear} == {"F8_E4M3"}
    assert kinds["model.embed_tokens.weight"] == "BF16"
    config = json.loads((Path(export.folder) / "config.json").read_text())
    assert config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["dynamic"] is True


@needs_compressor
@pytest.mark.parametrize("fault", ["wrong scales", "a scale is missing"])
def test_a_wrong_fp8_folder_fails_its_proof(
    fault: str, fp8: tuple[Request, Export], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    request, export = fp8
    copy = shutil.copytree(export.folder, tmp_path / "fp8")
    file = copy / "model.safetensors"
    tensors = load_file(file)
    scale = next(name for name in sorted(tensors) if name.endswith("mlp.down_proj.weight_scale"))
    if fault == "wrong scales":
        tensors[scale] = tensors[scale] * 16
    else:
        del tensors[scale]
    save_file(tensors, file, metadata={"format": "pt"})
    sign(copy, "fp8", tiny_tokenizer)
    changed = Export("fp8", "fp8", str(copy), fingerprint=FINGERPRINT)
    request = Request(**{**vars(request), "exports": [changed]})
    found = judge("fp8", "float8_e4m3fn", prove(request)["exports"]["fp8"], None, LIMITS)
    assert not found["passed"]
    assert ("same best token" if fault == "wrong scales" else f"{scale} is missing") in found["because"]


@needs_compressor
def test_what_the_compressor_cannot_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    with pytest.raises(HardwareError, match=r"fp8: llm-compressor failed: .*nosuch") as caught:
        write_compressed("fp8", tmp_path, tmp_path / "out", python=None, max_shard_gb=1)
    assert caught.value.hint == "leave fp8 out of export.formats"


# What is missing


def test_a_missing_compressor_is_named_with_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressor, "FOLDER", tmp_path)
    with pytest.raises(HardwareError, match="llm-compressor is not installed") as caught:
        check_compressor(None)
    assert caught.value.exit_code == 5 and caught.value.hint == compressor.INSTALL
    with pytest.raises(HardwareError, match=r"export\.compress\.python: no such program") as caught:
        check_compressor(str(tmp_path / "python"))
    assert compressor.INSTALL in str(caught.value.hint)


def test_an_interpreter_without_the_compressor_is_named() -> None:
    if importlib.util.find_spec("llmcompressor"):
        pytest.skip("this environment has llm-compressor itself")
    with pytest.raises(HardwareError, match="has no llm-compressor"):
        check_compressor(sys.executable)


def test_a_missing_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 0.14.0.1\n")
    python.chmod(0o755)
    monkeypatch.setattr(compressor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HardwareError, match="compressed-tensors") as caught:
        check_compressor(str(python))
    assert "recipe-trainer[compressed]" in str(caught.value.hint)


def test_the_script_installs_what_the_hint_names() -> None:
    assert " ".join(compressor.PINS) in SCRIPT.read_text()


def test_a_nan_in_eight_bits_is_found(tmp_path: Path) -> None:
    import torch

    good = torch.tensor([448.0, -448.0, 0.0]).to(torch.float8_e4m3fn)  # the largest numbers of the type
    bad = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    save_file({"good": good, "bad": bad}, tmp_path / "m.safetensors")
    assert list(not_finite(tmp_path / "m.safetensors")) == ["bad"]
