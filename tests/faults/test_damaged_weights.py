"""Weights are never edited by hand: whatever loads them refuses, with exit 4, a file that is not the one written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.command import Project, Result, call, contents

pytestmark = pytest.mark.slow

ADAPTER = "train/adapter/adapter_model.safetensors"
MERGED = "export/merged/model.safetensors"
GRADERS = [{"kind": "contains", "values": ["x"]}]
SUITE = {"suite_version": 1, "name": "one", "items": [{"id": "a", "prompt": "Hello", "graders": GRADERS}]}


def flip(path: Path) -> None:
    """Change the last bit; the time stays, as when a disk does it."""
    data, stat = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 1))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def refused(result: Result, *parts: str) -> None:
    assert result.code == 4, result.text
    assert "error:" in result.err and "fix:" in result.err and "Traceback" not in result.text, result.text
    for part in (*parts, "damaged weights are not used"):
        assert part in result.text, result.text


@pytest.mark.parametrize("harm", [flip, truncate])
def test_a_damaged_adapter_is_used_by_nothing(finished: Project, tmp_path: Path, harm: object) -> None:
    assert callable(harm)
    harm(finished.run / ADAPTER)
    before = contents(finished.run)
    questions = tmp_path / "questions.jsonl"
    tiny.write_rows(questions, [{"prompt": "Describe a red horse as JSON."}])
    refused(finished.call("run"), ADAPTER, "trainer train")
    refused(finished.call("export"), ADAPTER)
    refused(finished.call("eval", "--force"), ADAPTER)
    refused(finished.call("predict", str(questions), str(tmp_path / "answers.jsonl")), ADAPTER)
    refused(finished.call("inspect", "--flag", "label-errors"), ADAPTER)
    after = contents(finished.run)
    assert {name for name in after if after[name] != before.get(name)} <= {"env.json", "recipe.resolved.json"}


def test_an_adapter_with_edited_settings_is_used_by_nothing(finished: Project) -> None:
    path = finished.run / "train/adapter/adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"lora_alpha": 2 * settings["lora_alpha"]}))
    refused(finished.call("run"), "adapter_config.json")


def test_a_damaged_export_is_not_up_to_date_and_can_be_written_anew(finished: Project, tmp_path: Path) -> None:
    formats = ("--set", "export.formats=[merged]")
    assert finished.call("export", *formats).code == 0
    whole = (finished.run / MERGED).read_bytes()
    truncate(finished.run / MERGED)
    refused(finished.call("run", *formats), MERGED, "trainer export", "--force")
    refused(finished.call("check", *formats), MERGED)
    assert finished.call("export", "--force", *formats).code == 0
    assert (finished.run / MERGED).read_bytes() == whole
    flip(finished.run / MERGED)
    questions, suite = tmp_path / "questions.jsonl", tmp_path / "suite.json"
    tiny.write_rows(questions, [{"prompt": "Describe a red horse as JSON."}])
    suite.write_text(json.dumps(SUITE))
    refused(finished.call("run", *formats), MERGED)
    refused(finished.call("predict", str(questions), str(tmp_path / "answers.jsonl"), "--merged", *formats), MERGED)
    refused(finished.call("serve", "--port", "0", "--engine", "transformers", *formats), MERGED)
    refused(call("eval", str(finished.run / "export/merged"), "--suite", str(suite)), "model.safetensors")


def test_a_damaged_adapter_is_not_continued(finished: Project, tiny_model_dir: Path, tmp_path: Path) -> None:
    flip(finished.run / ADAPTER)
    folder = tmp_path / "next"
    tiny.write_recipe(folder, model=tiny_model_dir, adapter={"r": None, "init_from": str(finished.run)})
    project = Project(folder)
    assert project.call("data").code == 0 and project.call("pack").code == 0
    refused(project.call("train", worker=True), ADAPTER)


def test_answers_need_the_base_model_that_was_trained_on(
    finished: Project, tiny_model_dir: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_dir, base)
    tiny.write_recipe(finished.folder, model=base, adapter={"dropout": 0.1}, data={"split": {"validation": 0.2}},
                      train={"max_steps": 24, "save_steps": 2, "eval_steps": 12})  # fmt: skip
    questions = tmp_path / "questions.jsonl"
    tiny.write_rows(questions, [{"prompt": "Describe a red horse as JSON."}])
    arguments = ("predict", str(questions), str(tmp_path / "answers.jsonl"))
    assert finished.call(*arguments).code == 0
    flip(base / "model.safetensors")
    result = finished.call(*arguments)
    assert result.code == 4 and "other content than the base model" in result.err, result.text
