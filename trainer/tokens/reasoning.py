r"""Tell what an answer thinks from what it says, by the form that the chat template gives both.

A template writes more into an answer than its content, and a tuned model learns to write the same:

    Qwen3     <think>\nreasoning\n</think>\n\ncontent      without reasoning: <think>\n\n</think>\n\ncontent
    gpt-oss   <|channel|>analysis<|message|>reasoning<|end|><|start|>assistant<|channel|>final<|message|>content

The form is read off two answers that the template renders, one with reasoning and one without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from trainer.errors import DataError
from trainer.tokens.content import GUARD, any_of, split, unguarded

Message = dict[str, Any]
THINK = ("<think>", "</think>")
REASONING_KEYS = ("reasoning_content", "thinking")
QUESTION, REASONING, CONTENT = "Question 4711", "Reasoning 4712", "Content 4713"
PROMPT_END = 16
"""Tokens at the end of a prompt that may open reasoning."""
LAST_TAG = re.compile(r"<[^<>\s]+>\Z")


@dataclass(frozen=True)
class ReasonedAnswer:
    """An answer in two."""

    reasoning: str
    content: str


@dataclass(frozen=True)
class AnswerForm:
    """How a template writes answers.

    Args:
        opening: What reasoning begins with, in the answer or at the end of the prompt.
        closing: What stands before the content, whether there is reasoning or not.
        between: What stands between reasoning and `closing`.
        prefix: What stands before the content of an answer without reasoning, as the template writes it.
        key: Key of a message that the template takes reasoning from; None where it knows none.
        special: Special tokens, which are no part of a text.
    """

    opening: str = THINK[0]
    closing: str = THINK[1]
    between: str = ""
    prefix: str = ""
    key: str | None = None
    special: tuple[str, ...] = ()

    def split(self, text: str, *, prompt: str = "") -> ReasonedAnswer | None:
        """Return reasoning and content of an answer; None where it is content alone.

        Reasoning that is never closed is all there is: the content is empty.

        Args:
            text: The answer with its special tokens, as far as its source tells them.
            prompt: The end of what it answers, which may have opened the reasoning.
        """
        start, asked = text.lstrip(), prompt.rstrip()
        for opening, closing in dict.fromkeys([(self.opening, self.closing), THINK]):
            is_open = start.startswith(opening) or asked.endswith(opening)
            is_own = self.key is not None and closing == self.closing
            if closing in text and (is_open or is_own):
                reasoning, content = text.split(closing, 1)
                reasoning = reasoning.strip().removeprefix(opening).removesuffix(self.between)
                return ReasonedAnswer(self._plain(reasoning), self._plain(content))
            if is_open:
                return ReasonedAnswer(self._plain(start.removeprefix(opening)), "")
        head = self.prefix.strip()
        return ReasonedAnswer("", self._plain(start.removeprefix(head))) if head and start.startswith(head) else None

    def _plain(self, text: str) -> str:
        for token in self.special:
            text = text.replace(token, "")
        return text.strip()


THINKING = AnswerForm()
"""The form of answers whose reasoning is part of their text."""


def read_form(render: Callable[..., str], special: tuple[str, ...]) -> AnswerForm:
    """Return how a template writes answers.

    Args:
        render: Renders messages; with `prompt=True` as what a model is asked to go on with.
        special: The tokenizer's special tokens.
    """
    asked = [{"role": "user", "content": QUESTION}]
    try:
        prompt = render(asked, prompt=True)
    except DataError:  # no template, or one that refuses so short a conversation
        return AnswerForm(special=special)
    prefix = _before_content(render, prompt, asked, {}) or ""
    for key in REASONING_KEYS:
        written = _before_content(render, prompt, asked, {key: REASONING})
        if written is not None and REASONING in written:
            opening, _, rest = written.partition(REASONING)
            closing = _closing(rest, prefix)
            between = rest.strip().removesuffix(closing)
            return AnswerForm(opening.strip() or _last_tag(prompt), closing, between, prefix, key, special)
    return AnswerForm(prefix=prefix, special=special)


def split_tokens(
    form: AnswerForm, tokenizer: Any, prompt: Sequence[int], answer: Sequence[int]
) -> ReasonedAnswer | None:
    """Return reasoning and content of generated tokens; None where they are content alone."""
    end = tokenizer.decode(list(prompt[-PROMPT_END:]), skip_special_tokens=False)
    parts = form.split(_written(form, tokenizer, list(answer)), prompt=str(end))
    return parts and ReasonedAnswer(unguarded(parts.reasoning), unguarded(parts.content))


def _written(form: AnswerForm, tokenizer: Any, ids: list[int]) -> str:
    """Return the text of generated tokens, with a guard in what merely spells a special token."""
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    tokens = any_of(token for token in form.special if len(token) > 1)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if str(token) in form.special}
    text = text.replace(GUARD, GUARD * 2)
    if len(tokens.findall(text)) <= sum(id_ in special for id_ in ids):
        return text
    runs = ((is_special, list(run)) for is_special, run in groupby(ids, key=special.__contains__))
    decoded = ((is_special, str(tokenizer.decode(run, skip_special_tokens=False))) for is_special, run in runs)
    return "".join(run if is_special else split(run.replace(GUARD, GUARD * 2), tokens) for is_special, run in decoded)


def _before_content(render: Callable[..., str], prompt: str, asked: list[Message], extra: Message) -> str | None:
    """Return what an answer begins with before its content; None where it does not follow its prompt."""
    try:
        whole = render([*asked, {"role": "assistant", "content": CONTENT, **extra}])
    except DataError:
        return None
    if not whole.startswith(prompt) or CONTENT not in whole[len(prompt) :]:
        return None
    return whole[len(prompt) :].partition(CONTENT)[0]


def _closing(rest: str, prefix: str) -> str:
    """Return what opens the content whether there is reasoning or not: the end that both forms share."""
    shared = shared_opening(rest[::-1], prefix[::-1])[::-1].strip()
    return shared or rest.strip() or THINK[1]


def shared_opening(left: str, right: str) -> str:
    """Return the characters that two texts begin with in common."""
    length = next((at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), None)
    return left[: min(len(left), len(right)) if length is None else length]


def _last_tag(prompt: str) -> str:
    found = LAST_TAG.search(prompt.rstrip())
    return found[0] if found else THINK[0]
