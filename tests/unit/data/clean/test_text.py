"""Repairs of one text."""

from __future__ import annotations

import random

from ftfy.badness import is_bad

from trainer.data.clean.text import may_be_bad

SIGNS = "‚ƒ„…†‡ˆ‰‹Œ‘’“”•–—˜™›œ°×√≈вЂВГРСГўβ€ΒΓΞΟā©®│█▌.,?!abzAZ09" + " \n" * 4 + "aeiou" * 4
RIGHT = ["今天天气很好。", "Хорошая погода, правда?", "こんにちは、元気ですか", "안녕하세요", "plain"]


def test_the_look_at_words_misses_nothing_that_ftfy_calls_bad() -> None:
    rng = random.Random(1)
    signs = [*map(chr, range(0x80, 0x180)), *SIGNS]
    texts = ["".join(rng.choices(signs, k=rng.randint(1, 12))) for _ in range(30_000)]
    bad = [text for text in texts if is_bad(text)]
    assert len(bad) > 10_000 and all(map(may_be_bad, bad))


def test_ftfy_is_not_asked_about_text_of_one_script_that_is_right() -> None:
    assert not any(map(may_be_bad, RIGHT))
