"""fp8, awq and gptq: written by llm-compressor, opened by plain transformers, refused where something is missing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.stores import pair_store, row_store
from tests.unit.export.proving import FINGERPRINT, LIMITS, finish, request_for, sign, write_trained
from trainer.errors import HardwareError
from trainer.export.compress import compressor
from trainer.export.compress.compressor import calibration_rows, check_compressor, write_compressed
from trainer.export.judge import judge
from trainer.export.merge import MergePlan, merge_streaming
from trainer.export.prover import prove
from trainer.export.request import Export, Request
from trainer.export.safetensors_check import not_finite
from trainer.recipe.export import Compress
from trainer.tokens.store import TokenStore

needs_compressor = pytest.mark.skipif(
    not ((compressor.FOLDER / "bin" / "python").is_file() and importlib.util.find_spec("compressed_tensors")),
    reason="needs llm-compressor in its own environment: scripts/compress.sh",
)
SCRIPT = Path(__file__).parents[3] / "scripts" / "compress.sh"
DTYPES = compressor.DTYPES
ROWS = [list(range(start, start + 60)) for start in range(3, 400, 20)]
"""Calibration: tokens of the tiny tokenizer, other ones than the proof asks for."""
FAMILIES = [("Llama", kind) for kind in DTYPES] + [(family, "gptq") for family in ("Qwen3", "Gemma2", "Mistral")]


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, base: Callable[[str], Path], tiny_tokenizer: Any
) -> Callable[[str, str], tuple[Request, Export, dict[str, Any]]]:
    """Gives a LoRA merged in bfloat16 and compressed: (request, export, facts) of a family and a format."""
    merged: dict[str, tuple[Path, Path]] = {}
    project: dict[tuple[str, str], tuple[Request, Export, dict[str, Any]]] = {}

    def merge(family: str) -> tuple[Path, Path]:
        path, folder = tmp_path_factory.mktemp("compress"), base(family)
        trained = write_trained("lora", folder, path / "trained")
        plan = MergePlan(dtype="bfloat16", stop_id=tiny_tokenizer.eos_token_id)
        merge_streaming(folder, [(trained, 1.0)], path / "merged", plan, lambda line: None)
        return trained, path / "merged"

    def compress(family: str, kind: str) -> tuple[Request, Export, dict[str, Any]]:
        trained, source = merged.setdefault(family, merged.get(family) or merge(family))
        target = source.with_name(kind)
        facts = write_compressed(kind, source, target, Compress(), ROWS, max_shard_gb=1)
        export = finish(Export(kind, kind, str(target), fingerprint=FINGERPRINT), base(family), tiny_tokenizer)
        return request_for("lora", base(family), trained, tiny_tokenizer, [export]), export, facts

    def give(family: str, kind: str) -> tuple[Request, Export, dict[str, Any]]:
        if (family, kind) not in project:
            project[family, kind] = compress(family, kind)
        return project[family, kind]

    return give


@needs_compressor
@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_a_compressed_model_passes_its_proof(family: str, kind: str, written: Callable[..., Any]) -> None:
    request, _, _ = written(family, kind)
    actual = judge(kind, DTYPES[kind], prove(request)["exports"][kind], None, LIMITS)
    assert actual["passed"], actual["because"]
    assert 0 < actual["mean_kl"] < actual["differs_from_base"]["mean_kl"]


@needs_compressor
def test_fp8_holds_eight_bits_and_scales_what_goes_in_as_it_comes(written: Callable[..., Any]) -> None:
    _, export, facts = written("Llama", "fp8")
    kinds = types_of(export)
    linear = [name for name in kinds if name.endswith("_proj.weight")]
    assert len(linear) == 14 and {kinds[name] for name in linear} == {"F8_E4M3"}
    assert kinds["model.embed_tokens.weight"] == "BF16"
    assert settings_of(export)["input_activations"]["dynamic"] is True
    assert facts["scheme"] == "FP8_DYNAMIC" and facts["llmcompressor"].startswith("0.14.")


@needs_compressor
@pytest.mark.parametrize("kind", compressor.CALIBRATED)
def test_four_bits_are_packed_in_groups_that_divide_the_rows(kind: str, written: Callable[..., Any]) -> None:
    _, export, facts = written("Llama", kind)
    kinds = types_of(export)
    packed = [name for name in kinds if name.endswith("_proj.weight_packed")]
    assert len(packed) == 14 and {kinds[name] for name in packed} == {"I32"}
    assert kinds["model.embed_tokens.weight"] == "BF16"
    weights = settings_of(export)["weights"]
    assert (weights["num_bits"], weights["group_size"], weights["symmetric"]) == (4, 64, True)  # rows of 64 and 128
    assert facts | {"llmcompressor": ""} == {
        "llmcompressor": "", "scheme": "W4A16", "group_size": 64, "calibration_rows": len(ROWS),
    }  # fmt: skip


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, base: Callable[[str], Path], tiny_tokenizer: Any) -> Path:
    """A model whose linear layers get a few numbers that are much larger than the others, as those of real ones do."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base("Llama"), dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("layernorm.weight"):
                weight[::16] *= 30
    folder = tmp_path_factory.mktemp("uneven")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)  # llm-compressor wants one beside rows
    return folder


@needs_compressor
@pytest.mark.parametrize("kind", compressor.CALIBRATED)
def test_calibration_beats_rounding_to_the_nearest(kind: str, uneven: Path, tmp_path: Path) -> None:
    """Against plain arithmetic: every 64 weights by their largest over 7.5, in float64."""
    write_compressed(kind, uneven, tmp_path / kind, Compress(), ROWS, max_shard_gb=1)
    rounded = transformers.AutoModelForCausalLM.from_pretrained(uneven, dtype=torch.float64)
    expected = log_probs(rounded)
    with torch.no_grad():
        for name, weight in rounded.named_parameters():
            if name.endswith("_proj.weight"):
                groups = weight.view(-1, 64)
                scale = groups.abs().amax(1, keepdim=True) / 7.5
                groups.copy_((groups / scale).round().clamp(-8, 7) * scale)
    compressed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / kind, dtype=torch.float32)
    ours, nearest = (mean_kl(expected, log_probs(model)) for model in (compressed, rounded))
    assert ours < 0.9 * nearest


def log_probs(model: Any) -> torch.Tensor:
    """Of a row that was not calibrated on."""
    with torch.no_grad():
        return model(torch.arange(5, 590, 7)[None]).logits.double().log_softmax(-1)


def mean_kl(expected: torch.Tensor, actual: torch.Tensor) -> float:
    return float((expected.exp() * (expected - actual)).sum(-1).mean())


def types_of(export: Export) -> dict[str, str]:
    with safe_open(Path(export.folder) / "model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118


def settings_of(export: Export) -> Any:
    config = json.loads((Path(export.folder) / "config.json").read_text())
    return config["quantization_config"]["config_groups"]["group_0"]


@needs_compressor
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("fault", ["wrong scales", "a scale is missing"])
def test_a_wrong_folder_fails_its_proof(
    fault: str, kind: str, written: Callable[..., Any], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    request, export, _ = written("Llama", kind)
    copy = shutil.copytree(export.folder, tmp_path / kind)
    file = copy / "model.safetensors"
    tensors = load_file(file)
    scale = next(name for name in sorted(tensors) if name.endswith("mlp.down_proj.weight_scale"))
    if fault == "wrong scales":
        tensors[scale] = tensors[scale] * 16
    else:
        del tensors[scale]
    save_file(tensors, file, metadata={"format": "pt"})
    sign(copy, kind, tiny_tokenizer)
    changed = Export(kind, kind, str(copy), fingerprint=FINGERPRINT)
    request = Request(**{**vars(request), "exports": [changed]})
    actual = judge(kind, DTYPES[kind], prove(request)["exports"][kind], None, LIMITS)
    assert not actual["passed"]
    assert ("same best token" if fault == "wrong scales" else f"{scale} is missing") in actual["because"]


@needs_compressor
def test_what_the_compressor_cannot_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')
    with pytest.raises(HardwareError, match=r"fp8: llm-compressor failed: .*nosuch") as caught:
        write_compressed("fp8", tmp_path, tmp_path / "out", Compress(), [], max_shard_gb=1)
    assert caught.value.hint == "leave fp8 out of export.formats"


@needs_compressor
def test_rows_that_no_group_divides_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(vocab_size=64, num_hidden_layers=1, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(HardwareError, match=r"rows of .*down_proj have 48 numbers, no multiple of 32"):
        write_compressed("gptq", tmp_path / "model", tmp_path / "out", Compress(), ROWS, max_shard_gb=1)
    assert not (tmp_path / "out").exists()


# The rows of calibration


def store_of(lengths: Sequence[int]) -> TokenStore:
    return row_store([([index] * length, [1] * length) for index, length in enumerate(lengths)])


def test_calibration_is_a_seeded_choice_of_whole_rows_without_repetition() -> None:
    store = store_of([5] * 40)
    chosen = calibration_rows(store, Compress(num_rows=12), seed=3)
    assert chosen == calibration_rows(store, Compress(num_rows=12), seed=3)
    assert chosen != calibration_rows(store, Compress(num_rows=12), seed=4)
    assert len({row[0] for row in chosen}) == 12 and all(row == [row[0]] * 5 for row in chosen)


def test_calibration_rows_are_cut_and_no_more_than_there_are() -> None:
    chosen = calibration_rows(store_of([3, 9, 1]), Compress(num_rows=100, max_length=4), seed=0)
    assert chosen == [[0] * 3, [1] * 4, [2]]


def test_of_a_pair_prompt_and_chosen_answer_calibrate() -> None:
    assert calibration_rows(pair_store([([1, 2], [3, 4], [5, 6])]), Compress(), seed=0) == [[1, 2, 3, 4]]


# What is missing


def test_a_missing_compressor_is_named_with_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressor, "FOLDER", tmp_path)
    with pytest.raises(HardwareError, match="llm-compressor is not installed") as caught:
        check_compressor("fp8", None, tmp_path)
    assert caught.value.exit_code == 5 and caught.value.hint == compressor.INSTALL
    with pytest.raises(HardwareError, match=r"export\.compress\.python: no such program") as caught:
        check_compressor("fp8", str(tmp_path / "python"), tmp_path)
    assert compressor.INSTALL in str(caught.value.hint)


def test_an_interpreter_without_the_compressor_is_named(tmp_path: Path) -> None:
    if importlib.util.find_spec("llmcompressor"):
        pytest.skip("this environment has llm-compressor itself")
    with pytest.raises(HardwareError, match="has no llm-compressor"):
        check_compressor("fp8", sys.executable, tmp_path)


@pytest.mark.parametrize("text", ["no program", "#!/bin/sh\n"], ids=["text", "silent"])
def test_a_file_that_is_no_interpreter_is_named(text: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(text)
    python.chmod(0o755)
    with pytest.raises(HardwareError, match="has no llm-compressor"):
        check_compressor("fp8", str(python), tmp_path)


def test_a_missing_reader_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 0.14.0.1\n")
    python.chmod(0o755)
    monkeypatch.setattr(compressor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HardwareError, match="compressed-tensors") as caught:
        check_compressor("fp8", str(python), tmp_path)
    assert "recipe-trainer[compressed]" in str(caught.value.hint)


@pytest.mark.parametrize("kind", DTYPES)
def test_a_mixture_of_experts_is_refused_first(kind: str, base: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match=f"{kind}: a mixture of experts") as caught:
        check_compressor(kind, str(tmp_path / "nothing"), base("Mixtral"))
    assert caught.value.hint == f"leave {kind} out of export.formats"


def test_the_script_installs_what_the_hint_names() -> None:
    assert " ".join(compressor.PINS) in SCRIPT.read_text()


def test_a_nan_in_eight_bits_is_found(tmp_path: Path) -> None:
    good = torch.tensor([448.0, -448.0, 0.0]).to(torch.float8_e4m3fn)  # the largest numbers of the type
    bad = torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)
    save_file({"good": good, "bad": bad}, tmp_path / "m.safetensors")
    assert list(not_finite(tmp_path / "m.safetensors")) == ["bad"]
