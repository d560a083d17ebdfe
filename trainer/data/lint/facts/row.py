"""Compute the facts of one row for the linter: small and picklable."""

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
"""Openings and endings of shorter answers do not count: `label` counts the answer itself."""
PARSED_LINES = 20_000
"""Code and sums are checked in the first lines of a file, then in a fixed sample."""
DIGITS, NO_WORD = re.compile(r"\d+"), re.compile(r"[\W_]+")


class RowFacts(NamedTuple):
    """Facts of one row. Texts are excerpts."""

    kind: Kind
    flags: tuple[str, ...] = ()
    """Rules that the row breaks on its own."""
    traits: tuple[str, ...] = ()
    """refusal, clarification, prose, unfinished, open, stock, tools, thinking, switched, code, sum."""
    turns: int = 0
    """Turns without the system turn."""
    prompt_chars: int = 0
    """Characters of the turns before the last answer, without the system turn."""
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
    """See `json_form.JsonForm`."""
    prompt_opening: str = ""
    answer_opening: str = ""
    answer_ending: str = ""
    first_sentence: str = ""
    last_sentence: str = ""
    """Short ones only, as stock phrases are."""
    language: str = ""
    answer_language: str = ""
    guessed_language: str = ""
    """Likely language of the prompt. It counts if most prompts are in that language."""
    tools: tuple[str, ...] = ()
    """Name of each tool and digest of its parameters."""
    is_good: bool | None = None
    """Label of a row with one."""
    chosen_key: int = 0
    """Of a pair: digest of the prompt with the chosen answer; 0 for others."""
    rejected_key: int = 0
    masked_texts: dict[str, str] | None = None
    """Name of a field -> its text masked, for a row with personal data."""


class Conversation(NamedTuple):
    """A row with turns, cut before its last answer."""

    kind: Kind
    prompt: list[Message]
    answer: list[Message]

    @property
    def system(self) -> str:
        """Text of the system turn; "" for none."""
        first = next(iter([*self.prompt, *self.answer]), None)
        return first["content"] if first and first["role"] == "system" else ""

    @property
    def question(self) -> str:
        """Text of the turn before the answer."""
        return self.prompt[-1]["content"] if self.prompt else ""

    @property
    def text(self) -> str:
        """Text of the answer."""
        return "\n".join(turn["content"] for turn in self.answer if turn["role"] == "assistant")


def row_facts(record: Record, masked: Record | None = None) -> RowFacts:
    """Return the facts of one canonical row, cleaned or not.

    Args:
        record: the row.
        masked: the same row with every value masked, if it holds personal data.
    """
    if "input_ids" in record:
        return RowFacts("tokens")
    if "text" in record:
        return _text_facts(record)
    facts = _conversation_facts(record)
    if "chosen" in record:
        facts = _with_rejected(facts, record)
    return facts if masked is None else facts._replace(masked_texts=_masked_texts(facts, masked))


def conversation_of(record: Record) -> Conversation:
    """Cut a row with turns before its last answer."""
    if "chosen" in record:
        return Conversation("pair", record["prompt"], record["chosen"])
    if "completion" in record:
        return Conversation("labelled", record["prompt"], record["completion"])
    turns = record["messages"]
    last = next((index for index in range(len(turns) - 1, -1, -1) if turns[index]["role"] == "assistant"), len(turns))
    return Conversation("turns", turns[:last], turns[last:])


def _masked_texts(facts: RowFacts, masked: Record) -> dict[str, str]:
    """Return the masked form of each text in the facts, cut from the masked row: no half of a value is left."""
    row = conversation_of(masked)
    answer = row.text
    first, last = edge_sentences(answer)
    texts = {
        "system": row.system[:SYSTEM_CHARS],
        "label": answer.strip(),
        "prompt_opening": _opening(row.question),
        "answer_opening": _opening(answer),
        "answer_ending": _ending(answer),
        "first_sentence": first or answer[: len(facts.first_sentence)],
        "last_sentence": last or answer[-len(facts.last_sentence) :],
    }
    return {name: text for name, text in texts.items() if getattr(facts, name)}


def _text_facts(record: Record) -> RowFacts:
    text = record["text"]
    flags = [*text_flags([text]), *(["Q014"] if repeats_itself(text) else [])]
    flags += ["Q029"] if is_missing_value(text) else []
    language = language_of(text) if is_sampled(record["source"], record["line"]) else ""
    return RowFacts("text", tuple(flags), answer_chars=len(text), language=language)


def _with_rejected(facts: RowFacts, record: Record) -> RowFacts:
    """Add the facts of the rejected answer of a pair."""
    texts = [turn["content"] for turn in record["rejected"]]
    flags = [*text_flags(texts), *(["Q029"] if any(map(is_missing_value, texts)) else [])]
    return facts._replace(
        rejected_chars=sum(map(len, texts)),
        flags=(*facts.flags, *(flag for flag in flags if flag not in facts.flags)),
        chosen_key=_pair_key(record["prompt"], record["chosen"]),
        rejected_key=_pair_key(record["prompt"], record["rejected"]),
    )


def _pair_key(*sides: list[Message]) -> int:
    """Return a digest of prompt and answer, up to case and space."""
    forms = [
        [(turn["role"], " ".join(turn["content"].casefold().split()), turn.get("tool_calls")) for turn in turns]
        for turns in sides
    ]
    return int(_digest(repr(forms)), 16)


def _conversation_facts(record: Record) -> RowFacts:
    row = conversation_of(record)
    turns = [*row.prompt, *row.answer]
    prompt = "\n".join(turn["content"] for turn in row.prompt if turn["role"] != "system")
    system, question, answer = row.system, row.question, row.text
    form, lower = json_form(answer, question), answer.lower()
    flags = text_flags([turn["content"] for turn in turns]) + answer_flags(question, answer, lower)
    flags += ["Q027"] if form.form == "broken" else []
    checked = _checked_facts(record, question, answer)
    flags += [*_turn_flags(record, turns, question), *checked.flags]
    traits = [*answer_traits(answer, lower), *_turn_traits(record, turns, prompt), *checked.traits]
    languages = languages_of(question, answer) if is_sampled(record["source"], record["line"]) else Languages()
    is_long = len(answer) >= MIN_EDGE_CHARS
    first_sentence, last_sentence = edge_sentences(answer) if is_long else ("", "")
    label = record.get("label")
    return RowFacts(
        kind=row.kind,
        flags=tuple(flags),
        traits=tuple(traits),
        turns=sum(turn["role"] != "system" for turn in turns),
        prompt_chars=len(prompt),
        answer_chars=len(answer),
        system=_shared(system[:SYSTEM_CHARS]),
        system_key=_digest(system) if system else "",
        system_form=_form_of(system) if system else "",
        label="" if form.form else label_of(answer),
        json_form=form.form,
        schema=None if form.schema is None else _shared(form.schema),
        prompt_opening=_opening(question) if len(question) >= MIN_EDGE_CHARS else "",
        answer_opening=_opening(answer) if is_long else "",
        answer_ending=_ending(answer) if is_long else "",
        first_sentence=first_sentence,
        last_sentence=last_sentence,
        language=languages.prompt,
        answer_language=languages.answer,
        guessed_language=languages.guess,
        tools=tuple(map(_shared, schemas_of(record.get("tools") or []))),
        is_good=label if isinstance(label, bool) else None,
    )


def _turn_flags(record: Record, turns: list[Message], question: str) -> list[str]:
    """Return the rules that reasoning, the last prompt and tool calls break."""
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    flags = ["F026"] if any(is_unclosed(turn["content"]) for turn in answers) else []
    flags += ["F025"] if has_own_template(question) else []
    if any("tool_calls" in turn for turn in answers):
        flags += tool_flags(turns, record.get("tools") or [])
    return flags


def _turn_traits(record: Record, turns: list[Message], prompt: str) -> list[str]:
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    traits = []
    if switches_reasoning(record, prompt):
        traits.append("switched")
    elif any(map(reasons, answers)):
        traits.append("thinking")
    return [*traits, "tools"] if any("tool_calls" in turn for turn in answers) else traits


class _Checked(NamedTuple):
    flags: list[str]
    traits: list[str]


def _checked_facts(record: Record, question: str, answer: str) -> _Checked:
    """Check code and sums. That is slow: beyond `PARSED_LINES`, only rows of the sample are checked."""
    flags: list[str] = []
    traits: list[str] = []
    has_code, has_sums = "```" in answer, "=" in answer
    # An answer with the label false may well be wrong.
    if not (has_code or has_sums) or record.get("label") is False:
        return _Checked(flags, traits)
    if record["line"] > PARSED_LINES and not is_sampled(record["source"], record["line"]):
        return _Checked(flags, traits)
    if has_code and (blocks := code_of(answer)):
        traits.append("code")
        flags += ["Q022"] if any(is_broken(*block) for block in blocks) else []
    if has_sums:
        traits.append("sum")
        flags += ["Q023"] if has_wrong_sum(question, answer) else []
    return _Checked(flags, traits)


def _opening(text: str) -> str:
    return text[:EDGE_CHARS].strip()


def _ending(text: str) -> str:
    return text.rstrip()[-ENDING_CHARS:]


@lru_cache(maxsize=1024)
def _shared(text: str) -> str:
    """Return one object for equal texts. A list of facts pickles that object once."""
    return text


@lru_cache(maxsize=256)
def _form_of(system: str) -> str:
    return _digest(NO_WORD.sub(" ", DIGITS.sub("0", system.casefold())).strip())


@lru_cache(maxsize=256)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
