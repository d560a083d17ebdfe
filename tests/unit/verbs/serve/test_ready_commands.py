"""The shell commands of recipes/serve, with programs that only print what they were told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

SCRIPTS = tiny.ROOT / "recipes" / "serve"
PRINTS = f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nprintf "%s\\n" "$@"\n'


def told(folder: Path, script: str, *arguments: str | Path) -> tuple[int, list[str]]:
    for name in ("python", "docker", "llama-server"):
        (folder / name).write_text(PRINTS)
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(SCRIPTS / script), *map(str, arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    return result.returncode, (result.stdout or result.stderr).splitlines()


def make_adapter(run: Path, rank: int, template: str = "x") -> Path:
    folder = run / "export" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "rank_pattern": {"q_proj": rank}}))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_several_adapters_share_a_base_and_each_has_the_name_of_its_run(tmp_path: Path) -> None:
    item, two = make_adapter(tmp_path / "one", 4), make_adapter(tmp_path / "two", 20)
    code, words = told(tmp_path, "vllm-adapters.sh", "org/base", tmp_path / "one", tmp_path / "two")
    assert code == 0 and words[3] == "org/base"
    assert f"one={item}" in words and f"two={two}" in words
    assert words[words.index("--max-lora-rank") + 1] == "32" and words[words.index("--max-loras") + 1] == "2"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--chat-template") + 1] == str(item / "chat_template.jinja")


def test_adapters_with_another_template_and_missing_ones_are_refused(tmp_path: Path) -> None:
    make_adapter(tmp_path / "one", 4)
    make_adapter(tmp_path / "two", 4, template="y")
    (tmp_path / "three").mkdir()
    for second, reason in (("two", "another chat template"), ("three", "trainer export")):
        code, words = told(tmp_path, "vllm-adapters.sh", "org/base", tmp_path / "one", tmp_path / second)
        assert code == 4 and reason in words[0]


def test_the_merged_model_is_mounted_read_only_and_published_on_this_machine(tmp_path: Path) -> None:
    merged = tmp_path / "run" / "export" / "merged"
    merged.mkdir(parents=True)
    assert told(tmp_path, "vllm-merged.sh", tmp_path / "run")[0] == 2
    (merged / "config.json").write_text("{}")
    code, words = told(tmp_path, "vllm-merged.sh", tmp_path / "run")
    assert code == 0 and f"{merged}:/model:ro" in words and "127.0.0.1:8000:8000" in words
    assert words[-1] == "run"


@pytest.mark.parametrize("files", [[], ["m-f16.gguf", "m-q4_0.gguf", "m-q8_0.gguf"]])
def test_the_8_bit_file_is_served(tmp_path: Path, files: list[str]) -> None:
    folder = tmp_path / "run" / "export" / "gguf"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b"")
    code, words = told(tmp_path, "llama-server.sh", tmp_path / "run")
    assert (code, bool(files)) in ((0, True), (4, False))
    if files:
        assert words[words.index("--model") + 1].endswith("m-q8_0.gguf") and "--jinja" in words
