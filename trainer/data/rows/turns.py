"""Convert one turn of a conversation to a canonical message."""

from __future__ import annotations

from typing import Literal

from trainer.data.records.kinds import Message, Role
from trainer.data.records.reasons import RowError, mark_text
from trainer.data.rows.content_blocks import TEXT_PARTS, has_blocks, type_of, unfold_blocks
from trainer.data.rows.tool_calls import canonical_calls
from trainer.data.rows.training_marks import MARKS, weight_of
from trainer.data.rows.values import Notes, kind_of, parse_json, written

CALLING_ROLES = ("function_call", "tool_call")
"""Turns of ShareGPT's kind whose text is a call: LLaMA-Factory's and ms-swift's word for it."""
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "input": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "output": "assistant",
    "ai": "assistant",
    **dict.fromkeys(CALLING_ROLES, "assistant"),
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Role as written in the file -> role that chat templates know. A template renders `human` wrongly without a word."""

KEPT_KEYS: tuple[Literal["reasoning_content", "thinking", "tool_call_id", "name"], ...] = (
    *("reasoning_content", "thinking"),
    *("tool_call_id", "name"),
)
REASONING_KEYS = ("reasoning", "thoughts", "thought")
"""Other words for `reasoning_content`: OpenRouter's and vLLM's, and those of data sets."""
KNOWN_KEYS = frozenset(
    {"role", "from", "content", "value", "tool_calls", "function_call", "channel", "recipient"}
    | {"human", "assistant", "type", *KEPT_KEYS, *REASONING_KEYS, *MARKS}
)
"""Keys of a turn that are used."""


def canonical_turns(value: object, where: str, notes: Notes) -> list[Message]:
    """Make a column of turns canonical.

    Args:
        value: list of turns, one turn, or either as JSON text or as Python writes it (csv files hold it so).
        where: name of the column, for messages.
        notes: ids of what was done to values are added.

    Raises:
        RowError: the column is empty, or a turn has no known role, no text, or broken tool calls.
    """
    if isinstance(value, str):
        value = _turns_in(value, where, notes)
    if isinstance(value, dict):
        value = [value]
    if not value:
        raise RowError("empty_messages", f"`{where}` has no turns")
    if not isinstance(value, list):
        raise RowError("unknown_format", f"`{where}` is {kind_of(value)}, not a list of turns")
    turns = [turn for index, item in enumerate(value) for turn in _messages_of(item, f"{where}[{index}]", notes)]
    return _join_analysis(turns)


def _turns_in(text: str, where: str, notes: Notes) -> object:
    """Read turns that are written as text.

    Raises:
        RowError: the text is neither JSON nor a Python literal.
    """
    value = parse_json(text, notes)
    if value is None and text.strip() not in ("", "null", "None"):
        raise RowError("unknown_format", f"`{where}` is text that is neither JSON nor a Python list: {mark_text(text)}")
    return value


def _messages_of(turn: object, where: str, notes: Notes) -> list[Message]:
    """Read one entry of a conversation, which may stand for several turns."""
    if isinstance(turn, str) and turn.lstrip()[:1] == "{":
        turn = _turns_in(turn, where, notes)
    if isinstance(turn, dict):
        if has_blocks(turn.get("content")):
            return [canonical_turn(part, where, notes) for part in unfold_blocks(turn, where)]
        if "human" in turn and "assistant" in turn:  # ms-swift's pairs
            question: Message = {"role": "user", "content": text_of(turn["human"], where, notes)}
            answer: Message = {"role": "assistant", "content": text_of(turn["assistant"], where, notes)}
            _add_weight(answer, turn, where, notes)
            return [question, answer]
    return [canonical_turn(turn, where, notes)]


def _join_analysis(turns: list[Message]) -> list[Message]:
    """Make what Harmony's analysis channel holds the reasoning of the answer that follows it."""
    if not any("channel" in turn for turn in turns):
        return turns
    joined: list[Message] = []
    waiting: list[str] = []
    for turn in turns:
        channel = turn.pop("channel", None)
        if channel == "analysis":
            waiting.append(turn["content"])
            continue
        if waiting and turn["role"] == "assistant":
            turn["reasoning_content"] = "\n".join(waiting)
            waiting = []
        joined.append(turn)
    return joined


def canonical_turn(turn: object, where: str, notes: Notes) -> Message:
    """Make one turn canonical: `{"role", "content", ...}`; `where` names it in messages.

    Raises:
        RowError: unknown role, content that is not text, broken tool calls or weight.
    """
    if not isinstance(turn, dict):
        raise RowError("unknown_role", f"{where} is {kind_of(turn)}, not an object with role and content")
    role_name = turn.get("from") or turn.get("role")
    name = role_name.strip().lower() if isinstance(role_name, str) else ""
    role = ROLES.get(name)
    if role is None:
        raise RowError("unknown_role", f"{where}: {_unknown_role(turn, role_name)}")
    content = turn["value"] if turn.get("value") is not None else turn.get("content")
    calls = turn.get("tool_calls") or turn.get("function_call")
    if name in CALLING_ROLES:
        calls, content = content or {}, None
    message: Message = {"role": role, "content": _content_of(content, role, where, notes)}
    for key in KEPT_KEYS:
        if turn.get(key) is not None:
            message[key] = turn[key]
    if (reasoning := _reasoning_of(turn)) is not None:
        message["reasoning_content"] = reasoning
    if calls is not None and calls != []:
        message["tool_calls"] = canonical_calls(calls, where, notes)
    _add_weight(message, turn, where, notes)
    if role == "assistant" and turn.get("channel") is not None:
        message["channel"] = turn["channel"]
    return message


def _add_weight(message: Message, turn: dict[str, object], where: str, notes: Notes) -> None:
    """Keep whether the file marks a turn as trained; of turns that nobody learns to say, say so.

    Raises:
        RowError: a mark that is neither, or two that contradict.
    """
    weight = weight_of(turn, where)
    if weight is None:
        return
    message["weight"] = weight
    if weight and message["role"] != "assistant":
        notes.add("asked_marked")


def _reasoning_of(turn: dict[str, object]) -> str | None:
    """Return the reasoning of a turn that stands under another name than the one that chat templates know."""
    if turn.get("reasoning_content") is not None:
        return None
    texts = (text for key in REASONING_KEYS if isinstance(text := turn.get(key), str) and text)
    return next(texts, None)


def lost_keys(value: object, where: str) -> set[str]:
    """Return the keys of turns that hold something and are not used, as `column[].key`."""
    turns = value if isinstance(value, list) else []
    unknown = {
        (key, turn[key] in (None, "", [], {}))
        for turn in turns
        if isinstance(turn, dict)
        for key in turn.keys() - KNOWN_KEYS
    }
    return {f"{where}[].{key}" for key, is_empty in unknown if not is_empty}


def _unknown_role(turn: dict[str, object], role_name: object) -> str:
    """Say what is wrong with the role of a turn: its name, or that it stands under another key."""
    if role_name is not None:
        return f"role {mark_text(repr(role_name))}; known are {', '.join(sorted(set(ROLES.values())))}"
    keys = mark_text(", ".join(map(str, turn))) if turn else "none"
    return f"no `role` (or `from`); its keys are {keys}: rename them to role and content"


def _content_of(content: object, role: str, where: str, notes: Notes) -> str:
    """Return the text of a turn; the result of a tool may be any JSON value."""
    if role == "tool" and isinstance(content, list) and not (content and _are_parts(content)):
        return written(content, where, notes)
    return text_of(content, where, notes)


def _are_parts(content: list[object]) -> bool:
    return all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in content)


def text_of(content: object, where: str, notes: Notes) -> str:
    """Return the text of `content`: a string, nothing, OpenAI's text parts (joined), or any other value as JSON text.

    Raises:
        RowError: a part that is not text (named), or a value that no text stands for.
    """
    if content is None or content == []:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and "type" in content and isinstance(content.get("text"), str):
        return _part_text(content, where)
    if isinstance(content, list) and any(map(_is_part, content)):
        return "".join(_part_text(part, where) for part in content)
    return written(content, where, notes)


def _is_part(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and ("type" in part or part.keys() == {"text"}))


def _part_text(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        text = part.get(TEXT_PARTS.get(type_of(part), ""))
        if isinstance(text, str):
            return text
    name = part.get("type") if isinstance(part, dict) else kind_of(part)
    raise RowError(
        "unsupported_content", f"{where}: content part {mark_text(repr(name))}; only text parts are trained on"
    )
