"""What `verify` looks at when files are not only changed but malformed; needs no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from trainer.errors import StageError
from trainer.export.provenance import PROVENANCE, examine, read_provenance, template_sha256, write_provenance
from trainer.model.foreign.safetensors_header import DamagedFileError, stored_tensors

STOP = 4


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A signed folder without a model in it."""
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, STOP]}))
    save_file({"a": np.ones((2, 3), np.float32)}, tmp_path / "model.safetensors")
    _sign(tmp_path, tiny_tokenizer.chat_template)
    return tmp_path


def _sign(folder: Path, template: object) -> None:
    write_provenance(folder, {"kind": "merged", "template": template_sha256(template), "stop_token_id": STOP})


def _header(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [-8, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}',
        b'{"a": {"dtype": "F32", "shape": null, "data_offsets": [0, 24]}}',
        b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": ["0", "24"]}}',
        b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]}}',
        b'{"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 2400]}}',
    ],
    ids=[
        "list",
        "cut off",
        "number",
        "no keys",
        "one offset",
        "negative offset",
        "negative shape",
        "no shape",
        "text offsets",
        "too short",
        "too long",
    ],
)
def test_a_malformed_header_is_a_finding(header: bytes, folder: Path, tiny_tokenizer: Any) -> None:
    _header(folder / "model.safetensors", header)
    with pytest.raises(DamagedFileError, match=r"model\.safetensors"):
        stored_tensors(folder / "model.safetensors")
    _sign(folder, tiny_tokenizer.chat_template)
    (finding,) = examine(folder).findings
    assert finding.startswith("model.safetensors:")


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 8, b"\xff" * 100], ids=["empty", "7", "8", "100"])
def test_what_is_no_safetensors_file_is_a_finding(data: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(data)
    assert any("too few for its header" in finding for finding in examine(folder).findings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: [], "not written by recipe-trainer"),
        (lambda facts: facts | {"files": []}, "not written by recipe-trainer"),
        (lambda facts: facts | {"files": {"a": 1}}, "not written by recipe-trainer"),
        (lambda facts: facts | {"files": {"a": {"bytes": "1"}}}, "not written by recipe-trainer"),
    ],
)
def test_a_malformed_provenance_is_refused(change: Callable[[Any], Any], message: str, folder: Path) -> None:
    path = folder / PROVENANCE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(StageError, match=message):
        examine(folder)


def test_a_cut_provenance_is_refused(folder: Path) -> None:
    path = folder / PROVENANCE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StageError, match="damaged"):
        read_provenance(folder)


def test_a_dangling_link_is_a_missing_file(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.unlink()
    path.symlink_to(folder / "nowhere")
    (folder / "other").symlink_to(folder / "nowhere")
    findings = examine(folder).findings
    assert "generation_config.json is missing" in findings and "other is not part of the export" in findings


def test_several_named_templates_count_together(folder: Path, tiny_tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    names = AutoTokenizer.from_pretrained(folder)
    names.chat_template = {"default": names.chat_template, "tool_use": "{{ messages }}"}
    names.save_pretrained(folder)
    _sign(folder, names.chat_template)
    assert AutoTokenizer.from_pretrained(folder).chat_template == names.chat_template
    assert examine(folder).findings == []
    (folder / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    _sign(folder, names.chat_template)
    assert examine(folder).findings == ["the chat template is not the one trained with"]


def test_what_tools_leave_in_a_downloaded_folder_is_no_finding(folder: Path) -> None:
    for name in (".cache/huggingface/x", ".gitattributes"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert examine(folder).findings == []
