"""Choose vLLM's parser of tool calls: the one for the form in which the model's chat template writes calls."""

from __future__ import annotations

from pathlib import Path

VLLM_PARSERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("openai", ("<|channel|>commentary",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("deepseek_v31", ("<\uff5ctool\u2581calls\u2581begin\uff5c>", "thinking")),
    ("deepseek_v3", ("<\uff5ctool\u2581calls\u2581begin\uff5c>",)),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("minimax_m2", ("<minimax:tool_call>",)),
    ("functiongemma", ("<start_function_call>",)),
    ("gemma4", ("<|tool_call>",)),
    ("seed_oss", ("<seed:tool_call>",)),
    ("granite", ("<|tool_call|>", "<|start_of_role|>")),
    ("phi4_mini_json", ("<|tool_call|>",)),
    ("glm45", ("<tool_call>", "<arg_key>")),
    ("qwen3_coder", ("<tool_call>", "<function=")),
    ("hermes", ("<tool_call>",)),
    ("llama3_json", ("<|python_tag|>",)),
    ("llama3_json", ('"parameters": ', "<|start_header_id|>")),
)
"""Parser, and what all stands in a template that writes such calls; the first that fits.
Source: the parsers in vllm/tool_parsers (0.32) and the templates of the models they name."""


def vllm_parser(folder: Path) -> str | None:
    """Return the parser for the chat template of a folder; None where no known one fits.

    Args:
        folder: Of an exported format.
    """
    tool_template = folder / "additional_chat_templates" / "tool_use.jinja"
    path = tool_template if tool_template.is_file() else folder / "chat_template.jinja"
    return parser_of(path.read_text(encoding="utf-8")) if path.is_file() else None


def parser_of(template: str) -> str | None:
    """Return the parser for a chat template."""
    if "tool" not in template:
        return None
    return next((name for name, marks in VLLM_PARSERS if all(mark in template for mark in marks)), None)
