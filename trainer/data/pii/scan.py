"""Scan one row for personal data and secrets: find values, act, and scan again."""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter

from trainer.data.pii.allow import Allowed
from trainer.data.pii.detectors.name_model import NameDetector
from trainer.data.pii.detectors.presidio import PresidioDetector
from trainer.data.pii.detectors.rule import Detector, Match
from trainer.data.pii.find import families, find_all, settle
from trainer.data.pii.findings import LeafMatches, PiiFinding, Scanned
from trainer.data.pii.fold import folded
from trainer.data.pii.replace.placeholders import placeholders
from trainer.data.pii.replace.pseudonyms import Pseudonyms
from trainer.data.pii.replace.residual import remains
from trainer.data.pii.replace.spans import after_escape, echo_pattern, may_come_again, replace
from trainer.data.pii.types import SECRETS, mask
from trainer.data.pii.walk import Leaf, leaves, rewritten
from trainer.data.records.kinds import Record
from trainer.data.records.reasons import RowError
from trainer.errors import HardwareError
from trainer.recipe.pii import CHANGING, Action, Pii

MIN_KEY_BYTES = 16


class Scanner:
    """Scans rows: finds values, acts, and scans again. Copies in other processes give the same results.

    Args:
        section: `data.pii`.
        special_tokens: tokens of the chat template; no replacement touches or makes one.

    Raises:
        HardwareError: The variable `key_env` is not set or too short, or an extra is missing.
    """

    def __init__(self, section: Pii, *, special_tokens: frozenset[str] = frozenset()) -> None:
        self._section = section
        self._actions: dict[str, Action] = {type_: action for type_, action in section.types.items()}
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
            RowError: The row is nested too deep.
        """
        try:
            return self._scan(record)
        except RecursionError:
            raise RowError("unsupported_content", "nested too deep to be scanned for personal data") from None

    def action_of(self, type_: str) -> Action:
        """Return the action of the recipe for a type. Types of the extras are only reported."""
        if ":" in type_:
            return "report"
        general = self._section.secrets if type_ in SECRETS else self._section.action
        return self._actions.get(type_, general)

    def _scan(self, record: Record) -> Scanned:
        matched = self.find(record)
        if not matched:
            return Scanned(record, "keep", {}, [])
        counts = dict(Counter(match.type for leaf in matched for match in leaf.matches))
        findings = [finding for leaf in matched for finding in self._findings(leaf)]
        actions = {finding.action for finding in findings}
        if "error" in actions:
            return Scanned(None, "error", counts, findings)
        if "drop" in actions:
            return Scanned(None, "drop", counts, findings)
        if not actions & (CHANGING | {"residual"}):
            return Scanned(record, "keep", counts, findings)
        return self._changed(record, matched, counts, findings)

    def _changed(
        self, record: Record, matched: list[LeafMatches], counts: dict[str, int], findings: list[PiiFinding]
    ) -> Scanned:
        """Replace values and scan the new row once."""
        issued: set[str] = set()
        by_path = {leaf.path: matches for leaf, matches in matched if not leaf.is_key}
        new = rewritten(record, lambda leaf: self._replaced(leaf, by_path.get(leaf.path, []), issued))
        residual = self._residual(new, issued) + [finding for finding in findings if finding.action == "residual"]
        if not residual or self._section.on_residual == "report":
            acted = [finding for finding in findings if finding.action != "residual"]
            return Scanned(new, "keep", counts, [*acted, *residual])
        return Scanned(None, self._section.on_residual, counts, [*findings, *residual])

    def _replaced(self, leaf: Leaf, matches: list[Match], issued: set[str]) -> str | int:
        """Return the new text of a leaf. A number stays a number if its replacement is one."""
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
                return self._words.word(type_)
            case "mask":
                return mask(type_, value)
            case "pseudonymise":
                return self._pseudonyms.stand_in(type_, value)
            case "report" | "drop" | "error":
                raise AssertionError("this action changes no text")

    def _residual(self, record: Record, issued: set[str]) -> list[PiiFinding]:
        """Return values left in the new row: by rule, or as random characters beside a placeholder."""
        findings: list[PiiFinding] = []
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
            findings += [finding._replace(action="residual") for finding in self._findings(LeafMatches(leaf, matches))]
        return findings

    def find(self, record: Record) -> list[LeafMatches]:
        """Return the leaves with values. A value in one leaf is searched in all others too."""
        row = leaves(record)
        matches = [self._matches(leaf) for leaf in row]
        if not any(matches):
            return []
        texts = [folded(leaf.text) for leaf in row]
        echoes = echo_pattern(may_come_again(list(zip(texts, matches, strict=True))))
        widened = (self._with_echoes(*leaf, echoes) for leaf in zip(row, texts, matches, strict=True))
        return [LeafMatches(leaf, matches) for leaf, matches in zip(row, widened, strict=True) if matches]

    def _with_echoes(
        self, leaf: Leaf, text: str, matches: list[Match], echoes: dict[str, re.Pattern[str]]
    ) -> list[Match]:
        again = [Match(*echo.span(), type_) for type_, pattern in echoes.items() for echo in pattern.finditer(text)]
        return self._words.outside_tokens(leaf.text, settle([*matches, *again]))

    def _matches(self, leaf: Leaf) -> list[Match]:
        """Return the values of one leaf. Its key counts as words before it."""
        text = leaf.lead + leaf.text
        matches = find_all(text, self._rules)
        if self._extras:
            matches = beside(matches, [match for detector in self._extras for match in detector.find(text)])
        if not matches:
            return matches
        offset = len(leaf.lead)
        moved = [Match(start - offset, end - offset, type_) for start, end, type_ in matches if start >= offset]
        values = [after_escape(leaf.text, match) for match in moved]
        banned = [match for match in values if not self._allowed(match.type, leaf.text[match.start : match.end])]
        return self._words.outside_tokens(leaf.text, banned)

    def _findings(self, matched: LeafMatches) -> list[PiiFinding]:
        leaf = matched.leaf
        actions = {match.type: self.action_of(match.type) for match in matched.matches}
        return [
            PiiFinding(
                match.type,
                leaf.path,
                "residual" if leaf.is_key and actions[match.type] in CHANGING else actions[match.type],
                sample,
            )
            for match, sample in matched.samples()
        ]


def blanked(text: str, issued: set[str]) -> str:
    """Replace pseudonyms and placeholders by blocks of their length, so that they are no context of what follows."""
    for stand_in in sorted(issued, key=len, reverse=True):
        text = text.replace(stand_in, "█" * len(stand_in))
    return text


def is_issued(value: str, issued: set[str]) -> bool:
    """Tell whether a value overlaps a replacement of this row."""
    return any(value in new or new in value for new in issued)


def beside(matches: list[Match], extra: list[Match]) -> list[Match]:
    """Add the matches of the extras. Shared characters stay with the rules, whose matches may be replaced."""
    apart = [match for match in extra if not any(peer.start < match.end and match.start < peer.end for peer in matches)]
    return sorted([*matches, *settle(apart)])


def _key(section: Pii) -> bytes:
    """Return the key of the pseudonyms from the environment, or a random one for this run."""
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
