"""Sign the same texts by MinHash with several libraries: 128 permutations of word pairs, in 32 bands.

Ours takes runs of five characters for short texts, and also makes the bits that rule out chance collisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np

from trainer.data.duplicates.jaccard import ComparableText
from trainer.data.duplicates.minhash import NUM_BANDS, NUM_PERMUTATIONS, ROWS_PER_BAND, band_texts

Sign = Callable[[Sequence[str]], object]


def ours() -> Sign:
    return lambda texts: band_texts([ComparableText("", text, "") for text in texts])


def datasketch() -> Sign:
    from datasketch import MinHash

    def sign(texts: Sequence[str]) -> list[object]:
        pairs = ([" ".join(pair).encode() for pair in pairwise(text.split())] for text in texts)
        return list(MinHash.generator(pairs, num_perm=NUM_PERMUTATIONS))

    return sign


def text_dedup() -> Sign:
    from text_dedup.minhash import embed_func
    from text_dedup.utils import xxh3_32hash

    top, prime = np.uint32((1 << 32) - 1), np.uint32((1 << 32) - 5)
    drawn = np.random.RandomState(0)
    more = {
        "num_perm": NUM_PERMUTATIONS,
        "ngram_size": 2,
        "min_length": 0,
        "hashranges": [(begin, begin + ROWS_PER_BAND) for begin in range(0, NUM_PERMUTATIONS, ROWS_PER_BAND)],
        "permutations": tuple(drawn.randint(low, prime, NUM_PERMUTATIONS, dtype=np.uint32) for low in (1, 0)),
        "hash_func": xxh3_32hash,
        "dtype": np.uint32,
        "max_hash": top,
        "modulo_prime": prime,
    }
    return lambda texts: [embed_func(text, number, **more) for number, text in enumerate(texts)]


def datatrove() -> Sign:
    from datatrove.pipeline.dedup import minhash
    from xxhash import xxh64_intdigest

    # Its own tokenizer is spaCy's, which takes far longer.
    minhash.load_word_tokenizer = lambda language: SimpleNamespace(word_tokenize=str.split)
    config = minhash.MinhashConfig(n_grams=2, num_buckets=NUM_BANDS, hashes_per_bucket=ROWS_PER_BAND)
    step = minhash.MinhashDedupSignature(".", config)
    step._hash_func = lambda text: xxh64_intdigest(text.encode())  # it passes text, which xxhash 4 refuses
    return lambda texts: [step.get_signature(step.get_shingles(text)) for text in texts]


def makers() -> Iterator[tuple[str, Sign | str]]:
    """Yield the name of each library with its signing function, or the reason that there is none."""
    for make in (ours, datasketch, datatrove, text_dedup):
        try:
            yield make.__name__, make()
        except ImportError as error:
            yield make.__name__, f"not measured: {error}"
