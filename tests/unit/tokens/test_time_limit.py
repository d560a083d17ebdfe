"""A chat template that loops without end is a refused row, not a hang."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.rendering import Renderer
from tests.unit.tokens.test_chat import ONE_TURN, with_template
from trainer.errors import DataError
from trainer.tokens import time_limit

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{{ '' }}{% endfor %}{% endfor %}"


def test_a_template_that_loops_without_end_is_refused(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "MAX_SECONDS", 0.2)
    renderer = Renderer(with_template(tiny_tokenizer, ENDLESS))
    with pytest.raises(DataError, match=r"the chat template fails: it computes for more than 0\.2 s"):
        renderer.text(ONE_TURN, ONE_TURN["messages"])
    # the next rendering starts anew, in another thread too
    renderer.tokenizer.chat_template = "{{ messages[0].content }}"
    assert renderer.text(ONE_TURN, ONE_TURN["messages"]) == "Hi there"
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(renderer.text(ONE_TURN, ONE_TURN["messages"])))
    thread.start()
    thread.join(30)
    assert texts == ["Hi there"]
