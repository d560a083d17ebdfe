"""scripts/gpu_acceptance.sh: at tiny size without a card, so that it works the first time it meets one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {
    "correctness": {"float32", "bfloat16", "packing float32", "nf4 weights", "nf4", "pipeline qlora"},
    "engine": {"attention", "head", "gradients"},
    "limits": {"8b lora by plan", "8b trl", "8b lora in one product", "8b qlora", "8b lora 32k"},
    "methods": {
        "lora sft",
        "none dpo",
        "host waits sft",
        "host waits dpo",
        "launched from outside",
        "resumed after SIGTERM",
    },
}


def start(part: str, out: Path, **environment: str) -> subprocess.Popen[str]:
    command = [str(ROOT / "scripts" / "gpu_acceptance.sh"), part]
    variables = os.environ | {"PYTHON": sys.executable, "ACCEPTANCE_OUT": str(out)} | environment
    return subprocess.Popen(command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def check(part: str, process: subprocess.Popen[str], out: Path, device: str) -> None:
    output = process.communicate()[0]
    assert process.returncode == 0, output
    (path,) = out.glob(f"*-{part}*.json")
    report: dict[str, Any] = json.loads(path.read_text())
    assert report["passed"] and report["part"] == part and report["device"] == device, output
    assert path.name.startswith("gpu-") == (device == "cuda")
    assert {"torch", "cuda", "transformers", "peft", "trl", "accelerate", "bitsandbytes"} <= report["versions"].keys()
    assert {case["name"] for case in report["cases"]} >= PARTS[part]
    assert all(case["limits"].keys() <= case["figures"].keys() for case in report["cases"])


@pytest.mark.slow
def test_all_parts_pass_at_tiny_size_on_the_cpu(tmp_path: Path) -> None:
    tiny = {"ACCEPTANCE_SIZE": "tiny", "CUDA_VISIBLE_DEVICES": ""}
    for part in PARTS:  # one at a time: each has a deadline of its own
        check(part, start(part, tmp_path, **tiny), tmp_path, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("part", PARTS)
def test_all_parts_pass_on_a_card(part: str, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    check(part, start(part, tmp_path), tmp_path, "cuda")


@pytest.mark.slow
def test_figures_without_a_card_never_reach_the_repository(tmp_path: Path) -> None:
    process = start("methods", tmp_path, CUDA_VISIBLE_DEVICES="", ACCEPTANCE_SIZE="real")
    assert "fix:" in process.communicate()[0] and process.returncode == 5
    assert not list(tmp_path.iterdir())


def test_a_failing_case_is_recorded_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    from acceptance.report import Limit, Report

    report = Report("methods", "tiny", tmp_path)
    report.case("raises", lambda: 1 / 0)
    report.case("nan", lambda: {"loss_drop": Limit(float("nan"), ">", 0)})
    report.case("fine", lambda: {"loss_drop": Limit(0.5, ">", 0), "num_rows": 40})
    assert report.close() == 1
    written = json.loads(report.path.read_text())
    assert [case["passed"] for case in written["cases"]] == [False, False, True] and not written["passed"]
    assert "ZeroDivisionError" in written["cases"][0]["error"]
    assert written["cases"][2]["limits"] == {"loss_drop": "> 0"}
