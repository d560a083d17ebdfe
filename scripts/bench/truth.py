"""Find all pairs of similar texts exactly: the truth for the engine's findings."""

from __future__ import annotations

from collections import Counter, defaultdict


def pairs_above(texts: list[str], threshold: float) -> list[tuple[int, int]]:
    """Return all pairs of normalised texts whose word pairs have at least this Jaccard similarity.

    Two sets that similar share one of the rarest `size - ceil(threshold * size) + 1` members of each.

    Source: Chaudhuri, Ganti, Kaushik: A Primitive Operator for Similarity Joins in Data Cleaning, ICDE 2006.
    """
    sets = [{tuple(words[n : n + 2]) for n in range(max(len(words) - 1, 1))} for words in map(str.split, texts)]
    counts = Counter(member for members in sets for member in members)
    holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    pairs = []
    for index, members in enumerate(sets):
        rarest = sorted(members, key=lambda member: (counts[member], member))
        prefix = rarest[: len(members) - -(-int(threshold * 1000) * len(members) // 1000) + 1]
        candidates = {candidate for member in prefix for candidate in holders[member]}
        for candidate in candidates:
            shared = len(members & sets[candidate])
            if shared >= threshold * (len(members) + len(sets[candidate]) - shared):
                pairs.append((candidate, index))
        for member in prefix:
            holders[member].append(index)
    return pairs
