"""Tell whether right answers are labels that the training rows know, or facts that may stand in documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

MIN_KNOWN = 0.9
"""Share of what held-out answers say that the training answers must say too."""
MIN_REPEATS = 2.0
"""Training values for each different one: labels come back, facts hardly do."""


def is_closed_set(references: Sequence[str], trained: Iterable[str]) -> bool:
    """Tell whether held-out answers hold only what the training answers hold, each several times.

    Example:
        >>> is_closed_set(["refund"], ["refund", "refund", "delivery", "delivery"])
        True
        >>> is_closed_set(["Paris"], ["Rome", "Oslo"])
        False

    JSON answers are compared value by value, so that two labels in one object count as two. Numbers between 0 and 1
    that are no integers, such as confidences, say nothing.
    """
    counts = Counter(value for text in trained for value in _values(text))
    expected = [value for text in references for value in _values(text)]
    if not expected or not counts:
        return False
    share = sum(value in counts for value in expected) / len(expected)
    return share >= MIN_KNOWN and counts.total() / len(counts) >= MIN_REPEATS


def _values(text: str) -> Iterator[str]:
    try:
        answer = json.loads(text)
    except ValueError:
        yield text.strip()
        return
    yield from _leaves(answer)


def _leaves(answer: object) -> Iterator[str]:
    match answer:
        case dict():
            for key, value in answer.items():
                yield from (f"{key}: {leaf}" for leaf in _leaves(value))
        case list():
            for value in answer:
                yield from _leaves(value)
        case float() if 0 < answer < 1:
            return
        case _:
            yield json.dumps(answer, ensure_ascii=False)
