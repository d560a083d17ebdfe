"""What the linter has to know about one row: small, picklable, computed in the pool that reads the rows."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from trainer.data.lint.answers import answer_flags, answer_traits, json_keys, label_of
from trainer.data.lint.language import is_sampled, language_of
from trainer.data.lint.text import text_flags
from trainer.data.lint.tools import tool_flags

Kind = Literal["turns", "pair", "labelled", "text", "tokens"]

SYSTEM_CHARS = 300
EDGE_CHARS, ENDING_CHARS = 24, 12
MIN_EDGE_CHARS = 60
"""Openings and endings of shorter answers say nothing: the answer itself is counted."""


class RowFacts(NamedTuple):
    """Facts of one row; texts are excerpts, and no text of a row without personal data is added to."""

    kind: Kind
    flags: tuple[str, ...] = ()
    """Rules that the row breaks by itself."""
    traits: tuple[str, ...] = ()
    """refusal, clarification, prose, unfinished, open, tools."""
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
    label: str = ""
    keys: str | None = None
    prompt_opening: str = ""
    answer_opening: str = ""
    answer_ending: str = ""
    language: str = ""
    answer_language: str = ""
    is_good: bool | None = None
    """The true/false label of a row that has one."""
    chosen_key: int = 0
    """Of a pair: digest of the prompt with the chosen answer; 0 for others."""
    rejected_key: int = 0


def row_facts(record: dict[str, Any]) -> RowFacts:
    """Return the facts of one canonical row, cleaned or not."""
    if "input_ids" in record:
        return RowFacts("tokens")
    if "text" in record:
        return _text_facts(record)
    if "chosen" in record:
        return _pair_facts(record)
    if "completion" in record:
        return _answered(record, "labelled", record["prompt"], record["completion"])
    turns = record["messages"]
    last = next((index for index in range(len(turns) - 1, -1, -1) if turns[index]["role"] == "assistant"), len(turns))
    return _answered(record, "turns", turns[:last], turns[last:])


def _text_facts(record: dict[str, Any]) -> RowFacts:
    text = record["text"]
    flags = [*text_flags([text]), *(["Q014"] if "Q014" in answer_flags("", text) else [])]
    language = language_of(text) if is_sampled(record["source"], record["line"]) else ""
    return RowFacts("text", tuple(flags), answer_chars=len(text), language=language)


def _pair_facts(record: dict[str, Any]) -> RowFacts:
    facts = _answered(record, "pair", record["prompt"], record["chosen"])
    rejected = [turn["content"] for turn in record["rejected"]]
    more = [flag for flag in text_flags(rejected) if flag not in facts.flags]
    return facts._replace(
        rejected_chars=sum(map(len, rejected)),
        flags=(*facts.flags, *more),
        chosen_key=_pair_key(record["prompt"], record["chosen"]),
        rejected_key=_pair_key(record["prompt"], record["rejected"]),
    )


def _pair_key(prompt: list[Any], answer: list[Any]) -> int:
    """Digest what is asked and answered, up to case and space."""
    turns = [(turn["role"], " ".join(turn["content"].casefold().split()), turn.get("tool_calls")) for turn in prompt]
    said = [(turn["role"], " ".join(turn["content"].casefold().split()), turn.get("tool_calls")) for turn in answer]
    return int(_digest(repr((turns, said))), 16)


def _answered(record: dict[str, Any], kind: Kind, prompt: list[Any], answer: list[Any]) -> RowFacts:
    turns = [*prompt, *answer]
    said = "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")
    asked = prompt[-1]["content"] if prompt else ""
    text = "\n".join(turn["content"] for turn in answer if turn["role"] == "assistant")
    flags = text_flags([turn["content"] for turn in turns]) + answer_flags(asked, text)
    has_calls = any("tool_calls" in turn for turn in turns)
    if has_calls:
        flags += tool_flags(turns, record.get("tools") or [])
    system = turns[0]["content"] if turns and turns[0]["role"] == "system" else ""
    language, answer_language = _languages(record, asked, text)
    is_long = len(text) >= MIN_EDGE_CHARS
    return RowFacts(
        kind=kind,
        flags=tuple(flags),
        traits=(*answer_traits(text), *(("tools",) if has_calls else ())),
        turns=sum(turn["role"] != "system" for turn in turns),
        prompt_chars=len(said),
        answer_chars=len(text),
        system=_excerpt(system),
        system_key=_digest(system) if system else "",
        label=label_of(text),
        keys=json_keys(text),
        prompt_opening=_edge(asked) if len(asked) >= MIN_EDGE_CHARS else "",
        answer_opening=_edge(text) if is_long else "",
        answer_ending=text.rstrip()[-ENDING_CHARS:] if is_long else "",
        language=language,
        answer_language=answer_language,
        is_good=record.get("label") if isinstance(record.get("label"), bool) else None,
    )


def _languages(record: dict[str, Any], prompt: str, answer: str) -> tuple[str, str]:
    if not is_sampled(record["source"], record["line"]):
        return "", ""
    return language_of(prompt), language_of(answer)


def _edge(text: str) -> str:
    return text[:EDGE_CHARS].strip()


@lru_cache(maxsize=256)
def _excerpt(text: str) -> str:
    """Return the beginning, the same object for the same text, so that a list of facts pickles it once."""
    return text[:SYSTEM_CHARS]


@lru_cache(maxsize=256)
def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
