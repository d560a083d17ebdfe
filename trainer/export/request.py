"""Declare the request to the fresh process that proves an export."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainer.data.records.kinds import Message
from trainer.recipe.export import Format
from trainer.recipe.model import ModelSection


@dataclass(frozen=True)
class TokenPrompt:
    """One question."""

    ids: list[int]
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, object]] = field(default_factory=list)
    kwargs: dict[str, object] = field(default_factory=dict)
    quotes: bool = False
    """It quotes special tokens, which servers take for tokens: they tokenize what the template has written."""


@dataclass(frozen=True)
class Export:
    """One format to be proven."""

    name: str
    kind: Format
    folder: str
    base: str = "plain"
    """What it was made from: plain or dequantised."""
    plan: dict[str, Any] | None = None
    """Of merged weights: what the merge was asked for, to repeat it."""
    fingerprint: str = ""
    """Of the export that wrote it: an older folder is not taken for the new one."""


@dataclass(frozen=True)
class Request:
    """What is measured."""

    model: dict[str, Any]
    """The recipe's `model`."""
    base: str
    """Folder of the base model."""
    cache: str
    trained: str
    """Folder with the trained adapter, or the trained model."""
    is_adapter: bool
    four_bit: dict[str, Any] | None
    """The recipe's `adapter` where it is qlora."""
    weights_dtype: str
    """Type that the base had while training."""
    rows: list[list[int]]
    """Held-out rows."""
    prompts: list[dict[str, Any]]
    """Held-out questions: messages, tools, kwargs, and `ids` as training and eval saw them."""
    general: list[list[int]]
    """General prompts, as token ids."""
    stop_ids: list[int]
    stop_id: int
    max_new_tokens: int
    template: str | None
    """sha256 of the template to travel along: the one trained with, and its default system prompt."""
    eos_token: str | None
    """End token of the tokenizer trained with."""
    exports: list[Export] = field(default_factory=list)
    references: str | None = None
    """File where the first request of an export keeps what the trained model says, and the next one finds it."""

    @property
    def token_prompts(self) -> list[TokenPrompt]:
        """Return the questions."""
        return [TokenPrompt(**prompt) for prompt in self.prompts]

    @property
    def section(self) -> ModelSection:
        """Return the recipe's `model`."""
        return ModelSection.model_validate(self.model)
