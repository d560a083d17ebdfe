"""What `export` writes and proves, and what it refuses; copies of an export are verified anywhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig

from tests import tiny
from tests.command import Project, Result, call, contents
from trainer.export import lineage, write
from trainer.export import push as hub
from trainer.export.merge import stream
from trainer.rundir import RunFolder
from trainer.stages import export as stage

pytestmark = pytest.mark.slow

FORMATS = "export.formats=[adapter,merged,bnb4]"
LOOSE = "export.verify.quantised={max_mean_kl: 1, min_top1_agreement: 0.1, max_score_drop: 1}"
"""A random model of two layers does not survive 4 bits."""
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora"},
    "qlora": {"kind": "qlora"},
    "saved": {"kind": "lora", "use_dora": True, "modules_to_save": ["lm_head"], "target_modules": ["q_proj", "v_proj"]},
    "full": {"kind": "none", "r": None},
}
SYSTEM = "Answer with one line of JSON."


def made(folder: Path, model: Path, **changes: Any) -> Project:
    """Train and evaluate a tiny run."""
    project = Project(folder)
    tiny.write_recipe(project.folder, model=model, **changes)
    for verb in ("data", "pack", "train", "eval"):
        result = project.call(verb, worker=verb == "train")
        assert result.code == 0, result.text
    return project


def export(project: Project, *sets: str, force: bool = False, accept: tuple[str, ...] = ()) -> Result:
    options = [part for item in sets for part in ("--set", item)]
    options += [part for item in accept for part in ("--accept", item)]
    return project.call("export", *options, *(["--force"] if force else []))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def refused(result: Result, code: int, *parts: str) -> None:
    assert result.code == code, result.text
    assert result.err.count("error:") == result.err.count("fix:") == 1, result.err
    for part in parts:
        assert part in result.err, result.err


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Project:
    """A LoRA run up to eval, its rows with a system prompt, with an export of adapter, merged and bnb4."""
    project = made(
        tmp_path_factory.mktemp("evaluated"),
        tiny_model_dir,
        data={"system_prompt": {"text": SYSTEM}, "split": {"heldout": 0.3}},
        train={"max_steps": 12, "learning_rate": 1e-2},
    )
    result = export(project, FORMATS, LOOSE, "export.dtype=bfloat16")
    assert result.code == 0, result.text
    (project.folder / "output.txt").write_text(result.out)
    return project


@pytest.fixture
def run(evaluated: Project, tmp_path: Path) -> Project:
    """A copy of it."""
    return evaluated.copied_to(tmp_path)


# Every kind of adapter


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lora"])
def test_every_format_of_every_kind_is_proven(kind: str, tmp_path: Path, tiny_model_dir: Path) -> None:
    project = made(tmp_path, tiny_model_dir, adapter=KINDS[kind], train={"max_steps": 4, "learning_rate": 1e-2})
    formats = ["merged", "bnb4"] if kind == "full" else ["adapter", "merged", "bnb4"]
    result = export(project, f"export.formats=[{','.join(formats)}]", LOOSE, "export.dtype=float32")
    assert result.code == 0, result.text
    proofs = read(project.run / "export/verify.json")
    assert sorted(proofs) == sorted(formats) and all(proof["passed"] for proof in proofs.values())
    assert proofs["merged"]["replayed"] is True and proofs["merged"]["max_logit_diff"] < 1e-6
    assert call("verify", str(project.run)).code == 0
    assert not (project.run / "export.partial").exists() and not (project.run / stage.MERGING).exists()
    if kind == "saved":  # the trained head has come apart from the embeddings
        assert read(project.run / "export/merged/config.json")["tie_word_embeddings"] is False
    if kind == "qlora":
        drifts = proofs["merged"]["drifts"]
        assert drifts["dequantised"] < 1e-9 < drifts["plain"] and proofs["merged"]["base"] == "dequantised"
        assert "plain base" in result.out and "kept: dequantised" in result.out and "survives" in result.out


def test_formats_made_from_merged_weights_need_them_right(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    result = export(run, "export.formats=[bnb4]", LOOSE, "export.dtype=bfloat16")
    assert result.code == 0, result.text
    assert sorted(read(run.run / "export/verify.json")) == ["bnb4"] and not (run.run / "export/merged").exists()
    before = contents(run.run / "export")
    result = export(run, "export.formats=[bnb4]", LOOSE, "export.dtype=bfloat16", "export.verify.max_mean_kl=1e-12")
    refused(result, 6, "merged: rounded weights add")
    assert contents(run.run / "export") == before
    assert not list(run.run.glob("export*/references.pt"))


def test_the_merge_is_told_base_end_and_types(tmp_path: Path, tiny_model_dir: Path, monkeypatch: Any) -> None:
    project = made(tmp_path, tiny_model_dir, adapter=KINDS["qlora"], train={"max_steps": 1})
    record = project.run / "train/stage.json"  # as if trained on a card
    noted = read(record)
    noted["numbers"]["weights_dtype"] = "bfloat16"
    record.write_text(json.dumps(noted))
    plans = []

    def seen(*arguments: Any) -> None:
        plans.append(arguments[3])
        raise GateErrorForTest

    monkeypatch.setattr(write, "merge_streaming", seen)
    with project.environment(), pytest.raises(GateErrorForTest):
        _stage_alone(project, "export.formats=[merged]")
    weights = tiny_model_dir / "model.safetensors"
    (plan,) = plans
    assert plan.base_sha256 == {"model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert plan.stop_id == read(project.run / "pack/report.json")["stop_token_id"]
    assert (plan.dtype, plan.four_bit.dtype, plan.base) == ("bfloat16", torch.bfloat16, "plain")


class GateErrorForTest(Exception):
    """Ends a stage in a test."""


def _stage_alone(project: Project, *sets: str) -> None:
    """Run the stage without the command line, which would print what is raised."""
    from trainer.pipeline import Pipeline
    from trainer.recipe import load_recipe
    from trainer.rundir import RunFolder

    recipe = load_recipe(str(project.recipe), sets=list(sets))
    pipeline = Pipeline(recipe, RunFolder(project.run), recipe_path=project.recipe, say=lambda line: None)
    pipeline.run_one("export")


# The same prompt


def conversations() -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Conversations of every sort that the template knows: with a system prompt, of several turns, with tools."""
    question = {"role": "user", "content": "Describe a red horse as JSON."}
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "Tells.", "parameters": parameters}}
    requests = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Graz"}}}
    return [
        ([question], []),
        ([{"role": "system", "content": SYSTEM}, question], []),
        ([question, {"role": "assistant", "content": '{"a": 1}'}, {"role": "user", "content": "Äpfel  und\n 🐎?"}], []),
        ([{"role": "system", "content": SYSTEM}, question], [tool]),
        (
            [
                question,
                {"role": "assistant", "content": "", "tool_calls": [requests]},
                {"role": "tool", "content": "17 °C"},
            ],
            [tool],
        ),
    ]


@pytest.mark.parametrize("name", ["adapter", "merged", "bnb4"])
def test_the_same_prompt_reaches_every_format(name: str, evaluated: Project, tiny_model_dir: Path) -> None:
    from trainer.model.load import load_tokenizer
    from trainer.recipe.model import ModelSection

    trained = load_tokenizer(ModelSection(name_or_path=str(tiny_model_dir)), evaluated.folder)
    folder = evaluated.run / "export" / name
    served = AutoTokenizer.from_pretrained(folder)
    calls = set()
    for messages, tools in conversations():
        as_trained = messages if messages[0]["role"] == "system" else [{"role": "system", "content": SYSTEM}, *messages]
        ids = [
            item.apply_chat_template(turns, tools=tools or None, add_generation_prompt=True, return_dict=False)
            for item, turns in ((trained, as_trained), (served, messages), (served, as_trained))
        ]
        assert ids[0] == ids[1] == ids[2] and len(ids[0]) > 10
        calls.add(tuple(ids[0]))
    assert len(calls) == 4  # turns and tools reach the prompt, and the system turn where none was sent
    stop_id = read(evaluated.run / "pack/report.json")["stop_token_id"]
    before, after = (GenerationConfig.from_pretrained(path).to_dict() for path in (tiny_model_dir, folder))
    ends = after.pop("eos_token_id")
    assert stop_id in (ends if isinstance(ends, list) else [ends])
    survivors = {key: value for key, value in before.items() if key not in ("eos_token_id", "_from_model_config")}
    assert {key: after.get(key) for key in survivors} == survivors and not after.get("_from_model_config")
    prompt = read(folder / "prompt.json")
    assert (prompt["system"], stop_id in prompt["stop_token_ids"]) == (SYSTEM, True)
    assert prompt["default_system"] and "the question alone" in (folder / "README.md").read_text(encoding="utf-8")
    assert prompt["stop"] == [trained.convert_ids_to_tokens(item) for item in prompt["stop_token_ids"]]


# The card


def test_the_card_says_what_a_person_wants_to_know(evaluated: Project, tiny_model_dir: Path) -> None:
    card = (evaluated.run / "export/README.md").read_text()
    inside = (evaluated.run / "export/adapter/README.md").read_text()
    assert SYSTEM in card.split("## How to load")[1] and "system" in inside.split("## How to load")[1]
    assert 'from_pretrained("adapter")' in card and 'from_pretrained(".")' in inside
    assert "from_pretrained(BASE" in card, "a folder's name is not a model of the hub"
    assert "base_model:" not in card.split("---")[1]
    assert "of the update survives" in card and "| same answers | held-out score (trained) |" in card
    assert "| rows heldout | 7 |" in card and "names no licence" in card
    assert str(tiny_model_dir.parent) not in card + inside
    digest = hashlib.sha256((tiny_model_dir / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card and read(evaluated.run / "export/bnb4/provenance.json")["base"]["files"] == {
        "model.safetensors": digest
    }


# Refusals: nothing is published


def test_a_failed_proof_publishes_nothing(run: Project) -> None:
    before = contents(run.run / "export")
    result = export(run, FORMATS, LOOSE, "export.dtype=bfloat16", "export.verify.max_mean_kl=1e-12")
    refused(result, 6, "merged: rounded weights add", "export.formats=[adapter,bnb4]", "verify.json")
    assert "export: adapter proven" in result.out
    assert contents(run.run / "export") == before
    assert read(run.run / "export.partial/verify.json")["merged"]["passed"] is False
    result = export(run, "export.formats=[adapter]")
    assert result.code == 0 and sorted(read(run.run / "export/verify.json")) == ["adapter"]
    assert not (run.run / "export.partial").exists() and not (run.run / stage.MERGING).exists()


def test_an_export_is_repeated_only_when_forced_or_changed(run: Project) -> None:
    sets = (FORMATS, LOOSE, "export.dtype=bfloat16")
    before = contents(run.run / "export")
    assert "export: up to date" in export(run, *sets).out and contents(run.run / "export") == before
    (run.run / "export/merged/model.safetensors").unlink()
    result = export(run, *sets)
    assert result.code == 0 and "model.safetensors is missing" in result.out
    weights = "merged/model.safetensors"
    assert contents(run.run / "export")[weights] == before[weights], "the same merge gives the same bytes"


def test_a_failed_gate_blocks_and_what_was_accepted_is_noted(run: Project) -> None:
    gate = "eval.gates=[{metric: exact_match, min: 0.99}]"
    before = contents(run.run / "export")
    assert run.call("eval", "--set", gate).code == 6
    refused(export(run, gate, "export.formats=[adapter]"), 6, "exact_match", "--accept failed-gate")
    assert contents(run.run / "export") == before
    result = export(run, gate, "export.formats=[adapter]", accept=("failed-gate",))
    assert result.code == 0, result.text
    assert read(run.run / "export/stage.json")["accepted"] == ["failed-gate"]
    assert "1 of 1 quality gates failed" in (run.run / "export/adapter/README.md").read_text()


def test_an_older_export_is_never_taken_for_the_new_one(run: Project) -> None:
    old = run.run / "export/merged"
    for path in (run.run / stage.MERGING / "merged", run.run / "export.partial/merged"):
        shutil.copytree(old, path)
        (path / "mark").touch()
    result = export(run, "export.formats=[merged]", "export.dtype=float32")
    assert result.code == 0, result.text
    assert not (old / "mark").exists() and read(old / "config.json")["dtype"] == "float32"
    assert load_file(old / "model.safetensors")["model.norm.weight"].dtype == torch.float32


@pytest.mark.parametrize(("target", "name"), [(shutil, "copytree"), (stream.ShardWriter, "write")])
def test_a_full_disk_is_named_and_the_earlier_export_stays(
    target: Any, name: str, run: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run.run / "export")

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "there")

    with monkeypatch.context() as patch:
        patch.setattr(target, name, full)
        refused(
            export(run, "export.formats=[adapter,merged]"), 5, "o space left", "free" if target is shutil else "room"
        )
    assert contents(run.run / "export") == before
    assert export(run, "export.formats=[adapter,merged]").code == 0


def test_a_killed_merge_goes_on_where_it_was(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("export.formats=[merged]", "export.max_shard_gb=0.0001")
    written: list[str] = []
    real = stream._write_shard

    def counted(partial: Path, shard: Any, *remaining: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        return real(partial, shard, *remaining)

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_write_shard", counted)
        with pytest.raises(KeyboardInterrupt), run.environment():
            _stage_alone(run, *sets)
    first = list(written)
    written.append("not two any more")
    with monkeypatch.context() as patch:
        patch.setattr(stream, "_write_shard", counted)
        result = export(run, *sets)
    assert result.code == 0, result.text
    assert len(first) == 2 and not set(first) & set(written[3:]), "finished shards are not written again"
    shards = sorted(path.name for path in (run.run / "export/merged").glob("*.safetensors"))
    assert sorted(first + written[3:]) == shards


def test_another_base_than_the_trained_one_is_refused(run: Project, tmp_path: Path, tiny_model_dir: Path) -> None:
    second = tmp_path / "other"
    shutil.copytree(tiny_model_dir, second)
    _edit(second / "model.safetensors", lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    before = contents(run.run / "export")
    base = f"model.name_or_path={second}"
    refused(export(run, base), 4, "stale", "model.safetensors")
    accept = ("changed-recipe",)
    assert run.call("eval", "--set", base, "--accept", "changed-recipe").code == 0
    for formats in ("[adapter]", "[merged]"):
        result = export(run, base, f"export.formats={formats}", accept=accept)
        refused(result, 4, "model.safetensors is not what the model was trained on", "sha256")
    assert contents(run.run / "export") == before and not (run.run / stage.MERGING).exists()
    assert [path.name for path in (run.run / "export.partial").iterdir()] == []


def test_a_hub_base_that_moved_on_since_training_is_refused(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.run / "train/stage.json"
    record = json.loads(path.read_text())
    record["numbers"]["base_commit"] = "aaaa"
    path.write_text(json.dumps(record))
    monkeypatch.setattr(lineage, "commit", lambda *_: "bbbb")
    refused(export(run), 4, "is at commit bbbb", "trained on aaaa", "model.revision=aaaa")


def test_a_run_in_use_is_refused(run: Project) -> None:
    with RunFolder(run.run).locked():
        refused(export(run, "export.formats=[adapter]"), 4, f"in use by process {os.getpid()}")


# Upload


class FakeHub:
    """Notes what it is asked."""

    endpoint = "https://hub.example"
    asked: list[tuple[str, dict[str, Any]]]
    private = True
    error: Exception | None = None

    def __init__(self, token: str | None = None, **_: Any) -> None:
        self.asked.append(("token", {"token": token}))

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.asked.append(("create", {"repo_id": repo_id, **options}))
        if self.error:
            raise self.error

    def repo_info(self, repo_id: str) -> Any:
        return type("Info", (), {"private": self.private})

    def upload_folder(self, **options: Any) -> None:
        files = sorted(path.name for path in Path(options["folder_path"]).iterdir())
        self.asked.append(("upload", {**options, "files": files}))


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    kind = type("Fake", (FakeHub,), {"asked": []})
    monkeypatch.setattr(hub, "HfApi", kind)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return kind


PUSH = "export.push={repo_id: me/it}"
SECRET = "hf_doNotTellAnybody"


def test_a_token_is_asked_for_before_anything_is_written(run: Project, fake_hub: type[FakeHub]) -> None:
    refused(export(run, "export.formats=[adapter]", PUSH), 4, "HF_TOKEN is not set")
    assert fake_hub.asked == [] and list((run.run / "export.partial").iterdir()) == []


def test_a_proven_format_is_uploaded_privately_and_only_when_asked(
    run: Project, fake_hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert export(run, "export.formats=[adapter]").code == 0 and fake_hub.asked == []
    result = export(run, "export.formats=[adapter]", PUSH)
    assert result.code == 0, result.text
    assert "export: adapter is at https://hub.example/me/it" in result.out
    (_, arguments), (_, created), (_, sent) = fake_hub.asked
    assert (arguments["token"], created["private"], created["repo_id"]) == (SECRET, True, "me/it")
    assert {"adapter_model.safetensors", "provenance.json", "README.md"} <= set(sent["files"])
    assert SECRET not in result.text
    assert not any(SECRET.encode() in data for data in contents(run.folder).values())


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"private": False}, 4, "exists and is public"),
        ({"error": OSError(f"no route to host with {SECRET}")}, 5, "no route to host with ..."),
        ({"error": RuntimeError("")}, 5, "RuntimeError"),
    ],
)
def test_a_refused_upload_says_why_without_the_token(
    changes: dict[str, Any],
    code: int,
    message: str,
    run: Project,
    fake_hub: type[FakeHub],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for name, value in changes.items():
        setattr(fake_hub, name, value)
    before = contents(run.run / "export")
    result = export(run, "export.formats=[adapter]", PUSH)
    refused(result, code, message)
    assert SECRET not in result.text and contents(run.run / "export") == before
    assert not any(kind == "upload" for kind, _ in fake_hub.asked)


def test_a_hub_that_is_not_there_is_a_refusal(run: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setattr(hub, "HfApi", lambda token: HfApi(endpoint="http://127.0.0.1:9", token=token))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    refused(export(run, "export.formats=[adapter]", PUSH), 5, "export.push: me/it:")


# trainer verify, anywhere


def _edit(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _with_nan(folder: Path) -> None:
    _edit(folder / "model.safetensors", lambda tensors: tensors["model.norm.weight"][3:4].fill_(float("nan")))


def _truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _flipped_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "edited": (
        lambda folder: (folder / "config.json").write_text("{}"),
        ["config.json has 2 bytes", "config.json is no JSON object"],
    ),
    "bit": (_flipped_bit, ["model.safetensors has another content"]),
    "missing": (lambda folder: (folder / "tokenizer.json").unlink(), ["tokenizer.json is missing"]),
    "extra": (lambda folder: (folder / "evil.py").touch(), ["evil.py is not part of the export"]),
    "template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        ["chat_template.jinja has", "chat template is not the one trained with"],
    ),
    "nan": (_with_nan, ["model.safetensors: model.norm.weight is not finite"]),
    "truncated": (_truncated, ["model.safetensors: ", "truncated"]),
    "stop": (
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": 0}'),
        ["generation_config.json does not stop at token"],
    ),
}


def test_a_copy_of_an_export_is_verified_anywhere(evaluated: Project, tmp_path: Path) -> None:
    for name in ("adapter", "merged", "bnb4"):
        folder = tmp_path / "elsewhere" / name
        shutil.copytree(evaluated.run / "export" / name, folder)
        result = call("verify", str(folder))
        assert result.code == 0 and f"{folder}: ok, {name}" in result.out, result.text
        digest = read(folder / "provenance.json")["digest"]
        assert f"provenance {digest}" in result.out and digest in (evaluated.folder / "output.txt").read_text()
    result = call("verify", str(tmp_path / "elsewhere"))
    assert result.code == 0 and result.out.count(": ok") == 3
    refused(call("verify", str(tmp_path / "nowhere")), 4, "provenance.json: no such file")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_changed_copy_is_told_what_and_where(how: str, evaluated: Project, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(evaluated.run / "export/merged", folder)
    damage, actual = DAMAGES[how]
    damage(folder)
    result = call("verify", str(folder))
    refused(result, 6, str(folder), "is not what was exported")
    assert f"{folder}: FAILED" in result.out
    for part in actual:
        assert part in result.out, result.out


def test_verify_needs_no_torch(evaluated: Project) -> None:
    code = (
        "import sys; from trainer.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print(code, [name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "verify", str(evaluated.run)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=evaluated.folder)
    assert result.stdout.splitlines()[-1] == "0 []", result.stdout + result.stderr
