r"""Split answers into reasoning and content, by the form in which the chat template writes both.

A tuned model writes the template's tags around its reasoning:

    Qwen3     <think>\nreasoning\n</think>\n\ncontent      without reasoning: <think>\n\n</think>\n\ncontent
    gpt-oss   <|channel|>analysis<|message|>reasoning<|end|><|start|>assistant<|channel|>final<|message|>content

The form follows from two answers that the template renders, one with reasoning and one without.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from os.path import commonprefix
from typing import Literal

from trainer.data.records.kinds import Message
from trainer.errors import DataError
from trainer.tokens.content import GUARD, any_of, split, unguarded
from trainer.tokens.tokenizer import Tokenizer

THINK = ("<think>", "</think>")
REASONING_KEYS: tuple[Literal["reasoning_content", "thinking"], ...] = ("reasoning_content", "thinking")
QUESTION, REASONING, CONTENT = "Question 4711", "Reasoning 4712", "Content 4713"
PROMPT_END = 16
"""Tokens at the end of a prompt that may open reasoning."""
LAST_TAG = re.compile(r"<[^<>\s]+>\Z")


@dataclass(frozen=True)
class ReasonedAnswer:
    """Reasoning and content of an answer."""

    reasoning: str
    content: str


def without_reasoning(message: Message) -> tuple[str, Message]:
    r"""Return the reasoning of an answer, from a key of its own or `<think>` tags, and the answer without it.

    Example:
        >>> without_reasoning({"role": "assistant", "content": "<think>\nSo.\n</think>\n\nYes."})
        ('So.', {'role': 'assistant', 'content': 'Yes.'})
    """
    plain, reasoning = message.copy(), ""
    for key in REASONING_KEYS:
        reasoning = plain.pop(key, "") or reasoning
    content = message.get("content")
    if isinstance(content, str) and content.lstrip().startswith(THINK[0]) and THINK[1] in content:
        written, _, plain["content"] = content.lstrip().removeprefix(THINK[0]).partition(THINK[1])
        reasoning, plain["content"] = reasoning or written, plain["content"].lstrip("\n")
    return reasoning.strip(), plain


def in_tags(message: Message) -> Message:
    r"""Return an answer with its reasoning inside `<think>` tags; the same object where no key has reasoning.

    Example:
        >>> in_tags({"role": "assistant", "content": "Yes.", "reasoning_content": "So."})["content"]
        '<think>\nSo.\n</think>\n\nYes.'
    """
    if not any(message.get(key) for key in REASONING_KEYS):
        return message
    reasoning, tagged = without_reasoning(message)
    content = tagged.get("content") or ""
    tagged["content"] = f"{THINK[0]}\n{reasoning}\n{THINK[1]}" + (f"\n\n{content}" if content else "")
    return tagged


def in_key(message: Message, key: str) -> Message:
    """Return an answer with reasoning from its `<think>` tags in a key; the same object where it has no tags.

    Example:
        >>> in_key({"role": "assistant", "content": "<think>So.</think>Yes."}, "thinking")
        {'role': 'assistant', 'content': 'Yes.', 'thinking': 'So.'}
    """
    reasoning, plain = without_reasoning(message)
    if message["role"] != "assistant" or plain.get("content") == message.get("content"):
        return message
    plain[key] = reasoning  # type: ignore[literal-required]  # one of REASONING_KEYS
    return plain


@dataclass(frozen=True)
class AnswerForm:
    """Form in which a template writes answers.

    Args:
        opening: Text before reasoning, in the answer or at the end of the prompt.
        closing: Text before the content, with or without reasoning.
        between: Text between reasoning and `closing`.
        prefix: Text before the content of an answer without reasoning.
        key: Key of a message that the template reads reasoning from; None: no key.
        special: Special tokens, which are removed from texts.

    Example:
        >>> form = AnswerForm(key="reasoning_content")
        >>> form.split("<think>2 + 2</think>4")
        ReasonedAnswer(reasoning='2 + 2', content='4')
        >>> form.split("2 + 2</think>4", prompt="<think>")
        ReasonedAnswer(reasoning='2 + 2', content='4')
        >>> form.split("4") is None
        True
    """

    opening: str = THINK[0]
    closing: str = THINK[1]
    between: str = ""
    prefix: str = ""
    key: str | None = None
    special: tuple[str, ...] = ()

    def split(self, text: str, *, prompt: str = "") -> ReasonedAnswer | None:
        """Return reasoning and content of an answer; None: only content.

        After reasoning that is never closed, the content is empty.

        Args:
            text: The answer with its special tokens, as far as they are available.
            prompt: The end of the prompt, which may open the reasoning.
        """
        start, prompt_end = text.lstrip(), prompt.rstrip()
        for opening, closing in dict.fromkeys([(self.opening, self.closing), THINK]):
            is_open = start.startswith(opening) or prompt_end.endswith(opening)
            is_template = self.key is not None and closing == self.closing
            if closing in text and (is_open or is_template):
                reasoning, content = text.split(closing, 1)
                reasoning = reasoning.strip().removeprefix(opening).removesuffix(self.between)
                return ReasonedAnswer(self._plain(reasoning), self._plain(content))
            if is_open:
                return ReasonedAnswer(self._plain(start.removeprefix(opening)), "")
        head = self.prefix.strip()
        return ReasonedAnswer("", self._plain(start.removeprefix(head))) if head and start.startswith(head) else None

    def reasoning_end(self, text: str, *, prompt: str = "") -> tuple[int, bool]:
        r"""Return where the content of an answer begins behind its reasoning, and whether the reasoning is empty.

        0 without reasoning.

        Args:
            text: The answer as the template writes it.
            prompt: Its prompt, which may open the reasoning.

        Example:
            >>> AnswerForm().reasoning_end("<think>\n\n</think>\n\nYes.")
            (19, True)
            >>> AnswerForm().reasoning_end("Yes.")
            (0, False)
        """
        start, opened = text.lstrip(), prompt.rstrip()
        for opening, closing in dict.fromkeys([(self.opening, self.closing), THINK]):
            if closing in text and (start.startswith(opening) or opened.endswith(opening)):
                reasoning, content = text.split(closing, 1)
                is_empty = not reasoning.strip().removeprefix(opening).removesuffix(self.between).strip()
                return len(text) - len(content.lstrip()), is_empty
        return 0, False

    def _plain(self, text: str) -> str:
        for token in self.special:
            text = text.replace(token, "")
        return text.strip()


THINKING = AnswerForm()
"""The form of answers whose reasoning is part of their text."""


def read_form(render: Callable[..., str], special: tuple[str, ...]) -> AnswerForm:
    """Return the form in which a template writes answers.

    Args:
        render: Renders messages; with `prompt=True` a prompt, up to the opening of the answer.
        special: The tokenizer's special tokens.
    """
    question: list[Message] = [{"role": "user", "content": QUESTION}]
    try:
        prompt = render(question, prompt=True)
    except DataError:  # no template, or one that refuses so short a conversation
        return AnswerForm(special=special)
    answer: Message = {"role": "assistant", "content": CONTENT}
    prefix = _before_content(render, prompt, [*question, answer]) or ""
    for key in REASONING_KEYS:
        reasoned = answer.copy()
        reasoned[key] = REASONING
        written = _before_content(render, prompt, [*question, reasoned])
        if written is not None and REASONING in written:
            # written = opening + REASONING + between + closing, and then CONTENT
            opening, _, after = written.partition(REASONING)
            closing = _closing(after, prefix)
            between = after.strip().removesuffix(closing)
            return AnswerForm(opening.strip() or _last_tag(prompt), closing, between, prefix, key, special)
    return AnswerForm(prefix=prefix, special=special)


def split_tokens(
    form: AnswerForm, tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int]
) -> ReasonedAnswer | None:
    """Return reasoning and content of generated tokens; None: only content."""
    end = tokenizer.decode(list(prompt[-PROMPT_END:]), skip_special_tokens=False)
    parts = form.split(_written(form, tokenizer, list(answer)), prompt=str(end))
    return parts and ReasonedAnswer(unguarded(parts.reasoning), unguarded(parts.content))


def _written(form: AnswerForm, tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of generated tokens, with a guard in plain text that spells a special token."""
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    tokens = any_of(token for token in form.special if len(token) > 1)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if str(token) in form.special}
    text = text.replace(GUARD, GUARD * 2)
    # as many spelled as written by ids: none of them is plain text
    if len(tokens.findall(text)) <= sum(id_ in special for id_ in ids):
        return text
    runs = ((is_special, list(run)) for is_special, run in groupby(ids, key=special.__contains__))
    decoded = ((is_special, str(tokenizer.decode(run, skip_special_tokens=False))) for is_special, run in runs)
    return "".join(run if is_special else split(run.replace(GUARD, GUARD * 2), tokens) for is_special, run in decoded)


def _before_content(render: Callable[..., str], prompt: str, messages: list[Message]) -> str | None:
    """Return the text of an answer before its content; None where it does not begin with its prompt."""
    try:
        text = render(messages)
    except DataError:
        return None
    if not text.startswith(prompt) or CONTENT not in text[len(prompt) :]:
        return None
    return text[len(prompt) :].partition(CONTENT)[0]


def _closing(after: str, prefix: str) -> str:
    """Return the common end of the texts before the content, with reasoning (`after`) and without (`prefix`)."""
    shared = shared_opening(after[::-1], prefix[::-1])[::-1].strip()
    return shared or after.strip() or THINK[1]


def shared_opening(left: str, right: str) -> str:
    """Return the longest common prefix of two texts."""
    return commonprefix([left, right])  # noqa: RUF071  by characters, as these are no paths


def _last_tag(prompt: str) -> str:
    match = LAST_TAG.search(prompt.rstrip())
    return match[0] if match else THINK[0]
