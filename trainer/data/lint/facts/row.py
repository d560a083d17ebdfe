"""What the linter has to know about one row: small, picklable, computed in the pool that reads the rows."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Literal, NamedTuple

from trainer.data.lint.facts.answers import (
    answer_flags,
    answer_traits,
    edge_sentences,
    is_missing_value,
    label_of,
    repeats_itself,
)
from trainer.data.lint.facts.arithmetic import has_wrong_sum
from trainer.data.lint.facts.code import code_of, is_broken
from trainer.data.lint.facts.dialogue import has_own_template, is_unclosed, reasons, switches_reasoning
from trainer.data.lint.facts.json_form import json_form
from trainer.data.lint.facts.language import Languages, is_sampled, language_of, languages_of
from trainer.data.lint.facts.text import text_flags
from trainer.data.lint.facts.tools import schemas_of, tool_flags
from trainer.data.records.kinds import Message, Record

Kind = Literal["turns", "pair", "labelled", "text", "tokens"]

SYSTEM_CHARS = 300
EDGE_CHARS, ENDING_CHARS = 24, 12
MIN_EDGE_CHARS = 60
"""Openings and endings of shorter answers say nothing: the answer itself is counted."""
PARSED_LINES = 20_000
"""Code and sums are checked in so many first lines of a file, then in a fixed sample."""
DIGITS, NO_WORD = re.compile(r"\d+"), re.compile(r"[\W_]+")


class RowFacts(NamedTuple):
    """Facts of one row; texts are excerpts, and no text of a row without personal data is added to."""

    kind: Kind
    flags: tuple[str, ...] = ()
    """Rules that the row breaks by itself."""
    traits: tuple[str, ...] = ()
    """refusal, clarification, prose, unfinished, open, stock, tools, thinking, switched, code, sum."""
    turns: int = 0
    """Turns without the system turn."""
    prompt_chars: int = 0
    """Characters of all that the last answer answers, without the system turn."""
    answer_chars: int = 0
    """Characters of the last answer; of a pair, the chosen one's."""
    rejected_chars: int = 0
    system: str = ""
    """Beginning of the system turn."""
    system_key: str = ""
    """Digest of the whole system turn; "" for none."""
    system_form: str = ""
    """Digest of the system turn without its numbers, case and punctuation."""
    label: str = ""
    json_form: str = ""
    schema: str | None = None
    """See `structure.JsonForm`."""
    prompt_opening: str = ""
    answer_opening: str = ""
    answer_ending: str = ""
    first_sentence: str = ""
    last_sentence: str = ""
    """Where they are short: what a stock phrase can be."""
    language: str = ""
    answer_language: str = ""
    guessed_language: str = ""
    """Of the prompt, where it is likely and not sure; counts where most prompts have it."""
    tools: tuple[str, ...] = ()
    """Name and digest of the form of each tool that is offered."""
    is_good: bool | None = None
    """The true/false label of a row that has one."""
    chosen_key: int = 0
    """Of a pair: digest of the prompt with the chosen answer; 0 for others."""
    rejected_key: int = 0
    shown: dict[str, str] | None = None
    """Field with a text -> how that text is shown, of a row that holds personal data."""


class Quotable(NamedTuple):
    """Texts of a row that findings may quote."""

    system: str = ""
    prompt: str = ""
    """What the last answer answers."""
    answer: str = ""


def row_facts(record: Record, masked: Record | None = None) -> RowFacts:
    """Return the facts of one canonical row, cleaned or not.

    Args:
        record: the row.
        masked: the same row with every value masked, where it holds personal data.
    """
    if "input_ids" in record:
        return RowFacts("tokens")
    if "text" in record:
        return _text_facts(record)
    facts = _pair_facts(record) if "chosen" in record else _answered(record, *_parts(record))
    return facts if masked is None else facts._replace(shown=_as_shown(facts, masked))


def _parts(record: Record) -> tuple[Kind, list[Message], list[Message]]:
    """Return the kind of a row with turns, the turns before its last answer, and that answer's turns."""
    if "chosen" in record:
        return "pair", record["prompt"], record["chosen"]
    if "completion" in record:
        return "labelled", record["prompt"], record["completion"]
    turns = record["messages"]
    last = next((index for index in range(len(turns) - 1, -1, -1) if turns[index]["role"] == "assistant"), len(turns))
    return "turns", turns[:last], turns[last:]


def _as_shown(facts: RowFacts, masked: Record) -> dict[str, str]:
    """Return how each text among the facts is shown: cut from the masked row, so that no half of a value is left."""
    _, prompt, answer = _parts(masked)
    row = _quotable(prompt, answer)
    first, last = edge_sentences(row.answer)
    shown = {
        "system": row.system[:SYSTEM_CHARS],
        "label": row.answer.strip(),
        "prompt_opening": _edge(row.prompt),
        "answer_opening": _edge(row.answer),
        "answer_ending": _ending(row.answer),
        "first_sentence": first or row.answer[: len(facts.first_sentence)],
        "last_sentence": last or row.answer[-len(facts.last_sentence) :],
    }
    return {name: text for name, text in shown.items() if getattr(facts, name)}


def _quotable(prompt: list[Message], answer: list[Message]) -> Quotable:
    first = next(iter([*prompt, *answer]), {"role": ""})
    return Quotable(
        first["content"] if first["role"] == "system" else "",
        prompt[-1]["content"] if prompt else "",
        "\n".join(turn["content"] for turn in answer if turn["role"] == "assistant"),
    )


def _text_facts(record: Record) -> RowFacts:
    text = record["text"]
    flags = [*text_flags([text]), *(["Q014"] if repeats_itself(text) else [])]
    flags += ["Q029"] if is_missing_value(text) else []
    language = language_of(text) if is_sampled(record["source"], record["line"]) else ""
    return RowFacts("text", tuple(flags), answer_chars=len(text), language=language)


def _pair_facts(record: Record) -> RowFacts:
    facts = _answered(record, *_parts(record))
    rejected = [turn["content"] for turn in record["rejected"]]
    missing = ["Q029"] if any(map(is_missing_value, rejected)) else []
    more = [flag for flag in [*text_flags(rejected), *missing] if flag not in facts.flags]
    return facts._replace(
        rejected_chars=sum(map(len, rejected)),
        flags=(*facts.flags, *more),
        chosen_key=_pair_key(record["prompt"], record["chosen"]),
        rejected_key=_pair_key(record["prompt"], record["rejected"]),
    )


def _pair_key(prompt: list[Message], answer: list[Message]) -> int:
    """Digest what is asked and answered, up to case and space."""
    turns = [(turn["role"], " ".join(turn["content"].casefold().split()), turn.get("tool_calls")) for turn in prompt]
    said = [(turn["role"], " ".join(turn["content"].casefold().split()), turn.get("tool_calls")) for turn in answer]
    return int(_digest(repr((turns, said))), 16)


def _answered(record: Record, kind: Kind, prompt: list[Message], answer: list[Message]) -> RowFacts:
    turns = [*prompt, *answer]
    said = "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")
    system, asked, text = _quotable(prompt, answer)
    form, lower = json_form(text, asked), text.lower()
    flags = text_flags([turn["content"] for turn in turns]) + answer_flags(asked, text, lower)
    if form.form == "broken":
        flags.append("Q027")
    traits = answer_traits(text, lower)
    for more_flags, more_traits in (_turn_facts(record, turns, said, asked), _parsed_facts(record, asked, text)):
        flags += more_flags
        traits += more_traits
    languages = languages_of(asked, text) if is_sampled(record["source"], record["line"]) else Languages()
    is_long = len(text) >= MIN_EDGE_CHARS
    first_sentence, last_sentence = edge_sentences(text) if is_long else ("", "")
    tools = record.get("tools")
    return RowFacts(
        kind=kind,
        flags=tuple(flags),
        traits=tuple(traits),
        turns=sum(turn["role"] != "system" for turn in turns),
        prompt_chars=len(said),
        answer_chars=len(text),
        system=_excerpt(system),
        system_key=_digest(system) if system else "",
        system_form=_form_of(system) if system else "",
        label="" if form.form else label_of(text),
        json_form=form.form,
        schema=None if form.schema is None else _same(form.schema),
        prompt_opening=_edge(asked) if len(asked) >= MIN_EDGE_CHARS else "",
        answer_opening=_edge(text) if is_long else "",
        answer_ending=_ending(text) if is_long else "",
        first_sentence=first_sentence,
        last_sentence=last_sentence,
        language=languages.prompt,
        answer_language=languages.answer,
        guessed_language=languages.guess,
        tools=tuple(map(_same, schemas_of(tools))) if tools else (),
        is_good=record.get("label") if isinstance(record.get("label"), bool) else None,
    )


def _turn_facts(record: Record, turns: list[Message], prompt: str, asked: str) -> tuple[list[str], list[str]]:
    """Return flags and traits of the turns together: calls, reasoning, a template inside the prompt."""
    flags, traits = [], []
    has_calls = is_open = is_thinking = False
    for turn in turns:
        if turn["role"] == "assistant":
            has_calls = has_calls or "tool_calls" in turn
            is_open = is_open or is_unclosed(turn["content"])
            is_thinking = is_thinking or reasons(turn)
    if is_open:
        flags.append("F026")
    if has_own_template(asked):
        flags.append("F025")
    if switches_reasoning(record, prompt):
        traits.append("switched")
    elif is_thinking:
        traits.append("thinking")
    if has_calls:
        flags += tool_flags(turns, record.get("tools") or [])
        traits.append("tools")
    return flags, traits


def _parsed_facts(record: Record, asked: str, text: str) -> tuple[list[str], list[str]]:
    """Check code and sums, which takes longest: of later lines a sample."""
    has_code, has_sums = "```" in text, "=" in text
    # An answer that is marked as a bad one may well be wrong.
    if not (has_code or has_sums) or record.get("label") is False:
        return [], []
    if record["line"] > PARSED_LINES and not is_sampled(record["source"], record["line"]):
        return [], []
    flags, traits = [], []
    if has_code and (blocks := code_of(text)):
        traits.append("code")
        flags += ["Q022"] if any(is_broken(*block) for block in blocks) else []
    if has_sums:
        traits.append("sum")
        flags += ["Q023"] if has_wrong_sum(asked, text) else []
    return flags, traits


def _edge(text: str) -> str:
    return text[:EDGE_CHARS].strip()


def _ending(text: str) -> str:
    return text.rstrip()[-ENDING_CHARS:]


@lru_cache(maxsize=256)
def _excerpt(text: str) -> str:
    """Return the beginning, the same object for the same text, so that a list of facts pickles it once."""
    return text[:SYSTEM_CHARS]


@lru_cache(maxsize=1024)
def _same(text: str) -> str:
    """Return one object for equal texts, which a list of facts then pickles once."""
    return text


@lru_cache(maxsize=256)
def _form_of(system: str) -> str:
    return _digest(NO_WORD.sub(" ", DIGITS.sub("0", system.casefold())).strip())


@lru_cache(maxsize=256)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
