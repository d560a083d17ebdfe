"""Personal data and secrets of one row: find them everywhere, act, look again."""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from trainer.data.pii.allow import Allowed
from trainer.data.pii.fold import folded
from trainer.data.pii.masking import mask, sample
from trainer.data.pii.name_model import NameDetector
from trainer.data.pii.placeholders import placeholders
from trainer.data.pii.presidio import PresidioDetector
from trainer.data.pii.pseudonyms import Pseudonyms
from trainer.data.pii.replace import after_escape, echo_pattern, may_come_again, replace
from trainer.data.pii.residual import remains
from trainer.data.pii.rule import Detector, Match
from trainer.data.pii.rules import SECRETS, families, find_all, settle
from trainer.data.pii.walk import Leaf, leaves, rewritten
from trainer.data.records.kinds import Record
from trainer.data.records.reasons import RowError
from trainer.errors import DataError, HardwareError
from trainer.recipe.pii import CHANGING, Action, Pii

Verdict = Literal["keep", "drop", "error"]

MIN_KEY_BYTES = 16


class PiiFinding(NamedTuple):
    """One found value, told without showing it.

    Args:
        type: of the value.
        path: its place in the row.
        action: what was done; `residual` where something is left after the action.
        sample: masked value with a little text around.
    """

    type: str
    path: str
    action: str
    sample: str


class Scanned(NamedTuple):
    """A row after the scan.

    Args:
        record: the row; the same object where nothing was replaced, None where it is dropped or refused.
        verdict: keep, drop, or error: the stage must stop.
        counts: values found, by type.
        findings: one for each value.
    """

    record: Record | None
    verdict: Verdict
    counts: dict[str, int]
    findings: list[PiiFinding]

    def kept(self, source: str, line: int) -> Record:
        """Return the row, where the recipe lets it pass.

        Raises:
            RowError: It is left out.
            DataError: It stops the stage.
        """
        if self.verdict == "error":
            raise refusal(source, line, self.findings)
        if self.record is None:
            raise RowError("personal_data", ", ".join(sorted(self.counts)))
        return self.record


class FoundIn(NamedTuple):
    """What is found in one leaf."""

    leaf: Leaf
    matches: list[Match]


class Scanner:
    """Scans rows; the same row gives the same result in every process that has a copy of one scanner.

    Args:
        section: `data.pii`.
        special_tokens: of the chat template; no replacement touches or makes one.

    Raises:
        HardwareError: the variable `key_env` is not set or too short, or an extra is missing.
    """

    def __init__(self, section: Pii, *, special_tokens: frozenset[str] = frozenset()) -> None:
        self._section = section
        self._rules = families(section.phone_regions)
        self._allowed = Allowed(tuple(section.allow))
        self._words = placeholders(special_tokens)
        self._pseudonyms = Pseudonyms(_key(section), self._rules, self._words)
        self._extras: tuple[Detector, ...] = (
            *((PresidioDetector(section.presidio),) if section.presidio else ()),
            *((NameDetector(section.name_model),) if section.name_model else ()),
        )

    def __repr__(self) -> str:
        return "Scanner(key hidden)"

    def __call__(self, record: Record) -> Scanned:
        """Scan one row and act on what is found.

        Raises:
            RowError: the row is nested too deep to be read.
        """
        try:
            return self._scan(record)
        except RecursionError:
            raise RowError("unsupported_content", "nested too deep to be scanned for personal data") from None

    def action_of(self, type_: str) -> Action:
        """Return what the recipe does about a type; the extras only report."""
        if ":" in type_:
            return "report"
        general = self._section.secrets if type_ in SECRETS else self._section.action
        return {**self._section.types}.get(type_, general)  # type: ignore[call-overload,no-any-return]

    def _scan(self, record: Record) -> Scanned:
        found = self.found(record)
        if not found:
            return Scanned(record, "keep", {}, [])
        counts = Counter(match.type for each in found for match in each.matches)
        findings = [finding for each in found for finding in self._findings(each)]
        actions = {finding.action for finding in findings}
        if "error" in actions:
            return Scanned(None, "error", dict(counts), findings)
        if "drop" in actions:
            return Scanned(None, "drop", dict(counts), findings)
        if not actions & (CHANGING | {"residual"}):
            return Scanned(record, "keep", dict(counts), findings)
        return self._changed(record, found, dict(counts), findings)

    def _changed(
        self, record: Record, found: list[FoundIn], counts: dict[str, int], findings: list[PiiFinding]
    ) -> Scanned:
        """Replace what is to be replaced and scan once more."""
        issued: set[str] = set()
        by_path = {each.leaf.path: each.matches for each in found if not each.leaf.is_key}
        new = rewritten(record, lambda leaf: self._replaced(leaf, by_path.get(leaf.path, []), issued))
        left = self._residual(new, issued) + [finding for finding in findings if finding.action == "residual"]
        if not left or self._section.on_residual == "report":
            known = [finding for finding in findings if finding.action != "residual"]
            return Scanned(new, "keep", counts, [*known, *left])
        return Scanned(None, self._section.on_residual, counts, [*findings, *left])

    def _replaced(self, leaf: Leaf, matches: list[Match], issued: set[str]) -> Any:
        """Return the text of a leaf after the actions; a number stays one where its stand-in is one."""
        changing = [match for match in matches if self.action_of(match.type) in CHANGING]
        if not changing:
            return leaf.text

        def replacement(type_: str, value: str) -> str:
            new = self._replacement(type_, value)
            issued.add(new)
            return new

        text = replace(leaf.text, changing, replacement)
        return int(text) if leaf.is_number and re.fullmatch(r"[1-9]\d*", text) else text

    def _replacement(self, type_: str, value: str) -> str:
        match self.action_of(type_):
            case "redact":
                return self._words.of(type_)
            case "mask":
                return mask(type_, value)
            case "pseudonymise":
                return self._pseudonyms.stand_in(type_, value)
        raise AssertionError("only these actions change a text")

    def _residual(self, record: Record, issued: set[str]) -> list[PiiFinding]:
        """Return what is left of the types that were to be replaced: found by rule, or drawn and beside a stand-in."""
        left: list[PiiFinding] = []
        secret_words = {word for word in issued if self._words.names(word, SECRETS)}
        for leaf in leaves(record):
            if leaf.is_key:
                continue
            matches = [
                match
                for match in self._matches(leaf._replace(text=blanked(leaf.text, issued)))
                if self.action_of(match.type) in CHANGING and not is_issued(leaf.text[match.start : match.end], issued)
            ]
            matches = settle([*matches, *remains(leaf.text, secret_words)])
            left += [finding._replace(action="residual") for finding in self._findings(FoundIn(leaf, matches))]
        return left

    def found(self, record: Record) -> list[FoundIn]:
        """Return the leaves that hold something, with every echo of a value that was found elsewhere in the row."""
        every = leaves(record)
        listed = [self._matches(leaf) for leaf in every]
        if not any(listed):
            return []
        texts = [folded(leaf.text) for leaf in every]
        echoes = echo_pattern(may_come_again(list(zip(texts, listed, strict=True))))
        widened = [self._echoed(leaf, matches, echoes) for leaf, matches in zip(every, listed, strict=True)]
        return [FoundIn(leaf, matches) for leaf, matches in zip(every, widened, strict=True) if matches]

    def _echoed(self, leaf: Leaf, matches: list[Match], echoes: dict[str, re.Pattern[str]]) -> list[Match]:
        again = [
            Match(*hit.span(), type_) for type_, echo in echoes.items() for hit in echo.finditer(folded(leaf.text))
        ]
        return self._words.outside_tokens(leaf.text, settle([*matches, *again]))

    def _matches(self, leaf: Leaf) -> list[Match]:
        """Return what stands in one leaf; its key counts as words before it."""
        text = leaf.lead + leaf.text
        found = find_all(text, self._rules)
        if self._extras:
            found = beside(found, [match for detector in self._extras for match in detector.find(text)])
        if not found:
            return found
        offset = len(leaf.lead)
        moved = [Match(start - offset, end - offset, type_) for start, end, type_ in found if start >= offset]
        shown = [after_escape(leaf.text, match) for match in moved]
        kept = [match for match in shown if not self._allowed(match.type, leaf.text[match.start : match.end])]
        return self._words.outside_tokens(leaf.text, kept)

    def _findings(self, found: FoundIn) -> list[PiiFinding]:
        """Tell the values of a leaf, each in the masked text around it."""
        leaf, matches = found
        pieces, spans, end = "", [], 0
        for match in matches:
            pieces += leaf.text[end : match.start]
            hidden = mask(match.type, leaf.text[match.start : match.end])
            spans.append((len(pieces), len(pieces) + len(hidden)))
            pieces, end = pieces + hidden, match.end
        pieces += leaf.text[end:]
        return [
            PiiFinding(match.type, leaf.path, self._told(leaf, match.type), sample(pieces, *span))
            for match, span in zip(matches, spans, strict=True)
        ]

    def _told(self, leaf: Leaf, type_: str) -> str:
        action = self.action_of(type_)
        return "residual" if leaf.is_key and action in CHANGING else action


def blanked(text: str, issued: set[str]) -> str:
    """Return the text with its stand-ins as blocks of the same length: their words say nothing about what follows."""
    for stand_in in sorted(issued, key=len, reverse=True):
        text = text.replace(stand_in, "█" * len(stand_in))
    return text


def is_issued(value: str, issued: set[str]) -> bool:
    """Tell whether what is found again is a stand-in of this row."""
    return any(value in new or new in value for new in issued)


def beside(found: list[Match], extra: list[Match]) -> list[Match]:
    """Add what the extras found to what the rules found; shared characters stay with the rules, which may act."""
    apart = [match for match in extra if not any(own.start < match.end and match.start < own.end for own in found)]
    return sorted([*found, *settle(apart)])


def refusal(source: str, line: int, findings: Iterable[PiiFinding]) -> DataError:
    """Build the error that stops the stage, without a found value in it.

    Args:
        source: file of the row.
        line: its line.
        findings: of the row.
    """
    stopping = [finding for finding in findings if finding.action in ("error", "residual")]
    first = stopping[0]
    why = "left after the action" if first.action == "residual" else "found"
    more = f" and {len(stopping) - 1} more" if len(stopping) > 1 else ""
    return DataError(
        f"{source}:{line}: {first.path}: {first.type} {why}{more}: {first.sample}",
        hint="correct or remove the row, name the value under data.pii.allow, or set "
        + ("data.pii.on_residual: drop" if first.action == "residual" else f"data.pii.types: {{{first.type}: redact}}"),
    )


def _key(section: Pii) -> bytes:
    """Return the key of the pseudonyms: from the environment, or a new one that is never written down."""
    if section.key_env is None:
        return secrets.token_bytes(32)
    key = os.environ.get(section.key_env, "").encode()
    if len(key) < MIN_KEY_BYTES:
        state = f"holds {len(key)} bytes, of {MIN_KEY_BYTES} or more" if key else "is not set"
        raise HardwareError(
            f"data.pii.key_env: the environment variable {section.key_env} {state}",
            hint=f"export {section.key_env}=$(openssl rand -hex 32), and keep it to get the same stand-ins again",
        )
    return key
