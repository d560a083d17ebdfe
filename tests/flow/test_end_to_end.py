"""From rows to report: what lies there afterwards, what a second run does again, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests import tiny
from tests.command import Project, Result, call, contents
from trainer.rundir import RunFolder
from trainer.shapes.gates import GateResult
from trainer.shapes.predictions import Prediction
from trainer.shapes.report import DataReport
from trainer.shapes.scores import Scores
from trainer.stages import STAGES as VERSIONS

pytestmark = pytest.mark.slow

STAGES = ("data", "pack", "train", "eval", "export", "report")
CONTRACT = {
    ".": ["recipe.yaml", "recipe.resolved.json", "env.json"],
    "data": ["train.jsonl", "validation.jsonl", "heldout.jsonl", "rejected.jsonl", "report.json", "stage.json"],
    "pack": ["train.safetensors", "validation.safetensors", "heldout.safetensors", "packs.safetensors"],
    "pack/.": ["report.json", "stage.json"],
    "train": ["metrics.jsonl", "exit.json", "stage.json", "checkpoints/step_000024/manifest.json"],
    "train/adapter": ["adapter_model.safetensors", "adapter_config.json"],
    "eval": ["predictions.jsonl", "scores.json", "gates.json", "stage.json"],
    "export": ["verify.json", "README.md", "stage.json"],
    "export/adapter": ["adapter_model.safetensors", "adapter_config.json", "tokenizer.json"],
    "report": ["index.html", "report.json", "stage.json"],
}
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")


def marks(project: Project) -> dict[str, int]:
    return {name: (project.run / name / "stage.json").stat().st_mtime_ns for name in STAGES}


def redone(project: Project, before: dict[str, int]) -> list[str]:
    return [name for name, mark in marks(project).items() if mark != before[name]]


def read(path: Path) -> object:
    return json.loads(path.read_text())


def refused(result: Result, *parts: str) -> None:
    assert result.code == 4, result.text
    assert result.err.count("error:") == result.err.count("fix:") == 1
    for part in parts:
        assert part in result.err


# A finished run


def test_every_file_of_the_contract_is_there(finished_run: Project) -> None:
    expected = [f"{folder}/{name}" for folder, names in CONTRACT.items() for name in names]
    assert [name for name in expected if not (finished_run.run / name).is_file()] == []
    leftovers = [path for path in finished_run.run.rglob("*") if path.suffix in (".partial", ".old", ".tmp")]
    assert leftovers == [] and not (finished_run.run / "train/checkpoints/.staged").exists()
    for path in finished_run.run.rglob("*"):
        assert not path.is_file() or path.stat().st_mode & 0o444 == 0o444, path


def test_stage_records_name_inputs_and_outputs_by_hash(finished_run: Project) -> None:
    for name in STAGES:
        record = read(finished_run.run / name / "stage.json")
        assert isinstance(record, dict)
        assert (record["stage"], record["version"], record["accepted"]) == (name, VERSIONS[name].version, [])
        assert re.fullmatch(r"[0-9a-f]{64}", record["fingerprint"])
        assert 0 < record["started"] <= record["ended"]
        assert record["sections"] and record["inputs"] and isinstance(record["numbers"], dict)
        for output, facts in record["outputs"].items():
            assert re.fullmatch(r"[0-9a-f]{64}", facts["sha256"])
            assert facts["bytes"] == (finished_run.run / name / output).stat().st_size
        assert not any(output.startswith("checkpoints") for output in record["outputs"])
    sections = read(finished_run.run / "train/stage.json")["sections"]  # type: ignore[index]
    assert sections["train.learning_rate"] == 1e-3
    assert not any(key.startswith(("track", "launch")) or key.endswith("logging_steps") for key in sections)


def test_scores_and_proof_have_the_shape_that_other_programs_read(finished_run: Project) -> None:
    scores = read(finished_run.run / "eval/scores.json")
    assert isinstance(scores, dict) and set(scores["arms"]) == {"base", "tuned"}
    for arm in scores["arms"].values():
        assert {"exact_match", "valid_json", "loss", "latency_p50_s"} <= set(arm)
        for value in arm.values():
            bounds = [bound for bound in (value["low"], value["value"], value["high"]) if bound is not None]
            assert bounds == sorted(bounds) and value["n"] >= 1
    loss = next(item for item in scores["comparisons"] if item["metric"] == "loss")
    assert (loss["arm"], loss["vs"]) == ("tuned", "base")
    assert scores["arms"]["tuned"]["loss"]["value"] < scores["arms"]["base"]["loss"]["value"]
    proof = read(finished_run.run / "export/verify.json")["adapter"]  # type: ignore[index]
    assert proof["passed"] is True and proof["num_positions"] > 0 and proof["top1_agreement"] == 1.0
    assert {"mean_kl", "max_kl", "max_logit_diff"} <= set(proof) and proof["max_logit_diff"] <= 1e-4
    lines = [json.loads(line) for line in (finished_run.run / "eval/predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(set(line["answers"]) == {"base", "tuned"} for line in lines)
    steps = [json.loads(line) for line in (finished_run.run / "train/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, 25))
    assert [line["step"] for line in steps if "validation_loss" in line] == [12, 24]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("data/report.json", DataReport), ("eval/scores.json", Scores), ("eval/gates.json", list[GateResult])],
)
def test_files_have_the_shape_that_is_declared(finished_run: Project, name: str, shape: type) -> None:
    value = read(finished_run.run / name)
    assert TypeAdapter(shape).validate_python(value) == value  # a key without a declaration would be left out


def test_predictions_have_the_shape_that_is_declared(finished_run: Project) -> None:
    for line in (finished_run.run / "eval/predictions.jsonl").read_text().splitlines():
        value = json.loads(line)
        assert TypeAdapter(Prediction).validate_python(value) == value


def test_the_page_stands_alone(finished_run: Project) -> None:
    page = (finished_run.run / "report/index.html").read_text()
    assert "<canvas" in page or "uPlot" in page
    assert "tiny" in page and "<table" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']?(?!#|data:)([^"'\s>]+)""", page)
    assert set(links) <= {"../data/index.html", "../decide/index.html"}  # pages of the same run, opened by a click
    assert re.findall(r"@import|url\((?!['\"]?(?:#|data:))", page) == []
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
    names = (
        "http://www.w3.org/",
        "https://github.com/leeoniya/uPlot",
    )
    assert all(address.startswith(names) for address in addresses), addresses


def test_the_exported_adapter_is_plain_peft(finished_run: Project, tiny_model_dir: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished_run.run / "export/adapter"
    config = (folder / "adapter_config.json").read_text()
    assert str(tiny_model_dir.parent) not in config
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), folder)
    ids = torch.arange(20)[None]
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=ids).logits
    assert not torch.equal(model(input_ids=ids).logits, base)
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny.TEMPLATE_PATH.read_text()


# Running again


def test_a_second_run_does_nothing(finished: Project) -> None:
    before = marks(finished)
    result = finished.call("run")
    assert (result.code, redone(finished, before)) == (0, [])
    assert [f"{name}: up to date" in result.out for name in STAGES] == [True] * 6


@pytest.mark.parametrize(
    "change",
    [
        "track.project=elsewhere",
        "track.run_name=other",
        "launch.num_processes=1",
        "launch.strategy=ddp",
        "train.logging_steps=3",
        "train.save_total_limit=5",
    ],
)
def test_what_changes_no_result_runs_nothing_again(finished: Project, change: str) -> None:
    before = marks(finished)
    assert finished.call("run", "--set", change).code == 0
    assert redone(finished, before) == []


def test_an_eval_key_does_eval_export_and_report_again(finished: Project) -> None:
    before, trained = marks(finished), contents(finished.run / "train")
    result = finished.call("run", "--set", "eval.max_rows=2")
    assert result.code == 0, result.text
    assert redone(finished, before) == ["eval", "export", "report"]
    assert "eval.max_rows changed from 4 to 2" in result.out
    assert contents(finished.run / "train") == trained


def test_a_changed_training_key_is_refused_and_nothing_is_lost(finished: Project) -> None:
    before = contents(finished.run)
    for verb in ("run", "train"):
        refused(
            finished.call(verb, "--set", "train.learning_rate=0.002"),
            "train.learning_rate changed from 0.001 to 0.002",
            "--set name=",
            "--force",
        )
    assert contents(finished.run) == before


def test_a_changed_recipe_can_be_accepted(finished: Project) -> None:
    trained = contents(finished.run / "train")
    result = finished.call("run", "--set", "train.learning_rate=0.002", "--accept", "changed-recipe")
    assert result.code == 0, result.text
    assert "train: kept although the recipe changed" in result.out
    assert contents(finished.run / "train") == trained
    assert read(finished.run / "env.json")["accepted"] == ["changed-recipe"]  # type: ignore[index]


def test_changed_rows_are_read_again_but_never_trained_over(finished: Project) -> None:
    before, trained = marks(finished), contents(finished.run / "train")
    tiny.write_rows(finished.folder / "rows.jsonl", tiny.rows(30))
    result = finished.call("run")
    refused(result, "other data", "pack/train.safetensors", "--set name=", "--force")
    assert "the content of data.sources.0.path changed" in result.out
    assert redone(finished, before) == ["data", "pack"]
    assert contents(finished.run / "train") == trained


def test_rewriting_the_same_bytes_changes_nothing(finished: Project) -> None:
    before = marks(finished)
    path = finished.folder / "rows.jsonl"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert finished.call("run").code == 0
    assert redone(finished, before) == []


def test_an_output_edited_by_hand_is_used_with_a_warning(finished: Project) -> None:
    before = marks(finished)
    path = finished.run / "data/heldout.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    result = finished.call("run")
    assert result.code == 0, result.text
    assert result.out.count("warning: data/heldout.jsonl was changed") == 1
    assert redone(finished, before) == ["pack", "eval", "export", "report"]


def test_a_lost_output_is_made_again(finished: Project) -> None:
    before = marks(finished)
    (finished.run / "eval/scores.json").unlink()
    result = finished.call("run")
    assert result.code == 0 and "eval/scores.json is missing" in result.out
    assert "eval" in redone(finished, before) and not {"data", "pack", "train"} & set(redone(finished, before))


def test_a_damaged_record_is_named(finished: Project) -> None:
    path = finished.run / "eval/stage.json"
    path.write_text(path.read_text()[:50])
    refused(finished.call("run"), str(path), "damaged")


def test_a_run_folder_is_a_recipe(finished: Project) -> None:
    before = marks(finished)
    result = finished.call("run", recipe=finished.run)
    assert result.code == 0, result.text
    assert redone(finished, before) == []
    assert (finished.run / "recipe.yaml").read_bytes() == finished.recipe.read_bytes()


def test_force_does_one_stage_again(finished: Project) -> None:
    before = marks(finished)
    assert finished.call("report", "--force").code == 0
    assert redone(finished, before) == ["report"]


# Refusals


def test_a_single_verb_names_the_verb_that_is_missing(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = Project(tmp_path)
    tiny.write_recipe(tmp_path, model=tiny_model_dir)
    refused(project.call("pack"), "pack needs", f"trainer data {project.recipe}")
    assert project.call("data").code == 0
    refused(project.call("train"), "train needs", f"trainer pack {project.recipe}")
    assert project.call("pack").code == 0
    refused(project.call("eval"), "eval needs", f"trainer train {project.recipe}")


def test_a_folder_of_another_run_is_refused(finished: Project) -> None:
    before = contents(finished.run)
    result = finished.call("run", "--set", "name=other", "--run-dir", str(finished.run))
    refused(result, "'tiny'", "'other'", "--accept changed-recipe")
    assert contents(finished.run) == before


def test_a_failed_gate_skips_export_and_still_reports(finished: Project) -> None:
    gate = ["--set", "eval.gates=[{metric: exact_match, min: 0.99, confidence: null}]"]
    exported, before = contents(finished.run / "export"), marks(finished)
    result = finished.call("run", *gate)
    assert result.code == 6, result.text
    assert "exact_match" in result.err and "--accept failed-gate" in result.err
    assert redone(finished, before) == ["eval", "report"] and contents(finished.run / "export") == exported
    assert [gate["passed"] for gate in read(finished.run / "eval/gates.json")] == [False]  # type: ignore[attr-defined]
    assert finished.call("export", *gate).code == 6
    result = finished.call("run", *gate, "--accept", "failed-gate")
    assert result.code == 0, result.text
    assert read(finished.run / "export/stage.json")["accepted"] == ["failed-gate"]  # type: ignore[index]


def test_a_run_in_use_is_refused_with_the_process(finished: Project) -> None:
    with RunFolder(finished.run).locked():
        refused(finished.call("run"), f"in use by process {os.getpid()}")
    assert finished.call("run").code == 0


# Light verbs


def heavy_modules(*arguments: str) -> str:
    """Run a command in a process of its own and return which heavy modules it has imported at its end."""
    code = (
        "import sys, trainer.cli as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        f"finally: print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    return result.stdout.splitlines()[-1]


def test_data_and_report_import_no_torch(finished: Project) -> None:
    with finished.environment():
        for verb in ("data", "report"):
            assert heavy_modules(verb, str(finished.recipe), "--force") == ""


def test_unknown_verbs_and_options_are_exit_2() -> None:
    for arguments in (["trian", "x.yaml"], ["run"], ["run", "x.yaml", "--learning-rate", "1"]):
        with pytest.raises(SystemExit) as caught:
            call(*arguments)
        assert caught.value.code == 2
