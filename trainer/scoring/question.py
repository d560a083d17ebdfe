"""Hold questions, prompts, answers and grades."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from trainer.data.records.kinds import Message, Record, Tool, ToolCall
from trainer.shapes.scores import FailureKind


@dataclass(frozen=True)
class Question:
    """One conversation to answer, with the answer that is right."""

    id: str
    """`source:line` of a held-out row (`#turn` may follow), `suite/item` of a suite."""
    messages: list[Message]
    """The conversation before the answer."""
    reference: str | None
    """The right answer as text; None where only a grader's own keys say what is right."""
    row: Mapping[str, object] = field(default_factory=dict)
    """The row or item: metadata, `tools`, `chat_template_kwargs`, keys that graders read."""
    group: str = ""
    """Rows that share a prompt or a named field; statistics resample groups, not rows."""
    reference_message: Message | None = None
    """The right answer as a message, with its tool calls."""
    reference_tokens: int = 0
    """Tokens of the right answer as the template writes it, with its reasoning; 0 where it is not counted."""

    @property
    def calls(self) -> list[ToolCall]:
        """Return the tool calls of the right answer, as its message holds them."""
        return (self.reference_message.get("tool_calls") or []) if self.reference_message else []


@dataclass(frozen=True)
class Answer:
    """A model's answer."""

    text: str
    num_tokens: int
    finished: bool
    """The model ended it, not the limit."""
    prompt_tokens: int = 0
    tool_calls: tuple[object, ...] = ()
    """Calls as an endpoint reports them; local models write theirs into the text."""
    repaired: bool = False
    """The first answer was invalid and this is the second attempt."""
    first_text: str | None = None
    """The invalid first answer, where there was a second attempt."""
    content: str | None = None
    """The answer after its reasoning; None where there is no reasoning. Empty where the reasoning never ends."""
    reasoning: str = ""

    @property
    def final(self) -> str:
        """Return the answer without its reasoning."""
        return self.text if self.content is None else self.content


@dataclass(frozen=True)
class Timing:
    """One request answered alone, in seconds."""

    first_token_s: float
    total_s: float
    num_tokens: int


@dataclass(frozen=True)
class Grade:
    """One grader's mark of one answer."""

    score: float
    """0 (wrong) to 1 (right); other scales where the grader's docstring says so."""
    reason: str = ""
    """The mistake; empty at full score."""
    failure: FailureKind | None = None
    """Kind of failure, None at full score."""


@dataclass(frozen=True)
class PromptRequest:
    """A prompt as it is sent to a model."""

    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    chat_template_kwargs: dict[str, object] = field(default_factory=dict)

    def as_row(self) -> Record:
        """Return the tools and template arguments as a row, for a renderer."""
        return {"tools": self.tools, "chat_template_kwargs": self.chat_template_kwargs}


def prompt_of(question: Question, messages: list[Message] | None = None) -> PromptRequest:
    """Return a question as a prompt, with other messages where they are given."""
    row = cast("Record", question.row)  # canonical keys keep their types beside the free columns
    messages = question.messages if messages is None else messages
    return PromptRequest(messages, row.get("tools") or [], row.get("chat_template_kwargs") or {})


ANSWER_KIND = "answer_kind"
"""Field of a question's row that names the kind of its answer, `call` or `text`: for `when` and `slices`."""
