"""Pass tool calls to a chat template in the form that it accepts: arguments as objects or text, ids of 9 signs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainer.data.records.kinds import Message, ToolCall
from trainer.exact_json import ExactNumber, text_of_json

ID_LENGTH = 9
FITTING_ID = re.compile(r"[A-Za-z0-9]{9}")
"""Source: Mistral's chat templates, which raise on any other."""
FIRST_MARK = 7 * 10**38
"""First of the numbers that stand for numbers beyond a double: 39 digits that no row contains."""


class ToolCallForm(NamedTuple):
    """Form of tool calls for a template."""

    has_text_arguments: bool = False
    has_short_ids: bool = False

    def described(self) -> str:
        """Describe the differences from canonical rows."""
        parts = ("arguments as JSON text", self.has_text_arguments), (f"ids of {ID_LENGTH} signs", self.has_short_ids)
        return ", ".join(text for text, is_so in parts if is_so)


FORMS = (ToolCallForm(), ToolCallForm(True), ToolCallForm(False, True), ToolCallForm(True, True))
"""Forms in the order in which they are tried."""


@dataclass
class Numbers:
    """Numbers that Python would not write as the row does, each replaced by a whole number while a template renders.

    Example:
        >>> numbers = Numbers()
        >>> hidden = numbers.hidden({"price": ExactNumber("1.10")})
        >>> numbers.restored(f"costs {hidden['price']}")
        'costs 1.10'
    """

    texts: list[str] = field(default_factory=list)

    def hidden(self, value: Any) -> Any:
        """Return a value with whole numbers in place of such numbers: templates write whole numbers digit by digit."""
        if isinstance(value, ExactNumber):
            self.texts.append(value.text)
            return FIRST_MARK + len(self.texts) - 1
        if isinstance(value, dict):
            return {key: self.hidden(item) for key, item in value.items()}
        return [self.hidden(item) for item in value] if isinstance(value, list) else value

    def restored(self, text: str) -> str:
        """Return the text with the original numbers."""
        for index, digits in enumerate(self.texts):
            text = text.replace(str(FIRST_MARK + index), digits)
        return text


def has_calls(messages: Sequence[Message]) -> bool:
    """Tell whether any turn calls a tool."""
    return any(message.get("tool_calls") for message in messages)


def choose_form(messages: Sequence[Message], render: Callable[[ToolCallForm], str]) -> ToolCallForm:
    """Return the first form in which the template renders a conversation; the plain one where none does."""
    for form in FORMS:
        try:
            text = render(form)
        except Exception:  # whatever a template raises: jinja errors, TypeError, its own raise_exception
            continue
        if form.has_text_arguments or not _writes_python(messages, text):
            return form
    return FORMS[0]


def _writes_python(messages: Sequence[Message], text: str) -> bool:
    """Tell whether a template writes arguments as Python does, `{'n': 0}`: it expects them as text."""
    calls: Any = (call.get("function", call) for message in messages for call in message.get("tool_calls") or [])
    arguments = [call["arguments"] for call in calls if isinstance(call.get("arguments"), dict) and call["arguments"]]
    return any(str(value) in text and str(value) != json.dumps(value) for value in arguments)


def fitted(messages: Sequence[Message], form: ToolCallForm, numbers: Numbers) -> list[Message]:
    """Return turns in a form, without their weights, which only training needs."""
    names = _short_ids(messages) if form.has_short_ids else iter(())
    return [_fitted_turn(message, form, names, numbers) for message in messages]


def _fitted_turn(message: Message, form: ToolCallForm, names: Iterator[str], numbers: Numbers) -> Message:
    turn = message.copy()
    turn.pop("weight", None)
    if turn.get("tool_calls"):
        turn["tool_calls"] = [_fitted_call(call, form, names, numbers) for call in turn["tool_calls"]]
    if form.has_short_ids and turn["role"] == "tool":
        turn["tool_call_id"] = next(names)
    return turn


def _fitted_call(call: ToolCall, form: ToolCallForm, names: Iterator[str], numbers: Numbers) -> ToolCall:
    fitted: Any = dict(call)
    function = fitted  # suites may have bare calls: name and arguments without `function`
    if "function" in call:
        function = fitted["function"] = dict(call["function"])
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        function["arguments"] = text_of_json(arguments) if form.has_text_arguments else numbers.hidden(arguments)
    if form.has_short_ids:
        fitted["id"] = next(names)
    canonical: ToolCall = fitted
    return canonical


def _short_ids(messages: Sequence[Message]) -> Iterator[str]:
    """Yield the id of each call and of each result, in their order: the same for a call and its result.

    A result without an id answers the first call without a result.
    """
    waiting: list[str] = []
    for number, message in enumerate(messages):
        for index, call in enumerate(message.get("tool_calls") or []):
            name = _short_id(str(call.get("id") or f"{number}.{index}"))
            waiting.append(name)
            yield name
        if message["role"] == "tool":
            answered = message.get("tool_call_id")
            name = _short_id(str(answered)) if answered else (waiting[0] if waiting else _short_id(str(number)))
            if name in waiting:
                waiting.remove(name)
            yield name


def _short_id(name: str) -> str:
    return name if FITTING_ID.fullmatch(name) else hashlib.blake2b(name.encode(), digest_size=8).hexdigest()[:ID_LENGTH]
