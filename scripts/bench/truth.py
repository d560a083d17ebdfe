"""Pairs of similar texts, found exhaustively and exactly: what the engine's findings are measured against."""

from __future__ import annotations

from collections import Counter, defaultdict


def pairs_above(texts: list[str], threshold: float) -> list[tuple[int, int]]:
    """Return all pairs of normalised texts whose word pairs have at least this Jaccard similarity.

    Two sets that similar share one of the rarest `size - ceil(threshold * size) + 1` members of each.

    Source: Chaudhuri, Ganti, Kaushik: A Primitive Operator for Similarity Joins in Data Cleaning, ICDE 2006.
    """
    sets = [{tuple(words[n : n + 2]) for n in range(max(len(words) - 1, 1))} for words in map(str.split, texts)]
    often = Counter(member for members in sets for member in members)
    waiting: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    found = []
    for index, members in enumerate(sets):
        rarest = sorted(members, key=lambda member: (often[member], member))
        prefix = rarest[: len(members) - -(-int(threshold * 1000) * len(members) // 1000) + 1]
        candidates = {other for member in prefix for other in waiting[member]}
        for other in candidates:
            shared = len(members & sets[other])
            if shared >= threshold * (len(members) + len(sets[other]) - shared):
                found.append((other, index))
        for member in prefix:
            waiting[member].append(index)
    return found
