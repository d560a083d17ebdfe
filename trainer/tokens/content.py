r"""Split special tokens that rows quote by a guard, so that they differ from those that the template writes.

    content   What does <|im_end|> mean?         guarded   What does <G|im_end|> mean?     (G: a private-use character)

The guard stays in rendered texts until they are tokenized (`trainer.tokens.quoted`), where a split token becomes plain
text. Rows without such tokens stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from operator import is_
from typing import Any, TypeVar

from trainer.data.records.kinds import TURN_LISTS, Message, Record
from trainer.errors import DataError
from trainer.tokens.tokenizer import Tokenizer

Value = TypeVar("Value")

GUARD = "\uf4f2"
"""Follows the first character of a quoted token; doubled, it stands for this character itself."""


def unguarded(text: str) -> str:
    """Return a text without guards, as in its row.

    Example:
        >>> split("a <|end|>", any_of(["<|end|>"])) == f"a <{GUARD}|end|>", unguarded(f"a <{GUARD}|end|>")
        (True, 'a <|end|>')
    """
    return text.replace(GUARD * 2, "\0").replace(GUARD, "").replace("\0", GUARD) if GUARD in text else text


def without_guards(text: str) -> tuple[str, list[int]]:
    """Return a text without guards, and the position of each of its characters in the guarded text."""
    matches = list(re.finditer(f"{GUARD}{GUARD}|[^{GUARD}]", text, re.DOTALL))
    return "".join(match.group()[0] for match in matches), [match.start() for match in matches]


def any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    """Match any of some tokens, the longest first, as `tokenizers` does; nothing where there are none."""
    longest_first = sorted({token for token in tokens if token}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def split(text: str, tokens: re.Pattern[str]) -> str:
    """Put a guard into each of the tokens."""
    while tokens.search(text):  # a part of a split token may be a shorter token
        text = tokens.sub(lambda match: match[0][0] + GUARD + match[0][1:], text)
    return text


class ContentGuard:
    """Guards the strings of rows.

    Args:
        tokens: Special tokens of the tokenizer and the template.
        spoken: Tokens that an assistant turn may contain as such: they begin and end its reasoning.
    """

    def __init__(self, tokens: Collection[str], *, spoken: Collection[str] = ()) -> None:
        tokens = {token for token in tokens if len(token) > 1}
        self.names = frozenset(tokens)
        self.tokens = any_of(tokens)
        self.answered = any_of(tokens - set(spoken))
        self.firsts = (*sorted({token[0] for token in tokens}), GUARD)

    def text(self, text: str, *, is_answer: bool = False) -> str:
        """Return a text with a guard in each quoted token; the same object where there is none."""
        for first in self.firsts:
            if first in text:
                break
        else:
            return text
        tokens = self.answered if is_answer else self.tokens
        # nearly all texts: the same object tells the callers that nothing changed
        if GUARD not in text and not tokens.search(text):
            return text
        return split(text.replace(GUARD, GUARD * 2), tokens)

    def row(self, row: Record) -> Record:
        """Return a row with its turns, tools and text guarded; the same object where nothing is quoted."""
        guarded = self.tools(row)
        for name in TURN_LISTS:
            if name in row and (turns := self.turns(row[name])) is not row[name]:
                guarded = guarded.copy()
                guarded[name] = turns
        if "text" in row and (text := self.text(row["text"])) is not row["text"]:
            guarded = {**guarded, "text": text}
        return guarded

    def tools(self, row: Record) -> Record:
        """Return a row with its tools guarded; the same object where nothing is quoted."""
        tools = row.get("tools")
        if not tools:
            return row
        guarded = self._value(tools, is_answer=False)
        return row if guarded is tools else {**row, "tools": guarded}

    def turns(self, turns: list[Message]) -> list[Message]:
        """Return turns with their strings guarded; the same object where nothing is quoted."""
        guarded = [self._turn(turn) for turn in turns]
        return turns if all(map(is_, guarded, turns)) else guarded

    def _turn(self, turn: Message) -> Message:
        is_answer = turn.get("role") == "assistant"
        content = turn.get("content")
        if len(turn) == 2 and isinstance(content, str):  # role and content: nearly all turns
            text = self.text(content, is_answer=is_answer)
            return turn if text is content else {**turn, "content": text}
        guarded = self._value(turn, is_answer=is_answer)
        return turn if guarded is turn else {**guarded, "role": turn["role"]}

    def _value(self, value: Value, *, is_answer: bool) -> Value:
        """Return a value with its strings and keys guarded; the same object where nothing is quoted."""
        guarded: Any = value
        if isinstance(value, str):
            guarded = self.text(value, is_answer=is_answer)
        elif isinstance(value, list):
            items = [self._value(item, is_answer=is_answer) for item in value]
            guarded = value if all(map(is_, items, value)) else items
        elif isinstance(value, dict):
            keys = [self.text(key, is_answer=is_answer) for key in value]
            items = [self._value(item, is_answer=is_answer) for item in value.values()]
            is_same = all(map(is_, keys, value)) and all(map(is_, items, value.values()))
            guarded = value if is_same else dict(zip(keys, items, strict=True))
        result: Value = guarded
        return result


def guard_of(
    tokenizer: Tokenizer, render: Callable[..., str], *, spoken: Collection[str], end_tokens: Collection[str]
) -> ContentGuard:
    """Return the guard for a tokenizer and its template.

    Args:
        tokenizer: The model's.
        render: Renders messages; with `prompt=True` a prompt, up to the opening of the answer.
        spoken: Tokens that an assistant turn may contain as such.
        end_tokens: Tokens that may end a turn.
    """
    tokens = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in tokens if token.special} | set(end_tokens)
    # not every token that begins a turn is special: DeepSeek's <｜User｜> is an ordinary added token.
    around = _around_turns(render)
    structure = {str(token) for token in tokens if str(token) in around and not _is_word(str(token))} - set(spoken)
    return ContentGuard(special | structure, spoken=spoken)


def _is_word(token: str) -> bool:
    """Tell whether a token is white space, a word or a number, which any text may contain."""
    return not token.strip() or token.strip().isalnum()


def _around_turns(render: Callable[..., str]) -> str:
    """Return the text of the template around turns of one space."""
    question = [{"role": "user", "content": " "}]
    try:
        return render([*question, {"role": "assistant", "content": " "}]) + render(question, prompt=True)
    except DataError:  # no template, or one that refuses so short a conversation
        return ""
