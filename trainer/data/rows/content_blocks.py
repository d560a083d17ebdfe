"""Read content in parts: text, and Anthropic's tool and thinking blocks."""

from __future__ import annotations

from trainer.data.records.reasons import RowError

TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Type of a part -> the key that holds its text: OpenAI's chat and responses forms, Anthropic's."""
BLOCKS = frozenset({"tool_use", "tool_result", "thinking"})


def has_blocks(content: object) -> bool:
    """Whether content holds Anthropic's blocks, which become tool calls, tool turns and reasoning."""
    return isinstance(content, list) and any(isinstance(part, dict) and type_of(part) in BLOCKS for part in content)


def type_of(part: dict[str, object]) -> str:
    """Return the type of a part: text where it names none, "" where what it names is no text."""
    kind = part.get("type", "text")
    return kind if isinstance(kind, str) else ""


def unfold_blocks(turn: dict[str, object], where: str) -> list[dict[str, object]]:
    """Turn one message with blocks into messages of OpenAI's form: results first, then what is said.

    Raises:
        RowError: a block without its name or result, or results beside calls in one turn.
    """
    results: list[dict[str, object]] = []
    calls, thoughts, parts = [], [], []
    content = turn["content"]
    for part in content if isinstance(content, list) else []:
        match part.get("type") if isinstance(part, dict) else None:
            case "tool_result":
                results.append(_tool_turn(part))
            case "tool_use":
                calls.append(_call(part, where))
            case "thinking":
                thoughts.append(str(part.get("thinking") or ""))
            case _:
                parts.append(part)
    message: dict[str, object] = {**turn, "content": parts}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if results and (calls or thoughts):
        raise RowError("bad_role_order", f"{where}: tool_use and tool_result in one turn")
    return [*results, message] if parts or calls or thoughts else results


def _tool_turn(part: dict[str, object]) -> dict[str, object]:
    turn: dict[str, object] = {"role": "tool", "content": part.get("content")}
    return turn if part.get("tool_use_id") is None else {**turn, "tool_call_id": part["tool_use_id"]}


def _call(part: dict[str, object], where: str) -> dict[str, object]:
    if not isinstance(part.get("name"), str):
        raise RowError("invalid_tool_arguments", f"{where}: a tool_use block without a name")
    identity = {"id": part["id"]} if part.get("id") is not None else {}
    return {**identity, "function": {"name": part["name"], "arguments": part.get("input")}}
