"""What is asked, what was answered, and how good that was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]
Failure = Literal["format", "style", "knowledge", "refusal", "other"]


@dataclass(frozen=True)
class Question:
    """One conversation to answer, with the answer that is right."""

    id: str
    """`source:line` of a held-out row (`#turn` may follow), `suite/item` of a suite."""
    messages: list[Message]
    """The conversation before the answer."""
    reference: str | None
    """The right answer as text; None where only a grader's own keys say what is right."""
    row: dict[str, Any] = field(default_factory=dict)
    """The whole row or item: metadata, `tools`, `chat_template_kwargs`, keys that graders read."""
    group: str = ""
    """Rows that share a prompt or a named field; statistics resample groups, not rows."""
    reference_message: Message | None = None
    """The right answer as a message, with its tool calls."""
    reference_tokens: int = 0
    """Tokens of the right answer as the template writes it, reasoning and all; 0 where it is not known."""

    @property
    def calls(self) -> list[Any]:
        """Return the tool calls of the right answer, as its message holds them."""
        return list((self.reference_message or {}).get("tool_calls") or [])


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    num_tokens: int
    finished: bool
    """It ended by itself, not at the limit."""
    prompt_tokens: int = 0
    tool_calls: tuple[dict[str, Any], ...] = ()
    """Calls as an endpoint reports them; local models write theirs into the text."""
    repaired: bool = False
    """The first answer was invalid and this is the second attempt."""
    first_text: str | None = None
    """The invalid first answer, where there was a second attempt."""
    content: str | None = None
    """What follows the reasoning; None where the answer is content alone. Empty where the reasoning never ends."""
    reasoning: str = ""

    @property
    def final(self) -> str:
        """What was answered, without reasoning: what is graded, and given to whoever asked."""
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
    """What is wrong; empty at full score."""
    failure: Failure | None = None
    """Kind of failure, None at full score."""


@dataclass(frozen=True)
class PromptRequest:
    """What is sent to a model for one question."""

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """Return what a renderer takes."""
        return {"tools": self.tools, "chat_template_kwargs": self.chat_template_kwargs}


def asked_by(question: Question) -> PromptRequest:
    """Return what is sent for a question as it stands."""
    row = question.row
    return PromptRequest(question.messages, row.get("tools") or [], row.get("chat_template_kwargs") or {})


ANSWER_KIND = "answer_kind"
"""Field of a question's row that says what its answer is, `call` or `text`: for `when` and `slices`."""
