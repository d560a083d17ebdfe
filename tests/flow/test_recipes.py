"""Every shipped recipe, from rows to a proven export, with only its model and its rows exchanged."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from tests import tiny
from tests.command import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The recipes as a user has them, with runs/ beside them."""
    folder = tmp_path_factory.mktemp("shipped")
    shutil.copytree(tiny.ROOT / "recipes", folder / "recipes")
    for name in ("icd10cm-chapters", "toolcalls-tiny", "preferences-tiny"):
        path = folder / "recipes" / "data" / f"{name}.jsonl"
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(rows[:: max(1, len(rows) // 16)][:16]))
    return Project(folder)


def assert_calls_are_evaluated(run: Path) -> None:
    held_out = [json.loads(line) for line in (run / "data/heldout.jsonl").read_text().splitlines()]
    calls = sum(bool(turn.get("tool_calls")) for row in held_out for turn in row["messages"])
    lines = [json.loads(line) for line in (run / "eval/predictions.jsonl").read_text().splitlines()]
    scores = json.loads((run / "eval/scores.json").read_text())
    assert scores["primary"] == "tool_call" and scores["arms"]["tuned"]["tool_call"]["n"] == len(lines)
    assert calls and sum("<tool_call>" in line["reference"] for line in lines) == calls


@pytest.mark.parametrize(
    "name", ["quickstart", "lora-sft", "qlora-sft", "full-sft", "full-sft-one-card", "dpo", "qlora-dpo"]
)
def test_shipped_recipe_runs_end_to_end(name: str, project: Project, tiny_model_dir: Path) -> None:
    recipe = project.folder / "recipes" / f"{name}.yaml"
    options = ["--set", f"model.name_or_path={tiny_model_dir}"]
    for verb in ("data", "pack", "train"):
        result = project.call(verb, *options, recipe=recipe, worker=verb == "train")
        assert result.code == 0, result.text
    accept = ["--accept", "failed-gate"] if name == "quickstart" else []  # a random model meets no gate
    result = project.call("run", *options, *accept, recipe=recipe)
    assert result.code == 0, result.text
    run = project.runs / name
    proofs = json.loads((run / "export/verify.json").read_text())
    assert proofs and all(proof["passed"] for proof in proofs.values())
    assert all((run / "export" / form).is_dir() for form in proofs)
    if name == "qlora-dpo":
        first = json.loads((run / "train/metrics.jsonl").read_text().splitlines()[0])
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    if name == "qlora-sft":
        assert_calls_are_evaluated(run)
