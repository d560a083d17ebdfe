from __future__ import annotations

import json

import pytest

from trainer.decide.closed_set import is_closed_set

LABELS = [json.dumps({"chapter": number % 7}) for number in range(70)]
TWO = [json.dumps({"code": f"A{n % 5}", "kind": f"k{n % 3}", "confidence": 0.8 + n / 1000}) for n in range(60)]
CASES = {
    "labels": (["yes", "no"] * 20, ["no", "yes"] * 50, True),
    "labels as JSON": (LABELS[:20], LABELS, True),
    "two labels in one object, in new pairs": (TWO[:9], TWO[10:], True),
    "facts": ([f"Mr {n}" for n in range(20)], [f"Ms {n}" for n in range(90)], False),
    "facts that were seen once": ([f"Mr {n}" for n in range(20)], [f"Mr {n}" for n in range(90)], False),
    "some labels are new": (["a", "b", "c"] * 5, ["a", "b"] * 20, False),
    "no training rows": (["a"] * 9, [], False),
    "no references": ([], ["a"] * 9, False),
}


@pytest.mark.parametrize(("references", "trained_answers", "closed"), CASES.values(), ids=CASES)
def test_a_closed_set_holds_what_training_answers_repeat(
    references: list[str], trained_answers: list[str], closed: bool
) -> None:
    assert is_closed_set(references, trained_answers) is closed
