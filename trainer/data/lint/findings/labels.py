"""Find classes with several spellings: `billing`, `Billing`, `billing.`, `biling`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from trainer.data.lint.frequent import by_count

MIN_CLASS_ROWS = 5
MAX_SLIP_SHARE = 0.2
"""Largest share of the usual spelling's rows for a slip; a label with more rows is a class of its own."""
MIN_SLIP_CHARS = 6
MAX_COMPARED = 500
ENDS = " .,;:!?\"'`*()[]"


def variants(counts: Mapping[str, int]) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield each class with several spellings: the usual one, and the rows of the others.

    Example:
        >>> list(variants({"billing": 20, "Billing.": 2, "biling": 1, "fees": 9}))
        [('billing', {'Billing.': 2, 'biling': 1})]
    """
    groups = defaultdict[str, Counter[str]](Counter)
    for label, rows in counts.items():
        groups[_folded(label)][label] += rows
    sizes = Counter({key: group.total() for key, group in groups.items() if key})
    slips = dict(_slips(sizes))
    for key, _ in by_count(Counter({key: group.total() for key, group in groups.items()})):
        (usual, most), *spellings = by_count(groups[key])
        if not key or key in slips or most < MIN_CLASS_ROWS:
            continue
        spellings += [item for slip, target in slips.items() if target == key for item in groups[slip].items()]
        if spellings:
            yield usual, dict(spellings)


def _folded(label: str) -> str:
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").strip(ENDS).split())


def _slips(sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield rare labels one letter away from a frequent one, with that one. Numbers and codes are no slips."""
    words = [key for key in sizes if len(key) >= MIN_SLIP_CHARS and not any(map(str.isdigit, key))]
    frequent = sorted((key for key in words if sizes[key] >= MIN_CLASS_ROWS), key=lambda key: (-sizes[key], key))
    for rare in sorted(words, key=lambda key: (sizes[key], key))[:MAX_COMPARED]:
        for usual in frequent[:MAX_COMPARED]:
            if sizes[rare] > MAX_SLIP_SHARE * sizes[usual]:
                break
            if is_one_edit(rare, usual):
                yield rare, usual
                break


def is_one_edit(first: str, second: str) -> bool:
    """Tell whether two texts differ in one letter: inserted, deleted, replaced, or swapped with the next one."""
    if first == second or abs(len(first) - len(second)) > 1:
        return False
    short, long = sorted((first, second), key=len)
    start = next((index for index, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = long[start + 1 : start + 2] + long[start : start + 1]
    return short[start + 1 :] == long[start + 1 :] or short[start:] == swapped + long[start + 2 :]
