"""Run `trainer chat`: a conversation with the tuned model in the terminal, or one question a line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TextIO, cast

import torch
from transformers import PreTrainedModel

from trainer.data.records.kinds import Message, Record
from trainer.errors import DataError, HardwareError
from trainer.recipe import Recipe
from trainer.rundir import RunFolder
from trainer.scoring.generation import kv_cache
from trainer.scoring.generation.decoding import DecodingRow, Loop
from trainer.tokens.reasoning import split_tokens
from trainer.verbs.serve.questions import lacks_system, opening
from trainer.verbs.serve.tuned import Tuned, open_tuned

AT_LEAST = 512
"""Tokens of an answer, where `eval.max_new_tokens` is auto: a conversation may leave the task."""
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""Stands at the end of a text whose last character is not whole yet."""
HELP = "/reset forgets the conversation, /system TEXT sets the system prompt, /quit ends; Ctrl-C ends an answer"


def chat(recipe: Recipe, run: RunFolder, *, arguments: str, merged: bool = False, with_base: bool = False) -> None:
    """Answer what is typed, with the conversation before it, until /quit or the end of the input.

    Raises:
        StageError: There is no model.
        HardwareError: It cannot be loaded, or an answer does not fit into memory.
    """
    tuned = open_tuned(recipe, run, arguments, merged=merged, with_base=with_base, at_least=AT_LEAST)
    is_terminal = sys.stdin.isatty()
    talk = Talk(tuned, sys.stdout, with_base=with_base)
    if tuned.system.sentence:
        sys.stderr.write(f"chat: {tuned.system.sentence}\n")
    if is_terminal:
        talk.say(f"{recipe.name}: {HELP}")
    for line in _lines(is_terminal):
        if not talk.take(line):
            break


def _lines(is_terminal: bool) -> Iterator[str]:
    """Yield what is typed; Ctrl-C while typing only empties the line."""
    if not is_terminal:
        yield from sys.stdin
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            sys.stdout.write("\n(/quit ends)\n")


@dataclass
class Talk:
    """A conversation."""

    tuned: Tuned
    out: TextIO
    with_base: bool = False
    turns: list[Message] = field(default_factory=list)
    system: str | None = None
    """Typed by the user, in place of the one of training."""

    def take(self, line: str) -> bool:
        """Obey a command or answer a question; False ends the conversation."""
        text = line.strip()
        word, _, argument = text.partition(" ")
        match word:
            case "":
                pass
            case "/quit" | "/exit":
                return False
            case "/reset":
                self.turns = []
            case "/system":
                self._set_system(argument.strip())
            case "/help":
                self.say(HELP)
            case _ if text.startswith("/") and word[1:].isalpha():
                self.say(f"no such command: {word}; {HELP}")
            case _:
                self._answer(text)
        return True

    def say(self, text: str) -> None:
        self.out.write(f"{text}\n")
        self.out.flush()

    def _set_system(self, text: str) -> None:
        if text:
            self.system, self.turns = text, []
        served = self.system if self.system is not None else self.tuned.system.text
        self.say(f"system: {served}" if served is not None else "no system prompt")

    def _answer(self, text: str) -> None:
        """Answer a question, and remember both."""
        earlier_turns = list(self.turns)
        self.turns.append({"role": "user", "content": text})
        try:
            prompt = self._prompt()
            answer = self._remembered(prompt, self._said_by(self.tuned.model, prompt))
            if self.with_base:
                self.out.write("base: ")
                with self.tuned.untuned() as model:
                    self._said_by(model, prompt)
        except DataError as error:
            self.turns = earlier_turns
            self.say(f"{error.message}\n{error.hint}")
            return
        except torch.OutOfMemoryError as error:
            raise HardwareError("out of memory in chat", hint="a shorter conversation: /reset") from error
        self.turns.append(cast("Message", {"role": "assistant", **answer}))

    def _remembered(self, prompt: list[int], stream: Stream) -> dict[str, str]:
        """Return an answer as the next prompt holds it: the template decides what of its reasoning stays."""
        form = self.tuned.renderer.form
        if form.key is None:  # the template keeps the text as it is
            return {"content": stream.text}
        tokenizer = self.tuned.renderer.tokenizer
        parts = split_tokens(form, tokenizer, prompt, stream.tokens) if stream.tokens else form.split(stream.text)
        return {"content": parts.content, form.key: parts.reasoning} if parts else {"content": stream.text}

    def _row(self) -> Record:
        """Return the conversation behind its system prompt.

        Raises:
            DataError: Training always had a system prompt, and nobody can tell which is meant.
        """
        if self.system is not None:
            return {"prompt": [{"role": "system", "content": self.system}, *self.turns]}
        row = opening(self.tuned.recipe.data, self.tuned.system)({"prompt": list(self.turns)})
        if lacks_system(row, self.tuned.system):
            raise DataError(self.tuned.system.sentence, hint="/system TEXT sets it")
        return row

    def _prompt(self) -> list[int]:
        """Return the token ids of the conversation; the oldest turns go where it is too long.

        Raises:
            DataError: The last question alone is too long, the template refuses the conversation, or a system prompt
                is needed.
        """
        prompt = self.tuned.prompt_ids(self._row())
        while not self.tuned.leaves_room(prompt):
            if len(self.turns) < 3:
                raise DataError(
                    f"{len(prompt)} tokens leave no room for an answer of {self.tuned.max_new_tokens}",
                    hint="a shorter question, or --set eval.max_new_tokens=N",
                )
            self.turns = self.turns[2:]
            prompt = self.tuned.prompt_ids(self._row())
            self.say("(the oldest question no longer fits and is forgotten)")
        return prompt

    def _said_by(self, model: PreTrainedModel, prompt: list[int]) -> Stream:
        """Write an answer as it comes; Ctrl-C ends it, what was said stays."""
        stream = Stream(self.tuned, self.out.write, self.out.flush)
        try:
            stream.answer(model, prompt)
            self.say("")
        except KeyboardInterrupt:
            self.say(" (ended)")
        return stream


class Stream:
    """One answer, written piece by piece."""

    def __init__(self, tuned: Tuned, write: Callable[[str], object], flush: Callable[[], None]) -> None:
        self.tuned = tuned
        self.write = write
        self.flush = flush
        self.text = ""
        """What has been written."""
        self.tokens: list[int] = []
        """What has been generated; empty where the model says all at once."""

    def answer(self, model: PreTrainedModel, prompt: list[int]) -> str:
        """Decode as eval does; models whose cache cannot be cut say all at once."""
        local = self.tuned.local(model)
        row = local.decoding.row(0, prompt)
        self.tokens = row.tokens
        if kv_cache.max_shared_width(local.decoder) is None:
            self._write_to(local.answers([prompt])[0].text)
            return self.text
        loop = Loop(
            local.decoder,
            local.decoding,
            prefix=[],
            pad_id=local.pad_id,
            on_token=lambda: self._show(row, is_complete=False),
        )
        loop.run([row], 1, lambda _: None)
        self._show(row, is_complete=True)
        return self.text

    def _show(self, row: DecodingRow, *, is_complete: bool) -> None:
        text = str(self.tuned.renderer.tokenizer.decode(row.tokens, skip_special_tokens=True))
        self._write_to(text if is_complete else text.rstrip(UNFINISHED))

    def _write_to(self, text: str) -> None:
        if text.startswith(self.text):
            self.write(text[len(self.text) :])
            self.text = text
            self.flush()
