"""Give a chat template a default system prompt, so that every server asks as training did.

The text of training's template is kept whole; in front of it stands a statement that puts the system turn before a
conversation which opens with none. Servers know it from many published templates, and need no settings for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from transformers.utils.chat_template_utils import render_jinja_template

from trainer.data.records.kinds import Message, ToolCall

Template = str | dict[str, str]
"""One Jinja text, or several by name, such as `default` and `tool_use`."""

DEVELOPER = "developer"
"""What newer OpenAI clients call the system turn."""
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BETWEEN_BRACES = re.compile(r"(?<=[{}%#])(?=[{}%#])")
_CALL: ToolCall = {"id": "abcdefghi", "type": "function", "function": {"name": "find", "arguments": {"what": "x"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Find it.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]},
    },
}
_USER: Message = {"role": "user", "content": "Hi {{ x }}"}
_ANSWER: Message = {"role": "assistant", "content": "Hello."}
_PROBES: tuple[tuple[list[Message], bool], ...] = (
    ([_USER], False),
    ([_USER, _ANSWER, _USER], False),
    ([_USER, _ANSWER], False),
    ([_USER], True),
    ([_USER, {"role": "assistant", "content": "", "tool_calls": [_CALL]}], True),
    (
        [
            _USER,
            {"role": "assistant", "content": "", "tool_calls": [_CALL]},
            {"role": "tool", "name": "find", "tool_call_id": "abcdefghi", "content": "found"},
        ],
        True,
    ),
)
"""Conversations without a system turn, and whether they come with tools."""


class DefaultSystemError(ValueError):
    """The template with the default does not write what the template without it does."""


def with_default_system(template: Template, text: str, kwargs: dict[str, object] | None = None) -> Template:
    """Return the template with a default system prompt, proven on conversations with and without tools.

    Args:
        template: As trained with.
        text: The system prompt.
        kwargs: Settings of the template, special tokens included.

    Raises:
        DefaultSystemError: It takes no system turn, or would come out otherwise.
    """
    if isinstance(template, dict):
        return {name: str(with_default_system(jinja, text, kwargs)) for name, jinja in template.items()}
    before, after = _renders(template, kwargs), _renders(opening := _opening(template, text, kwargs) + template, kwargs)
    system: Message = {"role": "system", "content": text}
    if before([system, _USER], with_tools=False) is None:
        raise DefaultSystemError("the chat template takes no system turn")
    for turns, with_tools in _PROBES:
        expected = before([system, *turns], with_tools=with_tools)
        for conversation in (turns, [system, *turns]):
            if after(conversation, with_tools=with_tools) != expected:
                raise DefaultSystemError(f"with the default, {len(turns)} turns come out otherwise")
    return opening


def without_default_system(template: str, text: str | None) -> str:
    """Return the template as trained with."""
    if text is None:
        return template
    starts = (_statement(text, roles) + end for roles in (["system", DEVELOPER], ["system"]) for end in _ENDS)
    return next((template.removeprefix(start) for start in starts if template.startswith(start)), template)


_ENDS = ("{%- endif -%}\n", "{%- endif %}\n")
"""Transformers drops one line break after a block; where the template begins with white space, no more may go."""


def _opening(template: str, text: str, kwargs: dict[str, object] | None) -> str:
    roles = ["system", DEVELOPER] if _knows_developer(template, kwargs) else ["system"]
    return _statement(text, roles) + _ENDS[template != template.lstrip()]


def _statement(text: str, roles: list[str]) -> str:
    names = ", ".join(f"'{role}'" for role in roles)
    return (
        f"{{%- if messages and messages[0]['role'] not in [{names}] -%}}\n"
        f"{{%- set messages = [{{'role': 'system', 'content': {_literal(text)}}}] + messages -%}}\n"
    )


def _literal(text: str) -> str:
    r"""Return a Jinja string; braces stand apart, for the programs that look for statements by a pattern.

    Example:
        >>> print(_literal("It's {{ x }}"))
        'It\'s {' ~ '{ x }' ~ '}'
    """
    escaped = "".join(_ESCAPES.get(character, character) for character in text)
    return "'" + _BETWEEN_BRACES.sub("' ~ '", escaped) + "'"


def _knows_developer(template: str, kwargs: dict[str, object] | None) -> bool:
    text = _renders(template, kwargs)([{"role": DEVELOPER, "content": "Xdeveloper"}, _USER], with_tools=False)
    return text is not None and "Xdeveloper" in text


def _renders(template: str, kwargs: dict[str, object] | None) -> Callable[..., str | None]:
    """Return a function that renders a conversation; None where the template refuses it."""

    def render(messages: list[Message], *, with_tools: bool) -> str | None:
        asks = messages[-1]["role"] != "assistant"
        settings = {"bos_token": "<s>", "eos_token": "</s>"} | (kwargs or {})
        try:
            texts, _ = render_jinja_template(
                conversations=[messages],
                tools=[_TOOL] if with_tools else None,
                chat_template=template,
                add_generation_prompt=asks,
                **settings,
            )
        except Exception:  # whatever a template raises: jinja errors, TypeError, its own raise_exception
            return None
        return str(texts[0])

    return render


def bare(messages: list[Message], text: str | None) -> list[Message] | None:
    """Return a conversation without its system turn where that is the default one; else None."""
    if text is None or len(messages) < 2 or messages[0] != {"role": "system", "content": text}:
        return None
    return messages[1:]


def both_ways(messages: list[Message], text: str | None) -> Iterator[list[Message]]:
    """Yield a conversation, and the same without its system turn where that is the default one."""
    yield messages
    if (short := bare(messages, text)) is not None:
        yield short
