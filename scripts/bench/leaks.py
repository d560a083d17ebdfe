"""Measure recall of secrets by kind, false alarms and speed, beside installed libraries.

    python -m scripts.bench.leaks                     # ours
    pip install detect-secrets credsweeper              # in an environment of their own
    python -m scripts.bench.leaks --engine detect-secrets

A value counts as found if all of its characters are covered. Libraries without positions are compared by value.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator

from tests.unit.data.pii.secret_kinds import FIXED, INNOCENT, NAMED, TEXTS

Covers = Callable[[str, str], bool]
"""Function from text and value to whether the whole value is found."""
Engine = tuple[Covers, Callable[[str], bool]]
"""How it covers a value, and whether it flags a text."""
DRAWS = 24


def ours() -> Engine:
    from trainer.data.pii.find import families, find_all
    from trainer.data.pii.types import SECRETS

    rules = families(("US", "GB", "DE"))

    def spans(text: str) -> list[tuple[int, int]]:
        return [(match.start, match.end) for match in find_all(text, rules) if match.type in SECRETS]

    def covers(text: str, value: str) -> bool:
        start = text.index(value)
        return any(first <= start + lead(value) and start + len(value) <= end for first, end in spans(text))

    return covers, lambda text: bool(spans(text))


def lead(value: str) -> int:
    """Return the length of the name before the secret in a value: `AccountName=...;AccountKey=`."""
    if value.startswith(("AccountName", "SharedAccessKey", "sv=")):
        return max(
            value.rfind(mark) + len(mark) for mark in ("AccountKey=", "SharedAccessKey=", "sig=") if mark in value
        )
    return value.index("//") + 2 if value.startswith("https://") else 0


def by_values(values: Callable[[str], set[str]]) -> Engine:
    """Build the engine of a library that returns values without positions."""

    def covers(text: str, value: str) -> bool:
        return any(value in secret or (secret in value and len(secret) > 0.8 * len(value)) for secret in values(text))

    return covers, lambda text: bool(values(text))


def detect_secrets() -> Engine:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    def values(text: str) -> set[str]:
        with default_settings():
            return {secret.secret_value or "" for line in text.split("\n") for secret in scan_line(line)}

    return by_values(values)


def credsweeper() -> Engine:
    from credsweeper.app import CredSweeper
    from credsweeper.file_handler.byte_content_provider import ByteContentProvider

    engine = CredSweeper(severity="info")

    def values(text: str) -> set[str]:
        candidates = engine.file_scan(ByteContentProvider(text.encode(), file_path="rows.txt", file_type=".txt"))
        return {line.value or "" for candidate in candidates for line in candidate.line_data_list}

    return by_values(values)


ENGINES = {"ours": ours, "detect-secrets": detect_secrets, "credsweeper": credsweeper}


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield kind, text and value."""
    for kind, draw in FIXED.items():
        rng = random.Random(kind)
        for index in range(DRAWS):
            value = draw(rng)
            yield kind, TEXTS[index % len(TEXTS)].format(value), value
    for kind, write in NAMED.items():
        rng = random.Random(kind)
        for _ in range(DRAWS):
            yield kind, *write(rng)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", choices=ENGINES, default="ours")
    covers, alarms = ENGINES[parser.parse_args().engine]()
    hits: dict[str, list[bool]] = {}
    started = time.process_time()
    for kind, text, value in cases():
        hits.setdefault(kind, []).append(covers(text, value))
    seconds = time.process_time() - started
    recalls = {kind: sum(covered) / len(covered) for kind, covered in hits.items()}
    for kind, recall in sorted(recalls.items(), key=lambda item: item[1]):
        if recall < 0.98:
            print(f"{kind:28s} {recall:6.1%}")
    print(f"kinds at 98 % or more: {sum(recall >= 0.98 for recall in recalls.values())} of {len(recalls)}")
    print(f"kinds never found: {sum(recall == 0 for recall in recalls.values())}")
    wrong = [text for text in INNOCENT if alarms(text)]
    print(f"innocent texts flagged: {len(wrong)} of {len(INNOCENT)}", *wrong, sep="\n  ")
    print(f"{sum(map(len, hits.values())) / seconds:,.0f} texts a cpu-second")


if __name__ == "__main__":
    main()
