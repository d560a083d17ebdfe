"""Count a stream of rows: totals, a few numbers of each row, and the first rows of each kind. No texts of rows."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heappush, heappushpop
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np

from trainer.data.lint.facts.row import DIGITS, RowFacts
from trainer.data.lint.frequent import Frequent
from trainer.data.records.reasons import quoted

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
Edge = Literal["begin", "end"]
EDGES: tuple[Edge, Edge] = ("begin", "end")
MAX_SYSTEMS = 1_000
MAX_WORST = 10
MAX_MASKED = 100_000


class Mismatch(NamedTuple):
    """Languages of a prompt and its answer that differ, ISO 639-1."""

    prompt: str
    answer: str
    is_sure: bool
    """The prompt's language is certain, else likely."""


def edge_sum(text: str) -> int:
    """Return a checksum of the beginning or end of an answer, equal for different digits; 0 for no text."""
    return crc32(DIGITS.sub("0", text).encode("utf-8", "surrogatepass"))


class RowTally:
    """Counts the facts of rows, added in their order. A million rows take about 30 MB."""

    def __init__(self, max_rows_listed: int) -> None:
        self.max_rows_listed = max_rows_listed
        self.kinds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """Rows of each trait, and of each rule that a row breaks on its own."""
        self.first: defaultdict[str, list[str]] = defaultdict(list)
        """`source:line` of the first rows by name: rule, trait, `label X`, `schema X` ..."""
        self.turns: Counter[int] = Counter()
        self.languages: Counter[str] = Counter()
        self.prompt_languages: Counter[str] = Counter()
        self.mismatches: Counter[Mismatch] = Counter()
        self.num_language_pairs = 0
        """Rows with a language of prompt and answer."""
        self.systems: Counter[str] = Counter()
        self.system_texts: dict[str, str] = {}
        self.system_forms = Frequent(MAX_SYSTEMS)
        self.num_systems = 0
        """Rows with a system prompt, those beyond `MAX_SYSTEMS` too."""
        self.labels, self.prompt_openings = Frequent(), Frequent()
        self.answer_openings, self.answer_endings = Frequent(), Frequent()
        self.first_sentences, self.last_sentences = Frequent(), Frequent()
        self.json_forms: Counter[str] = Counter()
        self.schemas, self.tools = Frequent(), Frequent()
        self.masked_texts: dict[str, str] = {}
        """Text with personal data, or a part of it -> that text masked."""
        self.worst: list[tuple[int, int, str, tuple[str, ...]]] = []
        """Heap of the rows that break the most rules: (rules, -number of the row, `source:line`, rules by name)."""
        self.num_longer: Counter[str] = Counter()
        self.num_good: Counter[bool] = Counter()
        self.source_ids: dict[str, int] = {}
        self.row_sources, self.row_lines = array("I"), array("I")
        self.chosen, self.rejected = array("Q"), array("Q")
        """Of each pair: digests of the prompt with either answer."""
        self.pair_rows = array("I")
        self.prompt_lengths, self.answer_lengths, self.is_open = array("I"), array("I"), array("B")
        self.openings, self.endings = array("I"), array("I")
        """Checksums of the two ends of each answer, see `edge_sum`; 0 for a short answer."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.answer_lengths)

    def add(self, ref: str, facts: RowFacts) -> None:
        """Count one row; `ref` is its `source:line`."""
        facts = self._remember_masked(facts)
        source, _, line = ref.rpartition(":")
        self.row_sources.append(self.source_ids.setdefault(source, len(self.source_ids)))
        self.row_lines.append(int(line))
        self.prompt_lengths.append(facts.prompt_chars)
        self.answer_lengths.append(facts.answer_chars)
        self.is_open.append("open" in facts.traits)
        self.openings.append(edge_sum(facts.answer_opening))
        self.endings.append(edge_sum(facts.answer_ending))
        self.kinds[facts.kind] += 1
        self.turns[facts.turns] += 1
        for name in {*facts.flags, *facts.traits}:
            self.counts[name] += 1
            self._list(name, ref)
        if len(facts.flags) > 1:
            self._add_worst(ref, tuple(sorted(set(facts.flags))))
        self._add_texts(ref, facts)
        self._add_languages(ref, facts)
        if facts.kind != "text":
            self._add_form(ref, facts)
            self._add_pair(facts)

    def quoted(self, text: str) -> str:
        """Return a counted text in quotes, masked."""
        return quoted(self.masked_texts.get(text, text))

    def _add_worst(self, ref: str, rules: tuple[str, ...]) -> None:
        push = heappush if len(self.worst) < MAX_WORST else heappushpop
        push(self.worst, (len(rules), -len(self), ref, rules))

    def _remember_masked(self, facts: RowFacts) -> RowFacts:
        """Note the masked form of texts. Once the table is full, return the facts with masked texts."""
        texts = facts.masked_texts or {}
        if texts and len(self.masked_texts) >= MAX_MASKED:
            return RowFacts(**{**facts._asdict(), **texts})
        for name, masked in texts.items():
            self.masked_texts[getattr(facts, name)] = masked
        return facts

    def _add_texts(self, ref: str, facts: RowFacts) -> None:
        for table, text in (
            (self.labels, facts.label),
            (self.prompt_openings, facts.prompt_opening),
            (self.answer_openings, facts.answer_opening),
            (self.answer_endings, facts.answer_ending),
            (self.first_sentences, facts.first_sentence),
            (self.last_sentences, facts.last_sentence),
        ):
            if text:
                table.add(text)
        if facts.label and self.labels.counts[facts.label] <= self.max_rows_listed:
            self._remember(f"label {facts.label}", ref)
        if facts.system_key:
            self.num_systems += 1
            self.system_forms.add(facts.system_form)
        if not facts.system_key or facts.system_key in self.systems or len(self.systems) < MAX_SYSTEMS:
            self.systems[facts.system_key] += 1
            self.system_texts.setdefault(facts.system_key, facts.system)

    def _add_languages(self, ref: str, facts: RowFacts) -> None:
        row_language = facts.answer_language or facts.language
        if row_language:
            self.languages[row_language] += 1
            self._remember(f"language {row_language}", ref)
        prompt_language = facts.language or facts.guessed_language
        if prompt_language and facts.answer_language:
            self.num_language_pairs += 1
            self.prompt_languages[prompt_language] += 1
            if prompt_language != facts.answer_language:
                self.mismatches[Mismatch(prompt_language, facts.answer_language, bool(facts.language))] += 1
                self._remember(f"mismatch {prompt_language} {bool(facts.language)}", ref)

    def _add_form(self, ref: str, facts: RowFacts) -> None:
        self.json_forms[facts.json_form] += 1
        if self.json_forms[facts.json_form] <= self.max_rows_listed:
            self._remember(f"json {facts.json_form}", ref)
        if facts.schema is not None:
            self.schemas.add(facts.schema)
            self._remember(f"schema {facts.schema}", ref)
        for tool in facts.tools:
            self.tools.add(tool)
            self._remember(f"tool {tool}", ref)
        if facts.system_key or facts.kind != "tokens":
            self._remember(f"system {facts.system_key}", ref)

    def _add_pair(self, facts: RowFacts) -> None:
        if facts.kind == "pair":
            longer = facts.answer_chars - facts.rejected_chars
            self.chosen.append(facts.chosen_key)
            self.rejected.append(facts.rejected_key)
            self.pair_rows.append(len(self) - 1)
            self.num_longer["chosen" if longer > 0 else "rejected" if longer < 0 else "equal"] += 1
        if facts.is_good is not None:
            self.num_good[facts.is_good] += 1

    def _remember(self, name: str, ref: str) -> None:
        """List the first rows of a name that may turn out to be rare, for a bounded number of names."""
        if name in self.first or len(self.first) < 5 * MAX_SYSTEMS:
            self._list(name, ref)

    def _list(self, name: str, ref: str) -> None:
        refs = self.first[name]
        if len(refs) < self.max_rows_listed:
            refs.append(ref)

    def refs(self, indices: Iterable[int]) -> tuple[str, ...]:
        """Return `source:line` of rows by their number."""
        names = list(self.source_ids)
        return tuple(f"{names[self.row_sources[index]]}:{self.row_lines[index]}" for index in indices)

    def first_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return `source:line` of the first rows under any of the names."""
        refs = [ref for name in names for ref in self.first.get(name, ())]
        return tuple(dict.fromkeys(refs))[: self.max_rows_listed]

    def num_conversations(self) -> int:
        """Return the number of rows with turns."""
        return len(self) - self.kinds["text"] - self.kinds["tokens"]

    def edges(self, edge: Edge) -> Ints:
        """Return the checksum of the beginning or end of each answer, shape (rows,)."""
        return _int64(self.openings if edge == "begin" else self.endings)

    def lengths(self, side: Literal["prompt", "answer"]) -> Ints:
        """Return the characters of each row's prompt or answer, shape (rows,)."""
        return _int64(self.prompt_lengths if side == "prompt" else self.answer_lengths)


def _int64(values: array[int]) -> Ints:
    return np.frombuffer(values, dtype=np.uint32).astype(np.int64) if len(values) else np.zeros(0, np.int64)
