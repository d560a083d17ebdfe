"""What is remembered of a stream of rows: counts, four numbers a row, the first rows of each kind. No texts of rows."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Any
from zlib import crc32

import numpy as np

from trainer.data.lint.facts.row import DIGITS, RowFacts
from trainer.data.lint.frequent import Frequent
from trainer.data.records.reasons import quoted

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
MAX_SYSTEMS = 1_000
MAX_WORST = 10
MAX_SHOWN = 100_000


def edge_sum(text: str) -> int:
    """Return a checksum of the beginning or end of an answer, the same whatever the digits in it; 0 for none."""
    return crc32(DIGITS.sub("0", text).encode("utf-8", "surrogatepass"))


class RowTally:
    """Facts of all rows, added in their order; a million rows take about 30 MB."""

    def __init__(self, max_rows_listed: int) -> None:
        self.max_rows_listed = max_rows_listed
        self.kinds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        """Rows of each rule that a row breaks by itself, and of each trait."""
        self.first: defaultdict[str, list[str]] = defaultdict(list)
        """`source:line` of the first rows of each kind of thing."""
        self.turns: Counter[int] = Counter()
        self.languages: Counter[str] = Counter()
        self.prompt_languages: Counter[str] = Counter()
        self.mismatched: Counter[tuple[str, str, bool]] = Counter()
        """Language of the prompt, of the answer, and whether the first is sure -> rows."""
        self.num_language_pairs = 0
        self.systems: Counter[str] = Counter()
        self.system_texts: dict[str, str] = {}
        self.system_forms = Frequent(MAX_SYSTEMS)
        self.num_systems = 0
        """Rows with a system prompt, those beyond the table too."""
        self.labels, self.prompt_openings = Frequent(), Frequent()
        self.answer_openings, self.answer_endings = Frequent(), Frequent()
        self.first_sentences, self.last_sentences = Frequent(), Frequent()
        self.json_forms: Counter[str] = Counter()
        self.schemas, self.tools = Frequent(), Frequent()
        self.shown: dict[str, str] = {}
        """Text of a row -> how it is shown, where it holds or may cut through personal data."""
        self.worst: list[tuple[int, int, str, tuple[str, ...]]] = []
        """Heap of the rows that break the most rules: (rules, -number of the row, place, rules by name)."""
        self.num_longer: Counter[str] = Counter()
        self.num_good: Counter[bool] = Counter()
        self.sources: dict[str, int] = {}
        self.places = array("I"), array("I")
        self.chosen, self.rejected = array("Q"), array("Q")
        """Of each pair: digests of the prompt with either answer."""
        self.pair_rows = array("I")
        self.prompt_lengths, self.answer_lengths, self.is_open = array("I"), array("I"), array("B")
        self.openings, self.endings = array("I"), array("I")
        """Checksums of how each answer begins and ends, see `edge_sum`; a short answer's is 0."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.answer_lengths)

    def add(self, ref: str, facts: RowFacts) -> None:
        """Count one row; `ref` is its `source:line`."""
        facts = self._remember_shown(facts)
        source, _, line = ref.rpartition(":")
        self.places[0].append(self.sources.setdefault(source, len(self.sources)))
        self.places[1].append(int(line))
        self.prompt_lengths.append(facts.prompt_chars)
        self.answer_lengths.append(facts.answer_chars)
        self.is_open.append("open" in facts.traits)
        self.openings.append(edge_sum(facts.answer_opening))
        self.endings.append(edge_sum(facts.answer_ending))
        self.kinds[facts.kind] += 1
        self.turns[facts.turns] += 1
        for name in {*facts.flags, *facts.traits}:
            self.note(name, ref)
        if len(facts.flags) > 1:
            self._add_worst(ref, tuple(sorted(set(facts.flags))))
        self._add_texts(ref, facts)
        self._add_languages(ref, facts)
        if facts.kind != "text":
            self._add_form(ref, facts)

    def note(self, name: str, ref: str) -> None:
        """Count a row under a name, and remember the first ones."""
        self.counts[name] += 1
        if len(self.first[name]) < self.max_rows_listed:
            self.first[name].append(ref)

    def _add_worst(self, ref: str, rules: tuple[str, ...]) -> None:
        heappush(self.worst, (len(rules), -len(self), ref, rules))
        if len(self.worst) > MAX_WORST:
            heappop(self.worst)

    def _remember_shown(self, facts: RowFacts) -> RowFacts:
        """Note how texts with personal data are shown; once the table is full they are counted as they are shown."""
        if facts.shown and len(self.shown) >= MAX_SHOWN:
            texts: dict[str, Any] = {**facts.shown}
            return facts._replace(**texts)
        for name, masked in (facts.shown or {}).items():
            self.shown[getattr(facts, name)] = masked
        return facts

    def quoted(self, text: str) -> str:
        """Return a text that was counted in quotes, marked as `reasons.shown` does."""
        return quoted(self.shown.get(text, text))

    def _add_texts(self, ref: str, facts: RowFacts) -> None:
        if facts.label:
            self.labels.add(facts.label)
            if self.labels.counts[facts.label] <= self.max_rows_listed:
                self._remember(f"label {facts.label}", ref)
        if facts.prompt_opening:
            self.prompt_openings.add(facts.prompt_opening)
        if facts.answer_opening:
            self.answer_openings.add(facts.answer_opening)
            self.answer_endings.add(facts.answer_ending)
        if facts.first_sentence:
            self.first_sentences.add(facts.first_sentence)
        if facts.last_sentence:
            self.last_sentences.add(facts.last_sentence)
        if facts.system_key:
            self.num_systems += 1
            self.system_forms.add(facts.system_form)
        if not facts.system_key or facts.system_key in self.systems or len(self.systems) < MAX_SYSTEMS:
            self.systems[facts.system_key] += 1
            self.system_texts.setdefault(facts.system_key, facts.system)

    def _add_languages(self, ref: str, facts: RowFacts) -> None:
        known = facts.answer_language or facts.language
        if known:
            self.languages[known] += 1
            self._remember(f"language {known}", ref)
        asked = facts.language or facts.guessed_language
        if asked and facts.answer_language:
            self.num_language_pairs += 1
            self.prompt_languages[asked] += 1
            if asked != facts.answer_language:
                self.mismatched[asked, facts.answer_language, bool(facts.language)] += 1
                self._remember(f"mismatch {asked} {bool(facts.language)}", ref)

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
        if facts.kind == "pair":
            longer = facts.answer_chars - facts.rejected_chars
            self.chosen.append(facts.chosen_key)
            self.rejected.append(facts.rejected_key)
            self.pair_rows.append(len(self) - 1)
            self.num_longer["chosen" if longer > 0 else "rejected" if longer < 0 else "equal"] += 1
        if facts.is_good is not None:
            self.num_good[facts.is_good] += 1
        if facts.system_key:
            self._remember(f"system {facts.system_key}", ref)
        elif facts.kind != "tokens":
            self._remember("system ", ref)

    def _remember(self, name: str, ref: str) -> None:
        """Keep the first rows of things that may turn out to be rare, for as many things as a table holds."""
        if name in self.first or len(self.first) < 5 * MAX_SYSTEMS:
            kept = self.first[name]
            if len(kept) < self.max_rows_listed:
                kept.append(ref)

    def refs(self, indices: Iterable[int]) -> tuple[str, ...]:
        """Return `source:line` of rows by their number."""
        names = list(self.sources)
        return tuple(f"{names[self.places[0][index]]}:{self.places[1][index]}" for index in indices)

    def edges(self, place: str) -> Ints:
        """Return the checksum of how each answer begins or ends, shape (rows,)."""
        values: Any = self.openings if place == "begin" else self.endings
        return np.asarray(values, dtype=np.int64)

    def lengths(self, side: str) -> Ints:
        """Return the characters of each row's prompt or answer, shape (rows,)."""
        values: Any = self.prompt_lengths if side == "prompt" else self.answer_lengths
        return np.asarray(values, dtype=np.int64)
