"""Every format of every kind of adapter passes its proof, and a broken one does not."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from trainer.errors import HardwareError
from trainer.model import proof
from trainer.model.carried import write_carried
from trainer.model.merge import FourBit, MergePlan
from trainer.model.proof import Scored, judge, prove_apart
from trainer.model.prove import Export, Request, main, prove
from trainer.model.provenance import examine, template_sha256, write_provenance
from trainer.model.written import (
    generation_settings,
    licence_of,
    plan_values,
    write_adapter,
    write_bnb4,
    write_full,
    write_merged,
)
from trainer.recipe.export import Quantised, Verify
from trainer.recipe.model import ModelSection, QloraAdapter

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "Mistral": {"sliding_window": 8},
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
}
LIMITS = Verify(quantised=Quantised(max_mean_kl=0.2, min_top1_agreement=0.3))
QLORA = QloraAdapter(kind="qlora")
FINGERPRINT = "this export"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[[str], Path]:
    """Gives the folder of a random model of a family."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            _make(family, tiny_tokenizer).save_pretrained(made[family])
            tiny_tokenizer.save_pretrained(made[family])
        return made[family]

    return folder


def _make(family: str, tokenizer: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), **sizes, **heads, **ends, **FAMILIES[family]
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)  # far enough from zero to tell words apart
    return model


def _trained(kind: str, base: Path, folder: Path) -> Path:
    """Write what training would leave: an adapter whose B is not zero, or a whole model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    if kind == "none":
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.02 * torch.randn_like(weight))
        model.save_pretrained(folder)
        return folder
    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", use_dora=kind == "dora", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn_like(weight))
    tuned.save_pretrained(folder)
    return folder


def _prompts(tokenizer: Any) -> list[dict[str, Any]]:
    asked = [[{"role": "user", "content": f"Describe a {colour} horse as JSON."}] for colour in ("red", "blue")]
    texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [{"messages": one, "tools": [], "kwargs": {}, "ids": row} for one, row in zip(asked, ids, strict=True)]


def _request(kind: str, base: Path, trained: Path, tokenizer: Any, exports: list[Export]) -> Request:
    return Request(
        model=ModelSection(name_or_path=str(base)).model_dump(mode="json"),
        base=str(base),
        cache=str(trained.parent),
        trained=str(trained),
        is_adapter=kind != "none",
        four_bit=QLORA.model_dump(mode="json") if kind == "qlora" else None,
        weights_dtype="float32",
        rows=[list(range(3, 40)), list(range(100, 220))],
        prompts=_prompts(tokenizer),
        general=[[5, 6, 7]] if kind == "qlora" else [],
        stop_ids=[tokenizer.eos_token_id],
        stop_id=tokenizer.eos_token_id,
        max_new_tokens=4,
        template=template_sha256(tokenizer.chat_template),
        eos_token=tokenizer.eos_token,
        exports=exports,
    )


def _finish(export: Export, base: Path, tokenizer: Any) -> Export:
    """Add to a format what travels along."""
    folder, stop_id = Path(export.folder), tokenizer.eos_token_id
    write_carried(folder, tokenizer, generation_settings(base), stop_id, {"stop_token_ids": [stop_id]})
    _sign(folder, export.kind, tokenizer)
    return export


def _sign(folder: Path, kind: str, tokenizer: Any) -> None:
    facts = {"fingerprint": FINGERPRINT, "template": template_sha256(tokenizer.chat_template)}
    write_provenance(folder, {"kind": kind, "stop_token_id": tokenizer.eos_token_id, **facts})


def _written(kind: str, base: Path, trained: Path, place: Path, tokenizer: Any) -> list[Export]:
    """Write adapter, merged (bfloat16; of qlora on both bases, in float32) and bnb4."""
    found = []
    if kind == "none":
        section = ModelSection(name_or_path=str(trained))
        write_full(section, place, place / "merged", dtype="bfloat16", max_shard_gb=1)
        found.append(Export("merged", "merged", str(place / "merged"), fingerprint=FINGERPRINT))
    else:
        write_adapter(trained, place / "adapter")
        found.append(Export("adapter", "adapter", str(place / "adapter"), fingerprint=FINGERPRINT))
        for on in ("plain", "dequantised") if kind == "qlora" else ("plain",):
            plan = MergePlan(
                dtype="float32" if kind == "qlora" else "bfloat16",
                base=on,  # type: ignore[arg-type]
                four_bit=FourBit(dtype=torch.float32) if kind == "qlora" else None,
                stop_id=tokenizer.eos_token_id,
            )
            name = "merged" if on == "plain" else "merged-dequantised"
            write_merged(base, trained, place / name, plan, lambda line: None)
            found.append(Export(name, "merged", str(place / name), on, plan_values(plan), FINGERPRINT))
    if kind != "dora":  # its merged weights are as any others
        write_bnb4(place / "merged", place / "bnb4", QLORA, max_shard_gb=1)
        found.append(Export("bnb4", "bnb4", str(place / "bnb4"), fingerprint=FINGERPRINT))
    return [_finish(export, base, tokenizer) for export in found]


CHECKED = [
    (family, kind)
    for family in FAMILIES
    for kind in ("lora", "qlora", "dora", "none")
    if (family, kind) != ("Mixtral", "dora")  # PEFT has no DoRA on fused experts
]


@pytest.mark.parametrize(("family", "kind"), CHECKED)
def test_every_format_passes_its_proof(
    family: str, kind: str, base: Callable[[str], Path], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    folder = base(family)
    trained = _trained(kind, folder, tmp_path / "trained")
    exports = _written(kind, folder, trained, tmp_path, tiny_tokenizer)
    answer = prove(_request(kind, folder, trained, tiny_tokenizer, exports))
    for export in exports:
        dtype = {"merged": "float32" if kind == "qlora" else "bfloat16", "bnb4": "nf4"}.get(export.kind, "float32")
        found = judge(export.kind, dtype, answer["exports"][export.name], None, LIMITS)
        assert found["passed"], (export.name, found["because"])
        assert found["differs_from_base"]["mean_kl"] > 10 * found["mean_kl"] or export.kind == "bnb4"
        assert examine(Path(export.folder)).findings == []
    if kind == "qlora":
        plain, dequantised = (proof.drift(answer["exports"][name]) for name in ("merged", "merged-dequantised"))
        assert 0 <= dequantised < 1e-9 < plain


# Broken exports


@pytest.fixture(scope="module")
def proven(
    tmp_path_factory: pytest.TempPathFactory, base: Callable[[str], Path], tiny_tokenizer: Any
) -> tuple[Path, Path, list[Export]]:
    """An adapter and its merge that pass; (base, trained, exports)."""
    place, folder = tmp_path_factory.mktemp("proven"), base("Llama")
    trained = _trained("lora", folder, place / "trained")
    return folder, trained, _written("lora", folder, trained, place, tiny_tokenizer)


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
    return replace(export, folder=str(folder))


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_broken_export_is_caught_by_the_proof(
    kind: str, how: str, proven: tuple[Path, Path, list[Export]], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    export = _broken(proven, kind, how, tmp_path / "broken")
    _sign(tmp_path / "broken", kind, tiny_tokenizer)  # no hash gives it away
    answer = prove(_request("lora", proven[0], proven[1], tiny_tokenizer, [export]))
    found = judge(kind, "float32" if kind == "adapter" else "bfloat16", answer["exports"][kind], None, LIMITS)
    assert not found["passed"]
    said = " ".join(answer["exports"][kind]["findings"])
    assert ("zero" if how == "empty" else BREAKS[how][1]) in said, said


@pytest.mark.parametrize(("kind", "how"), CASES)
def test_a_broken_export_is_caught_by_verify(
    kind: str, how: str, proven: tuple[Path, Path, list[Export]], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    _broken(proven, kind, how, tmp_path / "broken")
    assert any("exported" in finding for finding in examine(tmp_path / "broken").findings)
    if how not in ("dropped module", "edited weight"):  # these only hashes and the base can show
        _sign(tmp_path / "broken", kind, tiny_tokenizer)
        said = " ".join(examine(tmp_path / "broken").findings)
        assert ("zero" if how == "empty" else BREAKS[how][1]) in said, said


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
    said = "; ".join(examine(folder).findings)
    assert "config.json is missing" in said and "extra.bin is not part" in said and "was edited" in said


def test_an_older_export_is_not_taken_for_the_new_one(
    proven: tuple[Path, Path, list[Export]], tiny_tokenizer: Any
) -> None:
    export = replace(proven[2][0], fingerprint="a newer export")
    answer = prove(_request("lora", proven[0], proven[1], tiny_tokenizer, [export]))
    assert answer["exports"]["adapter"]["findings"] == ["it was written by another export"]


def test_the_base_model_is_not_taken_for_the_tuned_one(
    proven: tuple[Path, Path, list[Export]], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    export = next(export for export in proven[2] if export.kind == "merged")
    shutil.copytree(export.folder, tmp_path / "base")
    shutil.copyfile(_weights(proven[0]), _weights(tmp_path / "base"))
    _sign(tmp_path / "base", "merged", tiny_tokenizer)
    answer = prove(_request("lora", *proven[:2], tiny_tokenizer, [replace(export, folder=str(tmp_path / "base"))]))
    found = judge("merged", "float32", answer["exports"]["merged"], None, LIMITS)
    assert not found["passed"] and "outputs are those of the base model" in found["because"]
    assert any("is not base plus update" in finding for finding in found["findings"])


# The fresh process and the verdict


def test_the_fresh_process_says_what_this_one_says(
    proven: tuple[Path, Path, list[Export]], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    request = _request("lora", *proven[:2], tiny_tokenizer, proven[2][:2])
    assert prove_apart(request) == json.loads(json.dumps(prove(request)))


def test_what_a_person_can_act_on_comes_back_from_the_process(
    proven: tuple[Path, Path, list[Export]], tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, main(command[3:]), b"")

    monkeypatch.setattr(subprocess, "run", run_here)
    request = _request("lora", *proven[:2], tiny_tokenizer, [])
    with pytest.raises(HardwareError, match="no model"):
        prove_apart(replace(request, model=request.model | {"name_or_path": str(tmp_path)}))


def _found(**changes: Any) -> dict[str, Any]:
    figures = {"max_logit_diff": 0.0, "mean_kl": 0.0, "max_kl": 0.0, "top1_agreement": 1.0, "num_positions": 9}
    answers = {"same_answers": 20, "num_answers": 20, "double": True, "largest_logit": 5.0, "findings": []}
    return figures | answers | {"differs_from_base": {"mean_kl": 1.0, "max_logit_diff": 3.0}} | changes


@pytest.mark.parametrize(
    ("kind", "dtype", "changes", "because"),
    [
        ("adapter", "float32", {}, ""),
        ("adapter", "float32", {"max_logit_diff": 2e-4}, "largest logit difference"),
        ("adapter", "float32", {"max_logit_diff": float("nan")}, "largest logit difference"),
        ("merged", "float32", {"same_answers": 18}, "greedy answers"),
        ("merged", "bfloat16", {"max_logit_diff": 1.0, "same_answers": 15}, ""),
        ("merged", "bfloat16", {"same_answers": 14}, "greedy answers"),
        ("merged", "bfloat16", {"mean_kl": 0.02}, "bfloat16|rounded weights add"),
        ("merged", "bfloat16", {"mean_kl": float("nan")}, "weights add"),
        ("merged", "bfloat16", {"top1_agreement": 0.9}, "same best token"),
        ("bnb4", "nf4", {"mean_kl": 0.02, "top1_agreement": 0.9}, ""),
        ("gguf", "q8_0", {"mean_kl": 0.3}, "quantised weights add"),
        ("gguf", "f16", {"mean_kl": 0.02}, "rounded weights add"),
        ("bnb4", "nf4", {"differs_from_base": {"mean_kl": 0.0, "max_logit_diff": 0.0}}, "those of the base"),
        ("merged", "float32", {"findings": ["a", "b", "c", "d"]}, "a; b; c; and 1 more"),
    ],
)
def test_limits_go_by_the_precision_of_the_format(kind: str, dtype: str, changes: dict[str, Any], because: str) -> None:
    found = judge(kind, dtype, _found(**changes), None, Verify())
    assert found["passed"] == (because == "")
    assert any(part in found["because"] for part in because.split("|"))


@pytest.mark.parametrize(("exported", "count", "passed"), [(0.88, 100, True), (0.87, 100, False), (0.8, 10, True)])
def test_a_score_may_fall_by_the_margin_or_by_one_answer(exported: float, count: int, passed: bool) -> None:
    found = judge("merged", "bfloat16", _found(), Scored("exact_match", 0.9, exported, count), Verify())
    assert found["passed"] is passed and found["score"]["trained"] == 0.9


@pytest.mark.parametrize(
    ("text", "licence"),
    [("---\nlicense: apache-2.0\ntags: []\n---\n# x", "apache-2.0"), ("# x\nlicense: mit\n", None), (None, None)],
)
def test_the_licence_is_the_one_that_the_base_names(tmp_path: Path, text: str | None, licence: str | None) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path) == licence
