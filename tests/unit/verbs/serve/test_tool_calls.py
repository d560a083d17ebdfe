"""vLLM's parser of tool calls is chosen by how the template writes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests import tiny
from trainer.verbs.serve.vllm import parser_of, vllm_parser

EXPECTED = {
    "cohere": None,
    "deepseekv3": "deepseek_v3",
    "gemma3": None,
    "glm4moe": "glm45",
    "gptoss": "openai",
    "llama3": None,
    "llama3_1": "llama3_json",
    "llama3_2": "llama3_json",
    "phi3": None,
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_instruct_2507": "hermes",
    "qwen3_6": "qwen3_coder",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_templates_of_known_families_have_their_parser(name: str) -> None:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    template = (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    assert parser_of(template) == EXPECTED[name]


def test_the_projects_own_template_writes_calls_as_hermes_does() -> None:
    assert parser_of(tiny.TEMPLATE_PATH.read_text(encoding="utf-8")) == "hermes"


def test_a_template_for_tools_apart_decides(tmp_path: Path) -> None:
    assert vllm_parser(tmp_path) is None
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}<tool_call>")
    assert vllm_parser(tmp_path) == "hermes"
