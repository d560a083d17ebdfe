"""Write Ollama's Modelfile: template, system prompt, stop tokens and generation defaults beside a GGUF file.

Ollama does not run the chat template of the file: it wants a Go template. Most chat templates only put fixed text
around each turn; that text is read off the template by rendering it, and the Go template made of it has to render
other conversations to the same text. A chat template that does more is refused, not guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import GenerationConfig
from transformers.utils.chat_template_utils import render_jinja_template

from trainer.data.records.kinds import Message
from trainer.export.gguf.go_template import TemplateSyntaxError, render

Render = Callable[..., str]
"""Messages and, where there are any, tools, as the chat template writes them up to where the answer begins."""

MODELFILE = "Modelfile"
_SYSTEM, _FIRST, _ANSWER, _SECOND = "Xsystem", "Xfirst", "Xanswer", "Xsecond"
_PROBES: tuple[tuple[str, ...], ...] = (
    ("Hi", "Hello.", 'Name {"a": [1, 2]}'),
    ("List\n\n- one\n- two", "1. one\n2. two", "Why?", "Because it is <b>so</b>.", "Übersetze: 日本 🐎"),
    ("One", "Two", "Three", "Four", "Five", "Six", "Seven"),
)
"""Conversations that have to come out equal; each is asked with and without a system prompt, and cut at every turn."""


class UnknownTemplateError(ValueError):
    """The chat template cannot be written as a Go template."""


@dataclass(frozen=True)
class Turns:
    """The fixed text around turns of user and assistant."""

    opening: str
    """Before the first question where there is no system prompt."""
    before_system: str | None
    """None where the template takes no system prompt."""
    after_system: str
    to_answer: str
    """Between a question and the answer that is known."""
    to_question: str
    to_new_answer: str
    """Between the last question and the answer that is asked for."""


def rendered_by(template: str, special_tokens: dict[str, str], kwargs: dict[str, object], *, adds_bos: bool) -> Render:
    """Return a function that renders conversations as llama.cpp does from the template in a GGUF file.

    Args:
        template: Jinja text.
        special_tokens: `bos_token` and `eos_token`.
        kwargs: Further settings of the template.
        adds_bos: Whether llama.cpp puts the begin token before the text; then the template's own is taken away.
    """
    begin = special_tokens.get("bos_token") if adds_bos else None

    def chat(messages: Sequence[Message], tools: Sequence[Any] | None = None) -> str:
        texts, _ = render_jinja_template(
            conversations=[list(messages)],
            tools=list(tools) if tools else None,
            chat_template=template,
            add_generation_prompt=True,
            **{"bos_token": "", "eos_token": ""} | special_tokens | kwargs,
        )
        text = str(texts[0])
        return text.removeprefix(begin) if begin else text

    return chat


def go_template(chat: Render, template: str) -> str:
    """Return the Go template that renders as a chat template does.

    Raises:
        UnknownTemplateError: There is none; the message says why.
    """
    if "strftime_now" in template:
        raise UnknownTemplateError("the chat template writes today's date")
    turns = _read_off(chat)
    text = _written(turns)
    _compare(chat, text, with_system=turns.before_system is not None)
    return text


def _conversation(turns: Sequence[str], system: str | None = None) -> list[Message]:
    roles: tuple[Literal["user"], Literal["assistant"]] = ("user", "assistant")
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": roles[index % 2], "content": text} for index, text in enumerate(turns)]
    return messages


def _read_off(chat: Render) -> Turns:
    """Return the fixed text that stands between marked turns."""
    # one question tells what opens a conversation and what asks for an answer; three turns tell what lies between turns
    single = _between(chat(_conversation([_FIRST])), [_FIRST])
    multiple = _between(chat(_conversation([_FIRST, _ANSWER, _SECOND])), [_FIRST, _ANSWER, _SECOND])
    try:
        system = _between(chat(_conversation([_FIRST], _SYSTEM)), [_SYSTEM, _FIRST])
    except UnknownTemplateError:
        raise
    except Exception:  # whatever a template raises that takes no system prompt
        system = None
    return Turns(
        opening=single[0],
        before_system=system[0] if system else None,
        after_system=system[1] if system else "",
        to_answer=multiple[1],
        to_question=multiple[2],
        to_new_answer=single[1],
    )


def _between(text: str, marks: Sequence[str]) -> list[str]:
    """Return the text before, between and after marks that each stand there once, in this order.

    Example:
        >>> _between("<user>Xfirst<end><assistant>", ["Xfirst"])
        ['<user>', '<end><assistant>']
    """
    parts = []
    for mark in marks:
        before, match, text = text.partition(mark)
        if not match or mark in text:
            raise UnknownTemplateError("the chat template does not write every turn once and in order")
        parts.append(before)
    return [*parts, text]


def _written(turns: Turns) -> str:
    """Return the Go template; fixed text stands in string constants, so that Go trims none of its white space."""
    opening = _constant(turns.opening)
    if turns.before_system is not None:
        opening = (
            f"{{{{- if .System }}}}{_constant(turns.before_system)}{{{{ .System }}}}{_constant(turns.after_system)}\n"
            f"{{{{- else }}}}{opening}\n{{{{- end }}}}"
        )
    else:
        opening = "{{- " + opening.removeprefix("{{ ")
    return f"""
{opening}
{{{{- range $i, $_ := .Messages }}}}
{{{{- $last := eq (len (slice $.Messages $i)) 1 }}}}
{{{{- if eq .Role "user" }}}}{{{{ .Content }}}}
{{{{- if $last }}}}{_constant(turns.to_new_answer)}
{{{{- else }}}}{_constant(turns.to_answer)}
{{{{- end }}}}
{{{{- else if eq .Role "assistant" }}}}{{{{ .Content }}}}
{{{{- if not $last }}}}{_constant(turns.to_question)}
{{{{- end }}}}
{{{{- end }}}}
{{{{- end }}}}"""


def _constant(text: str) -> str:
    if "{{" in text or "}}" in text or '"""' in text:
        raise UnknownTemplateError("the chat template writes braces or quotes that a Modelfile cannot hold")
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


def ollama_text(template: str, messages: Sequence[Message], default_system: str | None = None) -> str:
    """Render a conversation as Ollama does.

    Args:
        template: Go template.
        messages: Turns with `role` and `content`; the system prompts are joined.
        default_system: `SYSTEM` of the Modelfile, for a conversation without a system prompt.

    Raises:
        TemplateSyntaxError: The template is wrong.
    """
    system = "\n\n".join(str(turn["content"]) for turn in messages if turn["role"] == "system") or default_system or ""
    turns = [{"Role": turn["role"], "Content": turn["content"]} for turn in messages]
    return render(template, {"System": system, "Messages": turns})


def _compare(chat: Render, template: str, *, with_system: bool) -> None:
    for probe in _PROBES:
        for system in (None, "Answer in JSON.\nBe brief.") if with_system else (None,):
            for length in range(1, len(probe) + 1, 2):
                messages = _conversation(probe[:length], system)
                try:
                    same = ollama_text(template, messages) == chat(messages)
                except TemplateSyntaxError as error:
                    raise UnknownTemplateError(f"the Go template is wrong: {error}") from error
                if not same:
                    raise UnknownTemplateError("the chat template does more than put fixed text around each turn")


# The file


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says."""

    source: str
    """File name of the weights."""
    template: str
    system: str | None = None
    parameters: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"FROM ./{self.source}", f"TEMPLATE {_quoted(self.template)}"]
        lines += [] if self.system is None else [f"SYSTEM {_quoted(self.system)}"]
        lines += [f"PARAMETER {name} {value}" for name, value in self.parameters]
        return "\n".join(lines) + "\n"


def parameters_of(settings: GenerationConfig, stop: Sequence[str]) -> list[tuple[str, str]]:
    """Return Ollama's parameters; its own defaults would sample, and punish repetition, where the model did not."""
    names = ("temperature", "top_p", "top_k", "min_p") if settings.do_sample else ()
    parameters = [(name, str(value)) for name in names if (value := getattr(settings, name, None)) is not None]
    if not settings.do_sample:
        parameters.append(("temperature", "0"))
    parameters.append(("repeat_penalty", str(settings.repetition_penalty or 1.0)))
    return parameters + [("stop", _quoted(text)) for text in stop]


def _quoted(text: str) -> str:
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    if '"""' in text:
        raise UnknownTemplateError('the system prompt holds """, which ends a text in a Modelfile')
    return f'"""{text}"""'


_LINE = re.compile(
    r'^(FROM|TEMPLATE|SYSTEM|PARAMETER \w+) (?:"""(.*?)"""|"([^"\n]*)"|([^\n]*))\n', re.DOTALL | re.MULTILINE
)


def read_modelfile(path: Path) -> Modelfile:
    """Read a Modelfile that was written here.

    Raises:
        ValueError: It says nothing about the weights or the template.
    """
    text = path.read_text(encoding="utf-8")
    entries = []
    for match in _LINE.finditer(text):
        entries.append((match.group(1), next(part for part in match.groups()[1:] if part is not None)))
    values = dict(entries)
    if "FROM" not in values or "TEMPLATE" not in values:
        raise ValueError(f"{path.name} names no weights or no template")
    parameters = [(name.split()[1], value) for name, value in entries if name.startswith("PARAMETER")]
    return Modelfile(values["FROM"].removeprefix("./"), values["TEMPLATE"], values.get("SYSTEM"), parameters)
