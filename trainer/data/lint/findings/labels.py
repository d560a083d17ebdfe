"""Find classes that are spelled in several ways: `billing`, `Billing`, `billing.`, `biling`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

MIN_CLASS_ROWS = 5
MAX_SLIP_SHARE = 0.2
"""A spelling with more rows than this share of the usual one's, one letter apart, is a class of its own."""
MIN_SLIP_CHARS = 6
MAX_COMPARED = 500
ENDS = " .,;:!?\"'`*()[]"


def variants(counts: Mapping[str, int]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield each class that is spelled in several ways, and its other spellings with their rows."""
    groups = defaultdict[str, Counter[str]](Counter)
    for label, rows in counts.items():
        groups[_folded(label)][label] += rows
    sizes = {key: group.total() for key, group in groups.items() if key}
    slips = dict(_slips(sizes))
    for key, group in sorted(groups.items(), key=lambda item: (-item[1].total(), item[0])):
        (usual, most), *others = sorted(group.items(), key=lambda item: (-item[1], item[0]))
        if not key or key in slips or most < MIN_CLASS_ROWS:
            continue
        others += [item for slip, of in slips.items() if of == key for item in groups[slip].items()]
        if others:
            yield usual, dict(others)


def _folded(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").strip(ENDS).split())


def _slips(sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield rare labels one letter away from a frequent one, with that one; numbers and codes are no slips."""
    words = [key for key in sizes if len(key) >= MIN_SLIP_CHARS and not any(map(str.isdigit, key))]
    frequent = sorted((key for key in words if sizes[key] >= MIN_CLASS_ROWS), key=lambda key: (-sizes[key], key))
    for rare in sorted(words, key=lambda key: (sizes[key], key))[:MAX_COMPARED]:
        for usual in frequent[:MAX_COMPARED]:
            if sizes[rare] > MAX_SLIP_SHARE * sizes[usual]:
                break
            if abs(len(rare) - len(usual)) <= 1 and is_one_edit(rare, usual):
                yield rare, usual
                break


def is_one_edit(one: str, other: str) -> bool:
    """Tell texts that one letter more, less or other turns into each other, or two that changed places."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    short, long = sorted((one, other), key=len)
    start = next((index for index, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = long[start + 1 : start + 2] + long[start : start + 1]
    return short[start + 1 :] == long[start + 1 :] or (
        short[start : start + 2] == swapped and short[start + 2 :] == long[start + 2 :]
    )
